"""A folder of genre folders as a table of clips."""

from __future__ import annotations

import os

import numpy as np

from genre_tl.data import audio_files, datasets


def load(root: str | os.PathLike[str]) -> datasets.Dataset:
    """Loads a folder that has one folder of audio files for each genre.

    Files may lie at any depth. A sub-folder of a genre (an artist, an album) is one
    group; a file directly in the genre folder is a group of its own.

    Raises:
      ValueError: if there are fewer than two genres, or one without audio files.
      OSError: if the folder does not exist or cannot be read.
    """
    root = datasets.existing_folder(root)
    vocabulary = tuple(folder.name for folder in audio_files.subfolders(root))
    if len(vocabulary) < 2:
        raise ValueError(
            f"{root}: {datasets.counted(vocabulary, 'genre folder')}; at least 2 are "
            "needed, each with the audio files of its genre"
        )
    datasets.warn_about_similar_labels(str(root), vocabulary)
    paths, skipped = audio_files.scan(root)
    genres = np.array([path.split("/")[0] for path in paths])
    dataset = datasets.Dataset(
        name="folder",
        root=root,
        paths=tuple(paths),
        labels=(genres[:, np.newaxis] == np.array(vocabulary)).astype(np.uint8),
        vocabulary=vocabulary,
        # genre/artist/album/clip.wav: the artist; genre/clip.wav: the clip.
        groups=tuple("/".join(path.split("/")[:2]) for path in paths),
        multi_label=False,
        skipped=tuple(sorted(skipped.items())),
    )
    refuse_empty_genres(dataset)
    return dataset


def refuse_empty_genres(dataset: datasets.Dataset) -> None:
    """Raises ValueError if a genre has no clips."""
    empty = np.array(dataset.vocabulary)[~dataset.labels.any(axis=0)]
    if empty.size:
        raise ValueError(
            f"{dataset.root}: {datasets.counted(empty.tolist(), 'genre')} without "
            f"audio files ({' '.join(sorted(audio_files.AUDIO_SUFFIXES))}); add some, "
            "or remove the folder"
        )
