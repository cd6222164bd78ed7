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
import http.server
import json
import pathlib
import tempfile
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from absl import flags

from . import command, common_flags

FLAGS = flags.FLAGS

common_flags.define_model()
common_flags.define_path("embeddings", None, "NPZ of a collection, to find neighbours.")
flags.DEFINE_integer("port", 8765, "Port of the page; 0 takes a free one.", 0, 65_535)

_PAGE = pathlib.Path(__file__).with_suffix(".html")
_MAX_BYTES = 2**30  # The page refuses larger files.
_HOSTS = ("localhost", "127.0.0.1")


def main(argv: list[str]) -> None:
    del argv
    from genre_tl.serving import predictor, recording_analysis

    path = FLAGS.embeddings
    collection = recording_analysis.Collection(path) if path else None
    model = predictor.Predictor(common_flags.model())
    handler = functools.partial(
        _Handler, lambda path: recording_analysis.analyse(path, model, collection)
    )
    try:
        server = http.server.ThreadingHTTPServer((_HOSTS[1], FLAGS.port), handler)
    except OSError as error:
        message = f"--port={FLAGS.port}: {error.strerror}; choose another port"
        raise ValueError(message) from error
    url = f"http://localhost:{server.server_port}"
    print(f"Open {url} (Ctrl-C stops it)", flush=True)
    server.serve_forever()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Sends the page, and the analysis of a file that is posted."""

    def __init__(self, analyse: Callable[[str], dict[str, Any]], *args: Any) -> None:
        self._analyse = analyse
        super().__init__(*args)

    def do_GET(self) -> None:
        if self._is_allowed("/"):
            page = _PAGE.read_text("utf-8").replace("MAX_BYTES", str(_MAX_BYTES))
            self._send(page.encode(), "text/html; charset=utf-8")

    def do_POST(self) -> None:
        if not self._is_allowed("/analyse"):
            return
        size = int(self.headers.get("Content-Length", 0))
        if size > _MAX_BYTES:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        try:
            with tempfile.NamedTemporaryFile() as file:
                while size and (block := self.rfile.read(min(size, 2**20))):
                    file.write(block)
                    size -= len(block)
                file.flush()
                facts = self._analyse(file.name)
        except (ValueError, OSError) as error:
            facts = {"error": str(error)}
        self._send(json.dumps(facts).encode(), "application/json")

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the terminal quiet."""

    def _is_allowed(self, path: str) -> bool:
        # Other names may be those of a web site that resolves to this computer.
        is_local = self.headers.get("Host", "").rpartition(":")[0] in _HOSTS
        if not is_local or self.path != path:
            self.send_error(HTTPStatus.NOT_FOUND if is_local else HTTPStatus.FORBIDDEN)
            return False
        return True

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def cli() -> None:
    command.run(main)


if __name__ == "__main__":
    cli()
