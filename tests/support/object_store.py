"""A server of the S3 protocol on this machine, whose answers fail now and then."""

import collections
import contextlib
import json
import pathlib
import random
import socket
import threading
import time
from urllib import request

import pytest

from genre_tl import storage

KINDS = "late", "busy", "cut"
_READ_SECS, _LATE_SECS = 0.6, 1.0  # the client's patience, and a late answer
BUCKET = "bucket"


class Faults:
    """Web application that spoils a share of the answers of another.

    `late`: it comes after the client has given up. `busy`: status 503. `cut`: the
    connection ends in the middle of the answer.
    """

    def __init__(self, application):
        self.share, self.counts = 0.0, collections.Counter()
        self._application, self._lock = application, threading.Lock()
        self._random = random.Random(0)

    def __call__(self, environ, start_response):
        with self._lock:
            # Not those of the tests' own client.
            is_ours = "aiobotocore" in environ.get("HTTP_USER_AGENT", "")
            is_spoilt = is_ours and self._random.random() < self.share
            kind = self._random.choice(KINDS) if is_spoilt else "none"
            self.counts[kind] += 1
        if kind == "busy":
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        if kind == "late":
            time.sleep(_LATE_SECS)
        answer = self._application(environ, start_response)
        return self._cut(answer, environ) if kind == "cut" else answer

    def _cut(self, answer, environ):
        content = b"".join(answer)
        yield content[: len(content) // 2]
        with contextlib.suppress(OSError):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def serving(monkeypatch, cache):
    """Yields the `Faults` of a server with an empty bucket, for all processes.

    Skips the test where the packages are missing.
    """
    for name in ("s3fs", "moto", "flask_cors"):
        pytest.importorskip(name, reason=f"NOT RUN ON S3: {name} is not installed")
    from moto import server
    from werkzeug import serving

    faults = Faults(server.DomainDispatcherApplication(server.create_backend_app))
    quiet = type("Quiet", (serving.WSGIRequestHandler,), {"log": lambda *_: None})
    made = serving.make_server("127.0.0.1", 0, faults, True, request_handler=quiet)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    options = {"config_kwargs": {"read_timeout": _READ_SECS}}
    values = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{made.server_port}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "FSSPEC_S3": json.dumps(options),
        "GENRE_TL_CACHE": str(cache),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    import fsspec

    fsspec.config.set_conf_env(fsspec.config.conf)
    storage._filesystem.cache_clear()
    try:
        address = values["AWS_ENDPOINT_URL"]  # moto has one state for all servers
        request.urlopen(f"{address}/moto-api/reset", b"").close()
        client().create_bucket(Bucket=BUCKET)
        yield faults
    finally:
        client().close()
        made.shutdown()
        thread.join()
        made.server_close()


def client():
    """A client of the server that has nothing in common with `genre_tl.storage`."""
    import boto3

    return boto3.client("s3")


def put(folder: pathlib.Path, prefix: str) -> None:
    """Puts the files of a folder."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            key = f"{prefix}/{path.relative_to(folder).as_posix()}"
            client().put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())


def contents(prefix: str) -> dict[str, bytes]:
    """Returns the objects below a prefix by name."""
    found = client().list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")
    keys = [x["Key"] for x in found.get("Contents", [])]
    return {
        key[len(prefix) + 1 :]: client()
        .get_object(Bucket=BUCKET, Key=key)["Body"]
        .read()
        for key in keys
    }
