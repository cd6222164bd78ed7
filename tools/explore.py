r"""Opens a local web page to label, hear, review and map music, and to train on it.

    python -m tools.explore
    python -m tools.explore --model=saved_models/mine my_music

Open http://localhost:8765 in a browser and drop files on the page, or give a folder.
Each file gets a genre; listen to it with its scores over time, correct what is wrong,
train on folders and corrections, and see what changes. Corrections, uploaded files and
new versions are kept in --work_dir. Nothing leaves this computer.
"""

from __future__ import annotations

import contextlib
import os

from absl import app, flags

from . import command, common_flags, explore_server

FLAGS = flags.FLAGS

common_flags.define_model()
common_flags.define_path(
    "work_dir", "runs/explore", "Folder of corrections, uploads and new versions."
)
flags.DEFINE_integer("port", 8765, "Port of the page; 0 takes a free one.", 0, 65_535)


def main(argv: list[str]) -> None:
    if len(argv) > 2:
        raise app.UsageError("give one folder of music at most")
    folder = os.path.expanduser(argv[1]) if argv[1:] else ""
    if folder and not os.path.isdir(folder):
        raise ValueError(f"{folder}: not a folder")
    from genre_tl.serving import versions

    from . import explore_worker

    own = explore_worker.model_folder(FLAGS.work_dir)
    is_own = FLAGS.model is None and versions.newest(own)
    model = str(own) if is_own else common_flags.model()
    try:
        server = explore_server.Server(FLAGS.port)
    except OSError as error:
        message = f"--port={FLAGS.port}: {error.strerror}; choose another port"
        raise ValueError(message) from error
    from . import explore_app

    command.skip_graph_rewriting()
    application = explore_app.Application(model, FLAGS.work_dir, folder)
    server.application = application
    with server, contextlib.closing(application):
        url = f"http://localhost:{server.server_port}"
        print(f"Open {url} (Ctrl-C stops it)", flush=True)
        server.serve_forever()


def cli() -> None:
    command.run(main, positional=True)


if __name__ == "__main__":
    cli()
