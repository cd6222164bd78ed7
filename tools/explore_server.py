"""Server of the page of `explore`: for this computer alone, and in bounded memory."""

from __future__ import annotations

import contextlib
import http.server
import json
import mimetypes
import os
import pathlib
import re
import select
import sys
import tempfile
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

HOSTS = ("localhost", "127.0.0.1")
MAX_UPLOADS = 4  # at a time
MAX_BYTES = 2**30  # The page refuses larger files.

_PAGE = pathlib.Path(__file__).with_name("explore_page")
_MAX_JSON = 2**16
_IDLE_SECS = 20
_BLOCK = 2**18
_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{0,15})")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class File(NamedTuple):
    """An answer that is a file: its path and its type."""

    path: str
    kind: str


class Application(Protocol):
    """What answers requests: functions by name, which are called with the query.

    An answer is a `File`, a text as CSV, or JSON types. A ValueError or OSError
    becomes `{"error": message}`.

    Attributes:
      gets: for requests that change nothing.
      computations: such that take seconds. One runs at a time, and none for a page that
        no longer waits.
      posts: for requests that change something.
      upload_folder: where uploads are received.
    """

    gets: dict[str, Callable[..., Any]]
    computations: dict[str, Callable[..., Any]]
    posts: dict[str, Callable[..., Any]]
    upload_folder: str

    def take(self, path: str, name: str) -> Any:
        """Takes an uploaded file, which it moves or removes, with the user's name."""


class Server(http.server.ThreadingHTTPServer):
    """Takes a few uploads at a time, and computes one thing at a time.

    Args:
      port: 0 takes a free one.

    Attributes:
      application: answers requests; to be set before any is served.
    """

    application: Application

    def __init__(self, port: int) -> None:
        self.uploads = threading.BoundedSemaphore(MAX_UPLOADS)
        self.computation = threading.Lock()
        super().__init__((HOSTS[1], port), Handler)

    def handle_error(self, *args: Any) -> None:
        """Says nothing of a page that was closed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*args)


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends the page, and what the application answers."""

    server: Server
    timeout = _IDLE_SECS  # of a connection on which nothing is sent

    def do_GET(self) -> None:
        """Sends a file of the page, or an answer."""
        path, query = self._target()
        static = _PAGE / (path[1:] or "index.html")
        if not self._is_allowed(path):
            self.send_error(HTTPStatus.FORBIDDEN)
        elif static.parent == _PAGE and static.name in os.listdir(_PAGE):
            kind = mimetypes.guess_type(static.name)[0] or "text/plain"
            self._send(static.read_bytes(), f"{kind}; charset=utf-8")
        elif action := self._named(self.server.application.gets, path):
            self._answer(action, query)
        elif action := self._named(self.server.application.computations, path):
            with self.server.computation:
                if not self._has_gone():
                    self._answer(action, query)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """Sends the answer to what is posted, or why there is none."""
        path, query = self._target()
        is_upload = path == "/api/upload"
        length = self.headers.get("Content-Length", "")
        action = self._named(self.server.application.posts, path)
        if not self._is_allowed(path):
            self.send_error(HTTPStatus.FORBIDDEN)
        elif not is_upload and not action:
            self.send_error(HTTPStatus.NOT_FOUND)
        elif not length.isascii() or not length.isdigit():
            self.send_error(HTTPStatus.LENGTH_REQUIRED)
        elif len(length) > 12 or int(length) > (MAX_BYTES if is_upload else _MAX_JSON):
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        elif is_upload:
            self._upload(int(length), query)
        elif action:
            self._answer(action, query, self.rfile.read(int(length)))

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the terminal quiet."""

    def _target(self) -> tuple[str, dict[str, str]]:
        path, _, query = self.path.partition("?")
        return path, dict(urllib.parse.parse_qsl(query, keep_blank_values=True))

    def _named(
        self, actions: Mapping[str, Callable[..., Any]], path: str
    ) -> Callable[..., Any] | None:
        return actions.get(path.removeprefix("/api/")) if path[:5] == "/api/" else None

    def _is_allowed(self, path: str) -> bool:
        # Other names may be those of a web site that resolves to this computer.
        is_local = self.headers.get("Host", "").partition(":")[0] in HOSTS
        origin = self.headers.get("Origin")
        is_ours = not origin or origin == f"http://{self.headers.get('Host')}"
        site = self.headers.get("Sec-Fetch-Site", "none")
        is_link = self.command == "GET" and path == "/"
        return is_local and is_ours and (site in ("same-origin", "none") or is_link)

    def _has_gone(self) -> bool:
        # A page that waits sends nothing; one that left has closed the connection.
        return bool(select.select([self.connection], [], [], 0)[0])

    def _upload(self, size: int, query: Mapping[str, str]) -> None:
        if not self.server.uploads.acquire(blocking=False):
            self._send_json({"error": "busy with other files; try again later"})
            return
        try:
            with self._received(size) as path:
                take = self.server.application.take
                self._answer(take, {"path": path, "name": query.get("name", "")})
        except (ConnectionError, TimeoutError):
            raise
        except OSError as error:  # such as a full disk
            self._send_json({"error": str(error)})
        finally:
            self.server.uploads.release()

    @contextlib.contextmanager
    def _received(self, size: int) -> Iterator[str]:
        folder = self.server.application.upload_folder
        with tempfile.TemporaryDirectory(dir=folder, prefix=".upload") as name:
            path = os.path.join(name, "file")
            with open(path, "wb") as file:
                while size:
                    block = self.rfile.read(min(size, _BLOCK))
                    if not block:
                        raise ConnectionError("closed before the end of the file")
                    file.write(block)
                    size -= len(block)
            yield path

    def _answer(
        self, action: Callable[..., Any], query: Mapping[str, str], body: bytes = b""
    ) -> None:
        try:
            values: dict[str, Any] = dict(query)
            if body:
                values |= json.loads(body)
            answer = action(**values)
        except (ConnectionError, TimeoutError):
            raise
        except (ValueError, TypeError, OSError) as error:
            answer = {"error": str(error)}
        if isinstance(answer, File):
            self._send_file(answer)
        elif isinstance(answer, str):
            content = answer.encode("utf-8", "backslashreplace")
            self._send(content, "text/csv; charset=utf-8")
        else:
            self._send_json(answer)

    def _send_json(self, value: Any) -> None:
        body = json.dumps(value, allow_nan=False).encode()
        self._send(body, "application/json")

    def _send(self, body: bytes, kind: str) -> None:
        self._send_head(HTTPStatus.OK, kind, len(body))
        self.wfile.write(body)

    def _send_file(self, answer: File) -> None:
        with open(answer.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start, stop, more = 0, size, {"Accept-Ranges": "bytes"}
            code = HTTPStatus.OK
            if match := _RANGE.fullmatch(self.headers.get("Range", "")):
                start = int(match[1])
                stop = min(int(match[2]) + 1, size) if match[2] else size
                if start >= stop:
                    self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                    return
                more["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
                code = HTTPStatus.PARTIAL_CONTENT
            self._send_head(code, answer.kind, stop - start, more)
            file.seek(start)
            while start < stop and (block := file.read(min(_BLOCK, stop - start))):
                self.wfile.write(block)
                start += len(block)

    def _send_head(
        self,
        code: HTTPStatus,
        kind: str,
        size: int,
        more: Mapping[str, str] | None = None,
    ) -> None:
        self.send_response(code)
        headers = {"Content-Type": kind, "Content-Length": str(size), **_HEADERS}
        for name, value in (headers | dict(more or {})).items():
            self.send_header(name, value)
        self.end_headers()
