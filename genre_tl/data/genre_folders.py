"""A folder of genre folders as a table of clips."""

from __future__ import annotations

import os
import pathlib

import numpy as np

from genre_tl.data import audio_files, datasets


def load(root: str | os.PathLike[str]) -> datasets.Dataset:
    """Loads a folder that has one subfolder for each genre.

    Audio files may lie at any depth. A folder directly below a genre (an artist, an
    album) is one group; a file directly in the genre folder is a group of its own.

    Raises:
      ValueError: if there are fewer than two genres, or one without audio files.
    """
    root = pathlib.Path(root)
    vocabulary = tuple(folder.name for folder in audio_files.subfolders(root))
    datasets.check_labels(root, vocabulary, "genre folder")
    paths, skipped = audio_files.scan(root)
    genres = [path.split("/")[0] for path in paths]
    if empty := sorted(set(vocabulary) - set(genres)):
        raise ValueError(
            f"{root}: {datasets.counted(empty, 'genre')} without audio files "
            f"({' '.join(sorted(audio_files.AUDIO_SUFFIXES))}); add some or remove it"
        )
    return datasets.Dataset(
        name="folder",
        root=root,
        paths=tuple(paths),
        labels=np.eye(len(vocabulary), dtype=np.uint8)[
            list(map(vocabulary.index, genres))
        ],
        vocabulary=vocabulary,
        # genre/artist/album/clip.wav: the artist; genre/clip.wav: the clip.
        groups=tuple("/".join(path.split("/")[:2]) for path in paths),
        multi_label=False,
        skipped=tuple(sorted(skipped.items())),
    )
