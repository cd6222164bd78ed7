"""Measures speed and accuracy on this machine, beside other programs where it can.

    python -m tools.benchmark --what=scattering
    python -m tools.benchmark --what=training
    python -m tools.benchmark --what=serving --model=saved_models/genres
    python -m tools.benchmark --what=runtimes EXPORT OTHER_EXPORT
    python -m tools.benchmark --what=requests --model=saved_models/genres
    python -m tools.benchmark --what=predict --model=saved_models/genres music/
    python -m tools.benchmark --what=catalogue
    python -m tools.benchmark --what=accuracy song.mp3
    python -m tools.benchmark --what=cluster

Prints Markdown tables; docs/benchmarks.md has those of one machine. `runtimes` compares
exports of one model by what runs them, `requests` measures those that cost a server
most, up to 1 MB. `accuracy` compares with kymatio in double precision and draws the
error. `cluster` simulates what failures of machines cost. Run nothing else meanwhile.
"""

from __future__ import annotations

from absl import app, flags

from . import command

FLAGS = flags.FLAGS

_WHAT = (
    "scattering training serving runtimes requests predict catalogue accuracy cluster"
).split()
flags.DEFINE_string("what", None, "One of those above.", required=True)
flags.DEFINE_integer("repeats", 7, "Measurements of each kind.", lower_bound=1)
flags.DEFINE_string("model", "saved_models/genres", "Exported model to measure.")
flags.DEFINE_string("output_dir", ".", "Folder for the picture of `accuracy`.")


def main(argv: list[str]) -> None:
    what, inputs = FLAGS.what, argv[1:]
    if what not in _WHAT:
        raise app.UsageError(f"--what={what}: give one of {', '.join(_WHAT)}")
    if inputs and what not in ("predict", "accuracy", "runtimes"):
        raise app.UsageError(f"--what={what} takes no files, got {inputs[0]!r}")
    if what == "runtimes" and not inputs:
        raise app.UsageError("--what=runtimes takes exports, one for each runtime")
    if what == "accuracy" and len(inputs) != 1:
        raise app.UsageError("--what=accuracy takes one recording")
    # Everything below loads TensorFlow; --help does not.
    from .benchmarks import (
        catalogue,
        cluster,
        files,
        requests,
        runtimes,
        scattering,
        serving,
        timing,
        training,
    )

    if what == "accuracy":
        return scattering.accuracy(inputs[0], FLAGS.output_dir)
    if what == "cluster":
        return cluster.losses()
    print(timing.machine(FLAGS.repeats))
    if what == "scattering":
        scattering.speed(FLAGS.repeats)
    elif what == "training":
        training.speed(FLAGS.repeats)
    elif what == "serving":
        serving.speed(FLAGS.model, FLAGS.repeats)
    elif what == "runtimes":
        runtimes.compare(inputs, FLAGS.repeats)
    elif what == "catalogue":
        catalogue.speed(FLAGS.repeats)
    elif what == "requests":
        requests.worst(FLAGS.model)
    else:
        files.speed(FLAGS.model, inputs)


def cli() -> None:
    command.run(main, positional=True)


if __name__ == "__main__":
    cli()
