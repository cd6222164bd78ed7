"""Synthesises the demo corpus: a small tagged and a small genre collection.

  python -m tools.make_demo_corpus --output_dir=demo/corpus

Writes `tagged` (laid out as MagnaTagATune) and `genres` (laid out as GTZAN) in a few
seconds. Running the same command again does nothing.
"""

from __future__ import annotations

from absl import flags

from . import command
from .demo_corpus import builder

FLAGS = flags.FLAGS

flags.DEFINE_string("output_dir", None, "Folder to write.", required=True)
flags.DEFINE_integer("num_tagged", 320, "Clips of the tagged part.", lower_bound=1)
flags.DEFINE_integer("clips_per_genre", 12, "Clips per genre.", lower_bound=1)
flags.DEFINE_float("clip_secs", 10, "Length of a clip.", lower_bound=1, upper_bound=60)
flags.DEFINE_integer("seed", 0, "Random seed.", lower_bound=0)


def main(argv: list[str]) -> None:
    del argv
    names = "num_tagged", "clips_per_genre", "clip_secs", "seed"
    builder.write(FLAGS.output_dir, **{name: getattr(FLAGS, name) for name in names})
    print(f"written: {FLAGS.output_dir}/tagged, {FLAGS.output_dir}/genres")


def cli() -> None:
    command.run(main)


if __name__ == "__main__":
    cli()
