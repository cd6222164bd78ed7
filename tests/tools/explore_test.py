"""`tools.explore` in a real browser; what it draws, against the sound it is of."""

import functools
import json
import os
import pathlib
import queue
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent import futures

import numpy as np
import pytest
import soundfile
from support import browser, loudness

from genre_tl import params
from genre_tl.serving import recording_analysis
from tools import explore_server

ROOT = pathlib.Path(__file__).parents[2]
RATE = params.SAMPLE_RATE_HZ

PROGRAM = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import tools  # before anything loads TensorFlow, which is quiet then
from support import loudness
from genre_tl.serving import predictor, recording_analysis
from tools import explore
predictor.Predictor = loudness.Model
analyse = recording_analysis.analyse
def analyse_or_fail(path, *args):
    if open(path, "rb").read() == b"full":
        raise OSError(28, "No space left on device")
    return analyse(path, *args)
recording_analysis.analyse = analyse_or_fail
explore.cli()
"""


def quiet_then_loud():
    """Two seconds of 400 Hz, softly, then two of 3,200 Hz."""
    time = np.arange(2 * RATE) / RATE
    tones = [0.05 * np.sin(2 * np.pi * 400 * time), np.sin(2 * np.pi * 3200 * time)]
    return np.concatenate(tones).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explore")
    soundfile.write(folder / "two <b>tones.wav", quiet_then_loud(), RATE)
    vectors = np.array([[-1, 0, 0], [0, 1, 0], [64_000, 1, 1]], np.float32)
    ids = np.array(["far.mp3", "farther.mp3", "near/<i>it</i>.mp3"])
    np.savez(folder / "e.npz", ids=ids, vectors=vectors)
    return folder


def start(folder, port, stderr=None):
    arguments = [port, f"--model={folder}/model", f"--embeddings={folder}/e.npz"]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


@pytest.fixture(scope="module")
def url(folder):
    process = start(folder, "--port=0")
    yield process.stdout.readline().split()[1]
    process.kill()
    process.communicate()


@pytest.fixture
def page(url, tmp_path):
    if not browser.find():
        pytest.skip("NOT RUN IN A BROWSER: there is no chromium here")
    page = browser.Page(tmp_path / "profile")
    page.open(url)
    yield page
    page.close()


TEXT = "document.getElementById('%s').innerText"
DROP = """(async () => {
  const data = await (await fetch('/')).blob();  // no audio
  const files = new DataTransfer();
  files.items.add(new File([data], 'page.html'));
  document.getElementById('drop').dispatchEvent(
    new DragEvent('drop', {dataTransfer: files, bubbles: true}));
})()"""


def test_a_file_is_heard_and_seen_in_step(page, folder):
    page.choose_file("#file", folder / "two <b>tones.wav")
    page.wait("!document.getElementById('result').hidden")
    assert page.run(TEXT % "message") == "two <b>tones.wav, 0:04"
    (first, *_) = page.run(TEXT % "neighbours").splitlines()
    assert first.startswith("near/<i>it</i>.mp3 (1.00)")
    page.wait("document.getElementById('player').readyState >= 1")
    assert page.run("document.getElementById('player').duration") == pytest.approx(4)
    seen = []
    for secs in (1, 3):
        page.run(f"document.getElementById('player').currentTime = {secs}")
        page.wait(f"document.getElementById('when').innerText === 'At 0:0{secs}'")
        left = page.run("document.getElementById('cursor').style.left")
        seen.append((left, page.run(TEXT % "now").split()[0]))
    assert seen == [("25%", "quiet"), ("75%", "loud")]
    page.run("document.getElementById('player').currentTime = 0")
    page.run("document.getElementById('player').play()")
    page.wait("parseFloat(document.getElementById('cursor').style.left) > 5")
    for canvas in ("wave", "scales", "genres"):  # each has more than one colour
        colours = page.run(
            f"(c => new Set(new Uint32Array(c.getContext('2d').getImageData("
            f"0, 0, c.width, c.height).data.buffer)).size)"
            f"(document.getElementById('{canvas}'))"
        )
        assert colours > 1, canvas


def test_a_click_moves_the_playback(page, folder):
    page.choose_file("#file", folder / "two <b>tones.wav")
    page.wait("document.getElementById('player').readyState >= 1")
    page.run(
        "(v => v.dispatchEvent(new MouseEvent('click', {clientX: "
        "v.getBoundingClientRect().left + 0.6 * v.clientWidth})))"
        "(document.getElementById('views'))"
    )
    page.wait("document.getElementById('when').innerText === 'At 0:02'")


def test_what_is_dropped_and_no_audio_gets_a_reason(page):
    page.run(DROP)
    page.wait("document.getElementById('message').innerText.includes('not audio')")
    assert page.run("document.getElementById('result').hidden")


def test_a_file_that_is_too_large_is_not_sent(page):
    page.run(
        "const giant = new File(['x'], 'giant.wav');"
        "Object.defineProperty(giant, 'size', {value: 2 ** 30 + 1});"
        "analyse(giant)"
    )
    assert "giant.wav: larger than 1 GiB" in page.run(TEXT % "message")


def test_whatever_is_posted_gets_an_answer(url, folder):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{url}/other", b"x")
    with urllib.request.urlopen(f"{url}/analyse", b"x") as answer:
        assert "not audio" in json.load(answer)["error"]


def test_an_error_of_the_system_is_an_answer(url):
    with urllib.request.urlopen(f"{url}/analyse", b"full") as answer:
        assert "No space left" in json.load(answer)["error"]


def test_a_port_that_is_taken_is_said_with_what_to_do(url, folder):
    port = url.rpartition(":")[2]
    process = start(folder, f"--port={port}", stderr=subprocess.PIPE)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr == (
        f"error: --port={port}: Address already in use; choose another port\n"
    )


def test_another_sites_name_is_refused(url):
    request = urllib.request.Request(url, headers={"Host": "evil.example:80"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{url}/../setup.cfg")


def test_the_name_without_a_port_is_that_of_port_80(url):
    request = urllib.request.Request(url, headers={"Host": "localhost"})
    with urllib.request.urlopen(request) as answer:
        assert b"<html" in answer.read()


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
def test_a_file_that_another_site_posts_is_refused(url, headers):
    request = urllib.request.Request(f"{url}/analyse", b"x", headers)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)
    ours = {"Origin": url, "Sec-Fetch-Site": "same-origin"}
    request = urllib.request.Request(f"{url}/analyse", b"x", ours)
    with urllib.request.urlopen(request) as answer:
        assert "error" in json.load(answer)


def connected(url, length):
    """Returns a connection on which an upload of a stated length was begun."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    head = f"POST /analyse HTTP/1.1\r\nHost: {host}:{port}\r\n"
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


def test_uploads_at_once_are_bounded_and_analysed_one_at_a_time():
    begun, may_end = queue.Queue(), threading.Semaphore(0)

    def analyse(path):
        begun.put(path)
        may_end.acquire()
        return {"secs": 1}

    handler = functools.partial(explore_server.Handler, analyse)
    with explore_server.Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://localhost:{server.server_port}/analyse"

        def post(_):
            with urllib.request.urlopen(address, b"x") as answer:
                return json.load(answer)

        count = explore_server.MAX_UPLOADS
        with futures.ThreadPoolExecutor(count) as pool:
            answers = pool.map(post, range(count))
            begun.get()
            while server.uploads._value:  # until all have arrived
                time.sleep(0.01)
            assert "busy" in post(0)["error"]
            assert begun.empty()
            for _ in range(count):
                may_end.release()
            assert list(answers) == [{"secs": 1}] * count
        may_end.release()
        assert post(0) == {"secs": 1}
        server.shutdown()


def test_idle_connections_end_and_a_closed_one_prints_nothing(monkeypatch, capfd):
    monkeypatch.setattr(explore_server.Handler, "timeout", 0.1)
    monkeypatch.setattr(
        explore_server._PAGE.__class__, "read_text", lambda *_: "x" * 10**7
    )
    handler = functools.partial(explore_server.Handler, lambda path: {})
    with explore_server.Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = "127.0.0.1", server.server_port
        with socket.create_connection(address, timeout=60) as idle:
            assert idle.recv(1) == b""
        with socket.create_connection(address, timeout=60) as client:
            # The connection is reset when it is closed with data unread.
            client.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.recv(1)
        server.shutdown()
    assert capfd.readouterr() == ("", "")


def test_a_tone_is_bright_in_its_band_at_its_time():
    picture = recording_analysis.scaleogram(quiet_then_loud())
    bands = recording_analysis.bands_hz()
    assert picture.shape == (len(bands), 125)  # a column every 512 samples
    for column, hz in ((30, 400), (95, 3200)):
        found = bands[picture[:, column].argmax()]
        assert found == pytest.approx(hz, rel=0.06)


def test_blocks_of_the_scaleogram_leave_no_seam():
    noise = np.random.default_rng(0).normal(0, 0.1, 20 * RATE).astype(np.float32)
    whole = recording_analysis.scaleogram(noise).astype(int)
    seams = [(i * (2**17 - 2**14)) // 512 for i in (1, 2)]
    steps = np.abs(np.diff(whole, axis=1)).mean(axis=0)
    for seam in seams:
        assert steps[seam - 1] < steps.mean() + 4 * steps.std()


def test_neighbours_are_by_direction_and_of_the_same_model(tmp_path):
    table = {"ids": np.array(["a", "b"]), "vectors": np.eye(2, dtype=np.float32)}
    np.savez(tmp_path / "e.npz", **table)
    collection = recording_analysis.Collection(tmp_path / "e.npz")
    found = collection.nearest(np.array([1.0, 9.0]))
    assert [name for name, _ in found] == ["b", "a"]
    assert found[0][1] == pytest.approx(9 / 82**0.5)
    with pytest.raises(ValueError, match="2 numbers, the model.s 3"):
        collection.nearest(np.zeros(3))


def test_what_holds_no_embeddings_is_said_with_what_to_do(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, ids=np.array(["a"]), vectors=np.ones([1, 999], np.float32))
    whole = path.read_bytes()
    np.savez(path, ids=np.array(["a"]), vectors=np.array(["b"]))
    words = path.read_bytes()
    np.save(tmp_path / "v.npy", np.ones([1, 2]))
    plain = (tmp_path / "v.npy").read_bytes()
    np.savez(path, ids=np.array(["a"]), vectors=np.ones([2, 9], np.float32))
    fewer = path.read_bytes()
    np.savez(path, ids=np.array(["a"]), vectors=np.full([1, 9], np.nan))
    numbers = path.read_bytes()
    kinds = b"{}", b"", whole[:-1000], whole[:2], words, plain, fewer, numbers
    for content in kinds:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.npz: holds no embeddings .* predict"):
            recording_analysis.Collection(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="not a regular file"):
        recording_analysis.Collection(path)


def test_silence_and_one_sample_have_a_picture(tmp_path):
    for samples in (np.zeros(1, np.float32), np.zeros(RATE, np.float32)):
        soundfile.write(tmp_path / "a.wav", samples, RATE)
        model = loudness.Model(tmp_path / "model")
        facts = recording_analysis.analyse(str(tmp_path / "a.wav"), model)
        assert len(facts["scaleogram"]) == len(facts["bands_hz"])
        json.dumps(facts, allow_nan=False)
