"""Synthesises the demo corpus: a small tagged and a small genre collection.

  python -m tools.make_demo_corpus --output_dir demo/corpus

writes `tagged` (in MagnaTagATune's layout) and `genres` (in GTZAN's) below the
folder, in a few seconds. A second call with the same flags does nothing.
"""

from __future__ import annotations

from absl import flags

from . import command
from .demo_corpus import builder

_DEFAULT = builder.Corpus()

_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder to make.", required=True)
_NUM_TAGGED = flags.DEFINE_integer(
    "num_tagged", _DEFAULT.num_tagged, "Clips of the tagged part."
)
_CLIPS_PER_GENRE = flags.DEFINE_integer(
    "clips_per_genre", _DEFAULT.clips_per_genre, "Clips of each of the ten genres."
)
_CLIP_SECS = flags.DEFINE_float(
    "clip_secs", _DEFAULT.clip_secs, "Length of a clip in seconds, 1 to 60."
)
_DIFFICULTY = flags.DEFINE_float(
    "difficulty", _DEFAULT.difficulty, "0 (genres keep to their style) to 1."
)
_SEED = flags.DEFINE_integer(
    "seed", _DEFAULT.seed, "The same seed gives the same corpus."
)


def main(argv: list[str]) -> None:
    del argv
    corpus = builder.Corpus(
        num_tagged=_NUM_TAGGED.value,
        clips_per_genre=_CLIPS_PER_GENRE.value,
        clip_secs=_CLIP_SECS.value,
        seed=_SEED.value,
        difficulty=_DIFFICULTY.value,
    )
    builder.write(_OUTPUT_DIR.value, corpus)
    num_genre_clips = 10 * corpus.clips_per_genre
    print(
        f"{_OUTPUT_DIR.value}: {corpus.num_tagged} tagged clips in tagged, "
        f"{num_genre_clips} clips of ten genres in genres, "
        f"{corpus.clip_secs:g} s each"
    )


def cli() -> None:
    command.run(main)


if __name__ == "__main__":
    cli()
