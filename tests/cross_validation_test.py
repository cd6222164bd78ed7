"""Folds of a tiny network on features made up here."""

import dataclasses
import json
import multiprocessing
import os
import pathlib
import random
import signal
import time

import numpy as np
import pytest
import training_test

from genre_tl import cross_validation, params, reports, training

TINY = training_test.TINY
TINY = dataclasses.replace(
    TINY, finetune=dataclasses.replace(TINY.finetune, max_epochs=2, crop_frames=16)
)
PLAN = cross_validation.Plan(num_folds=3, num_repeats=2, seed=4)


def _data(seed=0):
    made = training_test._data(False, seed=seed)
    return cross_validation.Data(made.features, made.table)
