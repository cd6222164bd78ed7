"""Batches to trained models: pre-training, fine-tuning, cross-validation.

`run_folder` keeps a run on disk, so that an interrupted one resumes;
`cross_validation` compares transfer, random weights and an SVM on the same folds;
`report` writes its results as Markdown, JSON and pictures.
"""
