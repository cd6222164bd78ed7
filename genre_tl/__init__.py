"""Music genre transfer learning: from audio files to a served classifier.

The data flows through the modules in this order:

  params          every number, with its unit
  datasets        folders and tables -> paths, labels, groups
  splits          labels, groups -> rows to train, validate, test
  synthesis       pieces of music -> sound
  synthetic       the demo corpus
  audio           files -> mono waveform at 16 kHz
  scattering      waveform -> log-scattering frames
  evaluation      scores -> metrics
  plots           metrics -> pictures
  input_pipeline  table -> feature store -> tf.data batches
  models          frames -> GRU backbone -> tags or genres
  training        pretrain, finetune: run folders
  serving         SavedModel: export, check, predict

Nothing heavy is imported here: `from genre_tl import scattering`.
"""

__version__ = "0.1.0"
