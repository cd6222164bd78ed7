"""Music genre transfer learning: from audio files to a served classifier.

The data flows through the packages in this order; each imports only those above it:

  params      every number, with its unit; the presets
  storage     object stores such as S3, through a cache
  files       atomic writes, locks
  workers     units of work in this process or in several
  starter     finds the model that ships
  backend     refuses another Keras backend than TensorFlow
  data        folders and tables → paths, labels, splits
  audio       files → mono waveforms at 16 kHz
  scattering  waveforms → scattering coefficients, as Keras layers
  features    waveforms → log-scattering frames on disk → batches
  model       frames → five GRU layers → tags or genres
  evaluation  scores → metrics, intervals, plots
  training    pre-training, fine-tuning, cross-validation
  serving     SavedModels, and predictions from them
  library     predictions → a catalogue, genre tags, playlists

Nothing heavy is imported here: `from genre_tl import scattering`.
"""

__version__ = "0.1.0"
