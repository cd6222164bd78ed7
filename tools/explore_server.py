"""Server of the page of `explore`: for this computer alone, and in bounded memory."""

from __future__ import annotations

import contextlib
import http.server
import json
import pathlib
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

HOSTS = ("localhost", "127.0.0.1")
MAX_UPLOADS = 4  # at a time; one of them is analysed

_PAGE = pathlib.Path(__file__).with_name("explore.html")
_MAX_BYTES = 2**30  # The page refuses larger files.
_IDLE_SECS = 20


class Server(http.server.ThreadingHTTPServer):
    """Takes a few uploads at a time."""

    def __init__(self, *args: Any) -> None:
        self.uploads = threading.BoundedSemaphore(MAX_UPLOADS)
        self.analysis = threading.Lock()
        super().__init__(*args)

    def handle_error(self, *args: Any) -> None:
        """Says nothing of a page that was closed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*args)


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends the page, and the analysis of a file that is posted."""

    server: Server
    timeout = _IDLE_SECS  # of a connection on which nothing is sent

    def __init__(self, analyse: Callable[[str], dict[str, Any]], *args: Any) -> None:
        self._analyse = analyse
        super().__init__(*args)

    def do_GET(self) -> None:
        """Sends the page."""
        if self._is_allowed("/"):
            page = _PAGE.read_text("utf-8").replace("MAX_BYTES", str(_MAX_BYTES))
            self._send(page.encode(), "text/html; charset=utf-8")

    def do_POST(self) -> None:
        """Sends the analysis of the file that is posted, or why there is none."""
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
        is_local = self.headers.get("Host", "").partition(":")[0] in HOSTS
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
