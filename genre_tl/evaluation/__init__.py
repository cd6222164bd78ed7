"""Scores to metrics, confidence intervals and pictures.

`metrics` measures taggers and classifiers; `intervals` says how certain a mean over
folds is; `plots` draws curves and confusion matrices; `audio_plots` draws scores
over time and scattering coefficients.
"""
