"""The page of docs/try in headless Chromium, against the scores of Python."""

import base64
import contextlib
import csv
import functools
import http.server
import json
import pathlib
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile
from support import browser, tiny_export

from genre_tl import serving, starter
from genre_tl.model import familiarity, networks
from genre_tl.serving import model_card, saved_model

onnx_export = pytest.importorskip(
    "genre_tl.serving.onnx_export", reason="NOT RUN: onnx is not installed"
)

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "try"
RESULT = "#result:not([hidden])"
RATE_HZ = 16_000


@pytest.fixture(scope="module")
def page_source(tmp_path_factory):
    """A copy of docs/try with what npm installs."""
    if not shutil.which("npm"):
        pytest.skip("THE PAGE IS NOT TESTED: there is no npm here")
    folder = tmp_path_factory.mktemp("source") / "try"
    shutil.copytree(PAGE, folder, ignore=shutil.ignore_patterns("node_modules"))
    flags = "--fetch-retries=0", "--fetch-timeout=60000"
    done = subprocess.run(
        ["npm", "ci", *flags], cwd=folder, capture_output=True, text=True
    )
    if done.returncode and "EUSAGE" not in done.stderr:  # a lock file that is wrong
        pytest.skip(
            f"THE PAGE IS NOT TESTED: no package from npm: {done.stderr[-300:]}"
        )
    assert not done.returncode, done.stderr
    return folder


def build(source, model, output):
    return subprocess.run(
        [sys.executable, source / "build.py", f"--model={model}", f"--output={output}"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


class Handler(http.server.SimpleHTTPRequestHandler):
    headers_of_all: tuple[tuple[str, str], ...] = ()

    def end_headers(self):
        for header in self.headers_of_all:
            self.send_header(*header)
        super().end_headers()

    def log_message(self, *args):
        pass


class IsolatedHandler(Handler):
    headers_of_all = (
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Embedder-Policy", "require-corp"),
    )


@contextlib.contextmanager
def served(folder, handler=Handler):
    """Yields the address of a static file server."""
    handler = functools.partial(handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def model():
    try:
        return serving.Predictor(starter.folder())
    except FileNotFoundError as error:
        pytest.skip(f"THE PAGE IS NOT TESTED: {error}")


@pytest.fixture(scope="module")
def root(page_source, model):
    """A web server's folder, with the page in a folder of its own."""
    root = page_source.parent / "root"
    done = build(page_source, model.folder.parent, root / "music")
    assert done.returncode == 0, done.stderr
    assert "python -m http.server --directory" in done.stdout
    return root


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as chromium:
        yield chromium


@contextlib.contextmanager
def loaded(chromium, address, **settings):
    with browser.page(chromium, **settings) as page:
        page.set_default_timeout(120_000)
        page.goto(f"{address}/music/")
        page.wait_for_selector("body[data-ready]")
        yield page


@pytest.fixture(scope="module")
def page(chromium, root):
    with served(root) as address, loaded(chromium, address) as page:
        yield page


def drop(page, path):
    """Drops a file on the page, as a person does."""
    text = base64.b64encode(path.read_bytes()).decode()
    transfer = page.evaluate_handle(
        """([text, name]) => {
          const bytes = Uint8Array.from(atob(text), x => x.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], name));
          return transfer;
        }""",
        [text, path.name],
    )
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})


def choose(page, path):
    page.set_input_files("#file", path)
    page.wait_for_selector(f"{RESULT}, #message.error")


def music(secs, seed=1):
    """Returns sound with silence before it and within it."""
    samples = np.concatenate(
        [tiny_export.music(RATE_HZ * secs // 4, seed + i) for i in range(4)]
    )
    samples[: RATE_HZ + 77] = 0  # the page begins where Python does
    samples[31 * RATE_HZ : 33 * RATE_HZ] = 0  # the begin of the second segment
    return samples


def write(path, samples, rate_hz=RATE_HZ, subtype="PCM_16"):
    soundfile.write(path, samples, rate_hz, subtype)
    return path


def scores_of_all_labels(page):
    page.click("#all")
    rows = page.evaluate(
        """() => Array.from(document.querySelectorAll("#labels tbody tr"),
          row => [row.cells[0].textContent, Number(row.querySelector("data").value)])"""
    )
    return dict(rows)


def expected_scores(model, path):
    (result,) = serving.predict(model, [str(path)], taggrams=True)
    assert not result.error
    return result, dict(zip(model.labels, result.scores, strict=True))


def test_scores_of_a_dropped_file_are_those_of_python(page, model, tmp_path):
    # Of 16-bit samples, Chromium makes the positive ones larger by 1/32767.
    path = write(tmp_path / "my song.wav", music(75), subtype="FLOAT")
    result, expected = expected_scores(model, path)
    drop(page, path)
    page.wait_for_selector(RESULT)
    found = scores_of_all_labels(page)
    assert np.ptp(result.scores) > 0.1
    assert found == pytest.approx(expected, abs=1e-4)
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "my song.wav.csv"
    with open(download.value.path(), encoding="utf8", newline="") as file:
        head, whole, *rows = csv.reader(file)
    assert head == ["secs", *model.labels] and whole[0] == "all"
    assert whole[1:] == [f"{found[label]:.6f}" for label in model.labels]
    times, scores = np.split(np.array(rows, float), [1], axis=1)
    np.testing.assert_allclose(times[:, 0], result.taggram.times_secs, atol=1e-3)
    np.testing.assert_allclose(scores, result.taggram.scores, atol=1e-4)


def test_stereo_at_another_sample_rate_has_nearly_the_same_scores(
    page, model, tmp_path
):
    samples = np.repeat(music(32, seed=5), 3)  # at 48 kHz
    stereo = np.stack([samples, 0.5 * np.roll(samples, 30)], axis=1)
    path = write(tmp_path / "stereo.flac", stereo, 48_000)
    _, expected = expected_scores(model, path)
    choose(page, path)
    found = scores_of_all_labels(page)
    assert max(found, key=found.get) == max(expected, key=expected.get)
    assert found == pytest.approx(expected, abs=0.02)


def test_what_is_no_song_is_named_and_the_next_file_is_analysed(page, tmp_path):
    (tmp_path / "text.mp3").write_text("no sound" * 999)
    (tmp_path / "nothing.wav").touch()
    write(tmp_path / "silent.wav", np.zeros(RATE_HZ))
    for name, reason in (
        ("text.mp3", "not audio, or a format that this browser cannot decode"),
        ("nothing.wav", "the file is empty"),
        ("silent.wav", "there is no sound in it"),
    ):
        choose(page, tmp_path / name)
        assert page.inner_text("#message.error").startswith(f"{name}: {reason}")
        assert page.is_hidden("#result") and page.is_hidden("#progress")
    choose(page, write(tmp_path / "good.wav", music(34)))
    assert page.inner_text("#name") == "good.wav"
    assert not page.query_selector("#message.error")


def test_of_two_files_the_last_is_shown(page, tmp_path):
    drop(page, write(tmp_path / "first.wav", music(300)))
    page.wait_for_selector("#progress:not([hidden])")
    drop(page, write(tmp_path / "last.wav", music(34)))
    page.wait_for_selector(RESULT)
    assert page.inner_text("#name") == "last.wav"
    page.wait_for_timeout(1000)  # the first would be ready
    assert page.inner_text("#name") == "last.wav"


def test_the_keyboard_moves_through_the_song(page, tmp_path):
    choose(page, write(tmp_path / "keys.wav", music(60)))
    before = page.inner_text("#labels tbody")
    assert page.inner_text("#clock") == "0:00"
    page.focus("#time")
    for _ in range(50):
        page.keyboard.press("ArrowRight")
    assert page.inner_text("#clock") == "0:50"
    assert page.inner_text("#labels tbody") != before
    text = page.get_attribute("#time", "aria-valuetext")
    assert text.startswith("0:50: ") and text.count(" %") == 3


def test_the_player_moves_through_the_song_until_another_is_chosen(page, tmp_path):
    choose(page, write(tmp_path / "played.wav", music(60)))
    page.evaluate("() => document.querySelector('#player').play()")
    page.get_by_text("0:02", exact=True).wait_for()
    choose(page, write(tmp_path / "other.wav", music(34)))
    assert page.inner_text("#clock") == "0:00"


def test_genres_are_named_and_shown_alone_if_wanted(page, tmp_path):
    choose(page, write(tmp_path / "genres.wav", music(34)))
    assert page.inner_text("#message").count(" %") == 3
    page.check("#genres")
    page.click("#all")
    shown = page.eval_on_selector_all(
        "#labels tbody th", "x => x.map(y => y.innerText)"
    )
    page.uncheck("#genres")
    assert {"jazz", "msd:jazz", "rap"} <= set(shown) and "calm/peaceful" not in shown


def test_a_phone_in_dark_mode_shows_all_without_faults(chromium, root, tmp_path):
    path = write(tmp_path / f"{'long name ' * 12}.wav", music(34))
    dark = {"width": 390, "height": 800, "color_scheme": "dark"}
    with served(root) as address, loaded(chromium, address, **dark) as page:
        addresses = []
        page.on("request", lambda request: addresses.append(request.url))
        choose(page, path)
        page.click("#model summary")
        assert "Licence of the training data" in page.inner_text("#facts")
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width == 390
        assert browser.accessibility_faults(page) == []
        # The player reads the file; nothing is sent.
        assert addresses and all(x.startswith("blob:") for x in addresses)


def test_a_page_that_is_isolated_from_others_has_the_same_scores(
    chromium, root, model, tmp_path
):
    path = write(tmp_path / "song.wav", music(34, seed=9), subtype="FLOAT")
    with (
        served(root, IsolatedHandler) as address,
        loaded(chromium, address) as page,
    ):
        assert page.evaluate("crossOriginIsolated")
        choose(page, path)
        expected = expected_scores(model, path)[1]
        assert scores_of_all_labels(page) == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A tiny classifier that finds all music unlike that of its training."""
    network = networks.classifier(
        tiny_export.PRESET.model, tiny_export.num_paths(), 3, seed=3
    )
    size = tiny_export.PRESET.model.embedding_units
    facts = np.zeros(size), np.eye(size, 2) / 2, 2, np.zeros([1, size]), -99, 2
    trained = saved_model.TrainedModel(
        tiny_export.sensitive(network),
        tiny_export.FRONTEND,
        tiny_export.LABELS,
        known=familiarity.Familiarity(*map(np.float32, facts)),
    )
    folder = tmp_path_factory.mktemp("classifier") / "1"
    folder.mkdir()
    card = model_card.from_run(tiny_export.RECORD, "mine", "0" * 64)
    next(onnx_export.write_onnx(trained, folder, card=card))  # checks would follow
    model_card.write(folder, card | trained.facts())
    return folder.parent


def test_a_classifier_of_ones_own_is_shown_with_its_verdict(
    chromium, page_source, classifier, tmp_path
):
    done = build(page_source, classifier, tmp_path / "music")
    assert done.returncode == 0, done.stderr
    path = write(tmp_path / "song.wav", music(40, seed=2), subtype="FLOAT")
    with served(tmp_path) as address, loaded(chromium, address) as page:
        choose(page, path)
        assert "unlike the training music" in page.inner_text("#note")
        assert page.is_hidden("#filter") and page.is_hidden("#all")
        expected = expected_scores(serving.Predictor(classifier), path)[1]
        found = page.eval_on_selector_all(
            "#labels data", "x => x.map(y => Number(y.value))"
        )
        assert found == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-4)


def test_the_page_is_not_built_without_its_parts_nor_over_other_files(
    classifier, tmp_path
):
    source = shutil.copytree(
        PAGE, tmp_path / "try", ignore=shutil.ignore_patterns("node_modules")
    )
    done = build(source, classifier, tmp_path / "site")
    assert done.returncode == 1 and "run npm ci --prefix" in done.stderr
    dist = source / "node_modules" / "onnxruntime-web" / "dist"
    dist.mkdir(parents=True)
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (dist / name).touch()
    for _ in range(2):  # also in the place of an older page
        assert build(source, classifier, tmp_path / "site").returncode == 0
    facts = json.loads((tmp_path / "site" / "model" / "facts.json").read_text())
    assert facts["labels"] == tiny_export.LABELS and facts["name"] == "mine"
    done = build(source, classifier, source)
    assert done.returncode == 1 and "not empty" in done.stderr
    assert (source / "index.html").exists()
    (classifier / "1" / "model.onnx").rename(classifier / "1" / "saved_model.pb")
    model_card.write(classifier / "1", {})
    done = build(source, classifier, tmp_path / "site")
    assert done.returncode == 1 and "export with --format=onnx" in done.stderr
