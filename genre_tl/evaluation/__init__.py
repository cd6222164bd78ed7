"""Scores → metrics, confidence intervals and plots.

`metrics` measures taggers and classifiers, with `intervals` that say how certain an
accuracy or a difference is. `plots` draws learning curves, confusion matrices and
taggrams; `text_chart` draws scores for a terminal. Nothing here needs TensorFlow.
"""
