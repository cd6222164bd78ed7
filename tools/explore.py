"""Opens a page on this computer that shows what a model hears in a recording.

    python -m tools.explore --model=saved_models/genres --embeddings=vectors.npz

and then http://localhost:8765 in a browser: drop a file on the page. Its waveform,
its scattering picture and the genre over time move with the playback; the nearest
recordings of a collection are listed if --embeddings gives what `predict
--embeddings` wrote. Nothing leaves this computer. Ctrl-C ends it.
"""

from __future__ import annotations

import functools
import http.server
import json
import pathlib
import tempfile
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from absl import flags

from . import command

if TYPE_CHECKING:
    from genre_tl import serving
    from genre_tl.serving import recording_analysis

FLAGS = flags.FLAGS

flags.DEFINE_string(
    "model", "saved_models/genres", "Export: the folder of its versions, or of one."
)
flags.DEFINE_string("embeddings", None, "NPZ of a collection, to find neighbours in.")
flags.DEFINE_integer("port", 8765, "Where the page is; 0 takes a free port.", 0, 65_535)

_PAGE = pathlib.Path(__file__).with_suffix(".html")
_LARGEST_FILE = 2**30  # Put into the page, which sends no larger one.
_HOSTS = ("localhost", "127.0.0.1")


def main(argv: list[str]) -> None:
    del argv
    from genre_tl import serving
    from genre_tl.serving import recording_analysis

    predictor = serving.Predictor(FLAGS.model)
    collection = (
        recording_analysis.Collection(FLAGS.embeddings) if FLAGS.embeddings else None
    )
    handler = functools.partial(_Handler, predictor, collection)
    with _server(handler) as server:
        print(f"http://localhost:{server.server_port} - Ctrl-C ends it", flush=True)
        server.serve_forever()


def _server(handler: Callable[..., _Handler]) -> http.server.ThreadingHTTPServer:
    try:
        return http.server.ThreadingHTTPServer((_HOSTS[1], FLAGS.port), handler)
    except OSError as error:
        message = f"port {FLAGS.port}: {error.strerror}; give another --port"
        raise ValueError(message) from error


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the page, and to a file that is sent with what is in it."""

    def __init__(
        self,
        predictor: serving.Predictor,
        collection: recording_analysis.Collection | None,
        *args: Any,
    ) -> None:
        self._predictor, self._collection = predictor, collection
        super().__init__(*args)

    def do_GET(self) -> None:
        """Sends the page."""
        if self._is_refused("/"):
            return
        page = _PAGE.read_text("utf-8").replace("LARGEST_FILE", str(_LARGEST_FILE))
        self._send(page.encode(), "text/html; charset=utf-8")

    def do_POST(self) -> None:
        """Looks at the audio file that is the body."""
        if self._is_refused("/look"):
            return
        size = int(self.headers.get("Content-Length", 0))
        if size > _LARGEST_FILE:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        try:
            facts = self._look(size)
        except (ValueError, OSError) as error:
            facts = {"error": str(error)}
        self._send(json.dumps(facts).encode(), "application/json")

    def _look(self, size: int) -> dict[str, Any]:
        from genre_tl.serving import recording_analysis

        with tempfile.NamedTemporaryFile() as file:
            while size and (piece := self.rfile.read(min(size, 2**20))):
                file.write(piece)
                size -= len(piece)
            file.flush()
            return recording_analysis.look(file.name, self._predictor, self._collection)

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the terminal quiet."""

    def _is_refused(self, path: str) -> bool:
        # Another site whose name is made to lead here must not read anything.
        if self.headers.get("Host", "").rpartition(":")[0] not in _HOSTS:
            self.send_error(HTTPStatus.FORBIDDEN)
        elif self.path != path:
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
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
