"""Training runs: frames and labels in, run folders with a model and metrics out.

`run_folder` keeps a run's identity, history and checkpoints; `fitting` compiles models
and fits them; `pretrain` trains taggers, `finetune` genre classifiers.
`cross_validation` compares ways of training on the same folds; `report` sums it up.
"""
