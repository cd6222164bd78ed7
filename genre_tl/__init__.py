"""Music genre transfer learning: from audio files to a served classifier.

The data flows through the modules in this order:

  params            every number, with its unit
  files             what is written appears whole or not at all
  folders           which files below a folder are audio
  datasets          folders and tables -> paths, labels, groups
  tables            a CSV of paths and labels -> the same
  splits            labels, groups -> rows to train, validate, test
  synthesis         pieces of music -> sound
  synthetic         the demo corpus
  resampling        waveform at one rate -> at another
  mp3               MP3 files -> streams without damage
  audio             files -> mono waveform at 16 kHz
  wavelets          kymatio's transform: wavelets, paths, shapes
  multirate         the transform as convolutions at falling rates
  cascade           the same as TensorFlow operations
  scattering        the same as Keras layers, log-scattering frames
  evaluation        scores -> metrics
  intervals         figures of folds -> means, and how sure they are
  figures           how a picture looks
  plots             metrics -> pictures
  sound_plots       scores over time, scattering -> pictures
  feature_store     frames on disk: shards, index, checksums
  extraction        files -> feature store
  input_pipeline    feature store -> batches
  gru               the recurrent layer
  models            frames -> GRU backbone -> tags or genres
  inference         a trained network as plain functions of its weights
  learning          optimizer, graphs of steps, checkpoints
  head_pull         how far a head may leave the tags it begins with
  fitting           training by epochs, scores
  runs              a training run: its folder, epochs, resumption
  training          pretrain, finetune, evaluate
  records           a cross-validation's folder: settings, finished folds
  cross_validation  folds x repeats: transfer, random start, SVM
  reports           a cross-validation as Markdown, JSON, pictures
  wav               encoded WAV -> waveform at 16 kHz, inside a graph
  signatures        what a SavedModel answers: scores, taggram, embedding
  warmup            requests and settings that ship with a SavedModel
  model_card        what is known about a model, for people
  export_checks     what a SavedModel must pass
  formats           TensorFlow Lite, and Keras files from waveforms
  serving           SavedModel: export, publish, predict
  prediction        files -> scores, embeddings, scores over time
  exploration       a recording -> numbers for pictures, neighbours

Nothing heavy is imported here: `from genre_tl import scattering`.
"""

__version__ = "0.1.0"
