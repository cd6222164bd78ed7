"""The server of `tools.explore`, without a browser: what it sends and refuses."""

import json
import pathlib
import queue
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from concurrent import futures

import pytest

from tools import explore_server


class Application:
    """Answers with what it was asked, and waits where the test says so."""

    def __init__(self, folder):
        self.upload_folder = str(folder)
        self.begun, self.may_end = queue.Queue(), threading.Semaphore(0)
        self.gets = {"echo": lambda **query: query, "file": self._file}
        self.computations = {"slow": self._slow}
        self.posts = {"echo": lambda **values: values, "full": self._full}
        (folder / "a.wav").write_bytes(bytes(range(100)))

    def take(self, path, name):
        if name == "wait":
            self._slow(name)
        return {"name": name, "size": len(pathlib.Path(path).read_bytes())}

    def _file(self):
        return explore_server.File(f"{self.upload_folder}/a.wav", "audio/wav")

    def _slow(self, name=""):
        self.begun.put(name)
        self.may_end.acquire()
        return {"name": name}

    def _full(self):
        raise OSError(28, "No space left on device")


@pytest.fixture
def application(tmp_path):
    return Application(tmp_path)


@pytest.fixture
def server(application):
    with explore_server.Server(0) as server:
        server.application = application
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def url(server):
    return f"http://localhost:{server.server_port}"


def answer(url, data=None, headers=None):
    request = urllib.request.Request(url, data, headers or {})
    with urllib.request.urlopen(request, timeout=60) as found:
        return json.load(found)


def code_of(url, data=None, headers=None):
    with pytest.raises(urllib.error.HTTPError) as error:
        answer(url, data, headers)
    error.value.close()
    return error.value.code


def test_the_page_comes_whole_and_loads_nothing_from_elsewhere(url):
    for name in (x.name for x in explore_server._PAGE.iterdir()):
        with urllib.request.urlopen(f"{url}/{name}") as found:
            text = found.read().decode()
            policy = found.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self'")
        assert "://" not in text
    with urllib.request.urlopen(url) as found:
        assert b"<html" in found.read()


@pytest.mark.parametrize(
    "path",
    ["/other", "/../explore.py", "/..%2Fexplore.py", "/api/other", "/.", "/api/"],
)
def test_nothing_but_page_and_answers_is_sent(url, path):
    assert code_of(url + path) == 404
    assert code_of(url + path, b"{}") == 404


def test_errors_are_answers_in_words(url):
    assert "No space left" in answer(f"{url}/api/full", b"{}")["error"]
    assert "error" in answer(f"{url}/api/echo", b"not json")
    assert "error" in answer(f"{url}/api/file?more=1")


@pytest.mark.parametrize("path", ["/", "/api/echo"])
def test_another_sites_name_is_refused(url, path):
    assert code_of(url + path, headers={"Host": "evil.example:80"}) == 403
    assert code_of(url + path, headers={"Host": "localhost.evil.example"}) == 403


def test_the_name_without_a_port_is_that_of_port_80(url):
    assert answer(f"{url}/api/echo?a=1", headers={"Host": "localhost"}) == {"a": "1"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:1"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_what_another_site_asks_or_posts_is_refused(url, headers):
    for path in ("/api/upload?name=a", "/api/echo"):
        assert code_of(url + path, b"{}", headers) == 403
    assert code_of(f"{url}/api/file", headers=headers) == 403
    ours = {"Origin": url, "Sec-Fetch-Site": "same-origin"}
    assert answer(f"{url}/api/upload?name=a", b"x", ours) == {"name": "a", "size": 1}


def test_a_link_on_another_site_opens_the_page_only(url):
    headers = {"Sec-Fetch-Site": "cross-site"}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request) as found:
        assert found.status == 200
    assert code_of(f"{url}/api/echo", headers=headers) == 403


@pytest.mark.parametrize(
    ("asked", "code", "sent", "head"),
    [
        (None, 200, range(100), None),
        ("bytes=10-19", 206, range(10, 20), "bytes 10-19/100"),
        ("bytes=90-", 206, range(90, 100), "bytes 90-99/100"),
        ("bytes=90-500", 206, range(90, 100), "bytes 90-99/100"),
        ("bytes=oops", 200, range(100), None),
    ],
)
def test_parts_of_a_file_are_sent(url, asked, code, sent, head):
    headers = {"Range": asked} if asked else {}
    request = urllib.request.Request(f"{url}/api/file", headers=headers)
    with urllib.request.urlopen(request) as found:
        assert (found.status, found.read()) == (code, bytes(sent))
        assert found.headers["Content-Range"] == head
        assert found.headers["Content-Type"] == "audio/wav"
    assert code_of(f"{url}/api/file", headers={"Range": "bytes=100-"}) == 416


def connected(url, length, path="/api/upload?name=a"):
    """Returns a connection on which an upload of a stated length was begun."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\n"
    connection.sendall(f"{head}{length}\r\n\r\n".encode())
    return connection


@pytest.mark.parametrize(
    ("length", "code"),
    [
        ("Content-Length: -1", 411),
        ("Content-Length: 1e9", 411),
        ("Content-Length: ٣", 411),
        ("Transfer-Encoding: chunked", 411),
        (f"Content-Length: {2**30 + 1}", 413),
        ("Content-Length: " + "9" * 5_000, 413),
    ],
)
def test_a_length_that_cannot_be_is_refused_unread(url, length, code):
    with connected(url, length) as connection:
        assert connection.recv(4_096).startswith(f"HTTP/1.0 {code} ".encode())


def test_a_long_text_is_refused_unread(url):
    length = "Content-Length: 70000"
    with connected(url, length, "/api/echo") as connection:
        assert connection.recv(4_096).startswith(b"HTTP/1.0 413 ")


def test_an_upload_that_stops_halfway_leaves_nothing(url, application):
    before = sorted(pathlib.Path(application.upload_folder).iterdir())
    with connected(url, "Content-Length: 10") as connection:
        connection.sendall(b"half")
    end = time.monotonic() + 60
    while sorted(pathlib.Path(application.upload_folder).iterdir()) != before:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert answer(f"{url}/api/upload?name=b", b"xy") == {"name": "b", "size": 2}


def test_uploads_at_once_are_bounded(url, server, application):
    count = explore_server.MAX_UPLOADS
    address = f"{url}/api/upload?name=wait"
    with futures.ThreadPoolExecutor(count) as pool:
        answers = [pool.submit(answer, address, b"x") for _ in range(count)]
        for _ in range(count):
            application.begun.get(timeout=60)
        assert "busy" in answer(address, b"x")["error"]
        for _ in range(count):
            application.may_end.release()
        assert [x.result() for x in answers] == [{"name": "wait", "size": 1}] * count
    while server.uploads._value < count:  # An answer comes before its place is free.
        time.sleep(0.01)
    assert answer(f"{url}/api/upload?name=b", b"x") == {"name": "b", "size": 1}


def test_one_thing_is_computed_at_a_time_and_nothing_for_a_page_that_left(
    url, application
):
    host, port = url.removeprefix("http://").split(":")
    with futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(answer, f"{url}/api/slow?name=first")
        assert application.begun.get(timeout=60) == "first"
        with socket.create_connection((host, int(port)), timeout=60) as left:
            left.sendall(b"GET /api/slow?name=left HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(0.2)
        last = pool.submit(answer, f"{url}/api/slow?name=last")
        assert answer(f"{url}/api/echo?a=1") == {"a": "1"}  # meanwhile
        assert application.begun.empty()
        application.may_end.release()
        assert first.result() == {"name": "first"}
        assert application.begun.get(timeout=60) == "last"
        application.may_end.release()
        assert last.result() == {"name": "last"}


def test_idle_connections_end_and_a_closed_one_prints_nothing(
    server, application, monkeypatch, capfd
):
    monkeypatch.setattr(explore_server.Handler, "timeout", 0.1)
    pathlib.Path(application.upload_folder, "a.wav").write_bytes(bytes(10**7))
    address = "127.0.0.1", server.server_port
    with socket.create_connection(address, timeout=60) as idle:
        assert idle.recv(1) == b""
    with socket.create_connection(address, timeout=60) as client:
        # The connection is reset when it is closed with data unread.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(b"GET /api/file HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.recv(1)
    time.sleep(0.3)
    assert capfd.readouterr() == ("", "")
