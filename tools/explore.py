"""Opens a local web page that shows what a model hears in a recording.

    python -m tools.explore
    python -m tools.explore --model=saved_models/genres --embeddings=vectors.npz

Open http://localhost:8765 in a browser and drop a file on the page. Its waveform, its
scattering coefficients and its scores over time follow the playback. With an NPZ file
from `predict --embeddings`, the most similar recordings are listed. Nothing leaves
this computer.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import pathlib
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
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
_MAX_UPLOADS = 4  # at a time; one of them is analysed
_IDLE_SECS = 20
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
        server = _Server((_HOSTS[1], FLAGS.port), handler)
    except OSError as error:
        message = f"--port={FLAGS.port}: {error.strerror}; choose another port"
        raise ValueError(message) from error
    url = f"http://localhost:{server.server_port}"
    print(f"Open {url} (Ctrl-C stops it)", flush=True)
    server.serve_forever()


class _Server(http.server.ThreadingHTTPServer):
    def __init__(self, *args: Any) -> None:
        self.uploads = threading.BoundedSemaphore(_MAX_UPLOADS)
        self.analysis = threading.Lock()
        super().__init__(*args)

    def handle_error(self, *args: Any) -> None:
        """Says nothing of a page that was closed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*args)


class _Handler(http.server.BaseHTTPRequestHandler):
    """Sends the page, and the analysis of a file that is posted."""

    server: _Server
    timeout = _IDLE_SECS  # of a connection on which nothing is sent

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
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            self.send_error(HTTPStatus.LENGTH_REQUIRED)
        elif len(length) > 12 or int(length) > _MAX_BYTES:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        elif not self.server.uploads.acquire(blocking=False):
            self._send_facts({"error": "busy with other files; try again later"})
        else:
            try:
                self._send_facts(self._facts(int(length)))
            finally:
                self.server.uploads.release()

    def _facts(self, size: int) -> dict[str, Any]:
        try:
            with self._uploaded(size) as name, self.server.analysis:
                return self._analyse(name)
        except (ConnectionError, TimeoutError):
            raise
        except (ValueError, OSError) as error:
            return {"error": str(error)}

    @contextlib.contextmanager
    def _uploaded(self, size: int) -> Iterator[str]:
        with tempfile.NamedTemporaryFile() as file:
            while size:
                block = self.rfile.read(min(size, 2**20))
                if not block:
                    raise ConnectionError("closed before the end of the file")
                file.write(block)
                size -= len(block)
            file.flush()
            yield file.name

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the terminal quiet."""

    def _is_allowed(self, path: str) -> bool:
        # Other names may be those of a web site that resolves to this computer.
        is_local = self.headers.get("Host", "").partition(":")[0] in _HOSTS
        origin = self.headers.get("Origin")
        is_ours = not origin or origin == f"http://{self.headers.get('Host')}"
        site = self.headers.get("Sec-Fetch-Site", "none")
        is_ours &= site in ("same-origin", "none") or self.command == "GET"
        if not is_local or not is_ours or self.path != path:
            is_right = is_local and is_ours
            self.send_error(HTTPStatus.NOT_FOUND if is_right else HTTPStatus.FORBIDDEN)
            return False
        return True

    def _send_facts(self, facts: dict[str, Any]) -> None:
        body = json.dumps(facts, allow_nan=False).encode()
        self._send(body, "application/json")

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
