"""Music genre transfer learning: from audio files to a served classifier.

The data flows through the modules in this order:

  params            every number, with its unit
  datasets          folders and tables -> paths, labels, groups
  splits            labels, groups -> rows to train, validate, test
  synthesis         pieces of music -> sound
  synthetic         the demo corpus
  audio             files -> mono waveform at 16 kHz
  wavelets          kymatio's filters, cut to slices of the spectrum
  scattering        waveform -> log-scattering frames
  evaluation        scores -> metrics
  plots             metrics -> pictures
  feature_store     frames on disk: shards, index, checksums
  extraction        files -> feature store
  input_pipeline    feature store -> tf.data batches
  models            frames -> GRU backbone -> tags or genres
  fitting           an epoch of training
  runs              a training run: its folder, epochs, resumption
  training          pretrain, finetune, evaluate
  records           a cross-validation's folder: settings, finished folds
  cross_validation  folds x repeats: transfer, random start, SVM
  reports           a cross-validation as Markdown, JSON, pictures
  export_checks     what a SavedModel must pass
  serving           SavedModel: export, publish, predict

Nothing heavy is imported here: `from genre_tl import scattering`.
"""

__version__ = "0.1.0"
