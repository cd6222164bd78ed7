"""Opens a local web page that shows what a model hears in a recording.

    python -m tools.explore
    python -m tools.explore --model=saved_models/genres --embeddings=vectors.npz

Open http://localhost:8765 in a browser and drop a file on the page. Its waveform, its
scattering coefficients and its scores over time follow the playback. With an NPZ file
from `predict --embeddings`, the most similar recordings are listed. Nothing leaves
this computer.
"""

from __future__ import annotations

import functools

from absl import flags

from . import command, common_flags, explore_server

FLAGS = flags.FLAGS

common_flags.define_model()
common_flags.define_path("embeddings", None, "NPZ of a collection, to find neighbours.")
flags.DEFINE_integer("port", 8765, "Port of the page; 0 takes a free one.", 0, 65_535)


def main(argv: list[str]) -> None:
    del argv
    from genre_tl.serving import predictor, recording_analysis

    path = FLAGS.embeddings
    collection = recording_analysis.Collection(path) if path else None
    model = predictor.Predictor(common_flags.model())
    handler = functools.partial(
        explore_server.Handler,
        lambda path: recording_analysis.analyse(path, model, collection),
    )
    try:
        server = explore_server.Server((explore_server.HOSTS[1], FLAGS.port), handler)
    except OSError as error:
        message = f"--port={FLAGS.port}: {error.strerror}; choose another port"
        raise ValueError(message) from error
    url = f"http://localhost:{server.server_port}"
    print(f"Open {url} (Ctrl-C stops it)", flush=True)
    server.serve_forever()


def cli() -> None:
    command.run(main)


if __name__ == "__main__":
    cli()
