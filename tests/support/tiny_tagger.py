"""A tiny exported tagger, unchecked, and sounds that it tells apart."""

import numpy as np
import soundfile

from genre_tl.model import networks
from genre_tl.serving import model_card, saved_model
from support import starter_tree, tiny_export

RATE_HZ = 8_000


def save(base, digest="0" * 64):
    """Saves the tagger as version 1 in a folder; returns the folder."""
    tags = starter_tree.TAGS
    preset, size = tiny_export.PRESET, tiny_export.num_paths()
    network = networks.tagger(preset.model, size, len(tags), seed=3)
    network = tiny_export.sensitive(network)
    trained = saved_model.TrainedModel(network, preset.frontend, tags)
    saved_model.save(trained, base / "1")
    card = model_card.from_run(starter_tree.RECORD, "tagger", digest)
    model_card.write(base / "1", card | trained.facts())
    return base


def sound(genre, seed, secs=1):
    """Noise, or a low tone."""
    chance = np.random.default_rng(seed)
    if genre == "noise":
        return chance.uniform(-0.5, 0.5, secs * RATE_HZ)
    hertz = chance.uniform(90, 120)
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(secs * RATE_HZ) / RATE_HZ)


def write(path, genre, seed, secs=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound(genre, seed, secs), RATE_HZ)
    return path
