"""`tools.explore` in a real browser, as a person uses it, tab by tab."""

import contextlib
import functools
import re

import numpy as np
import pytest
import soundfile
from support import browser, explored, tiny_tagger

from genre_tl.serving import predictor

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="NOT RUN IN A BROWSER: no playwright here"
)
sync_api.expect.set_options(timeout=60_000)
expect = sync_api.expect

RATE = 16_000
TABS = ("label", "listen", "review", "train", "map")
GENRES = ("noise", "tone")


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as found:
        yield found


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    return tiny_tagger.save(tmp_path_factory.mktemp("tagger"))


@pytest.fixture(scope="module", autouse=True)
def _loaded_once():
    """Loads a model once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor, "Predictor", functools.cache(predictor.Predictor))
        yield


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Eight files with misleading names, in no folder of a genre."""
    folder = tmp_path_factory.mktemp("music")
    for seed in range(8):
        tiny_tagger.write(folder / f"{seed} <b>.wav", GENRES[seed % 2], seed)
    return folder


@pytest.fixture(scope="module")
def served(tagger, music, tmp_path_factory):
    with explored.running(tagger, tmp_path_factory.mktemp("work"), music) as found:
        explored.wait(found[0])
        yield found


@pytest.fixture(scope="module")
def labelled(served):
    application, url = served
    application.posts["label"]()
    explored.wait(application)
    return application, url


@pytest.fixture
def serve(tagger):
    """Starts the application on folders; stops it after the pages are closed."""
    with contextlib.ExitStack() as stack:

        def serve(*folders):
            found = stack.enter_context(explored.running(tagger, *folders))
            explored.wait(found[0])
            return found

        yield serve


@pytest.fixture
def open_page(chromium, serve):
    """Opens a tab of an address; closes all at the end."""
    with contextlib.ExitStack() as stack:

        def open_page(url, tab="label", **context):
            page = stack.enter_context(browser.page(chromium, **context))
            page.goto(f"{url}/#{tab}")
            expect(page.locator("#about")).to_contain_text("Model")
            return page

        yield open_page


def text_of(page, selector):
    return page.locator(selector).inner_text()


def quiet_then_loud():
    """Two seconds of 400 Hz, softly, then two of 3,200 Hz."""
    time = np.arange(2 * RATE) / RATE
    tones = [0.05 * np.sin(2 * np.pi * 400 * time), np.sin(2 * np.pi * 3200 * time)]
    return np.concatenate(tones).astype(np.float32)


def test_the_empty_page_says_model_and_collection(serve, music, tmp_path, open_page):
    _, url = serve(tmp_path / "work", music)
    page = open_page(url)
    expect(page.locator("#about")).to_contain_text("tagger version 1: 7 tags")
    expect(page.locator("#about")).to_contain_text("0 labelled files")
    expect(page.locator("#rows")).to_have_text("No files yet.")
    expect(page.locator("#collection")).to_contain_text("8 files that are not")
    page.click("#label-collection")
    expect(page.locator("#rows tr")).to_have_count(8)
    expect(page.locator("#job")).to_be_hidden()
    expect(page.locator("#collection")).to_be_hidden()


def test_dropped_files_are_a_queue_and_bad_ones_get_a_reason(
    serve, tmp_path, open_page
):
    paths = [tiny_tagger.write(tmp_path / f"{x}.wav", "tone", x) for x in range(3)]
    (tmp_path / "page.html").write_text("<b>no audio</b>")
    _, url = serve(tmp_path / "work")
    page = open_page(url)
    page.set_input_files("#file", [*map(str, paths), str(tmp_path / "page.html")])
    expect(page.locator("#rows tr")).to_have_count(4)
    failed = page.locator("#rows tr", has_text="page.html")
    expect(failed).to_contain_text("not audio")
    page.evaluate(DROP)
    expect(page.locator("#rows tr", has_text="dropped.txt")).to_be_visible()
    expect(page.locator("#job")).to_be_hidden()
    page.click("th button:has-text('Score')")
    expect(page.locator("th[aria-sort=descending]")).to_contain_text("Score")
    page.fill("#filter-text", "1.w")
    expect(page.locator("#rows tr")).to_have_count(1)
    with page.expect_download() as download:
        page.click("#export")
    head, *lines = download.value.path().read_text("utf-8").splitlines()
    assert head.startswith("path,best,verdict,familiarity,note,error,calm,")
    assert len(lines) == 5


DROP = """() => {
  const files = new DataTransfer();
  files.items.add(new File(['no audio'], 'dropped.txt'));
  document.getElementById('drop').dispatchEvent(
    new DragEvent('drop', {dataTransfer: files, bubbles: true}));
}"""

GIANT = """() => {
  const giant = new File(['x'], 'giant.wav'), files = new DataTransfer();
  Object.defineProperty(giant, 'size', {value: 2 ** 30 + 1});
  const event = new DragEvent('drop', {bubbles: true});
  Object.defineProperty(event, 'dataTransfer', {value: {items: [], files: [giant]}});
  document.body.dispatchEvent(event);
}"""


def test_a_file_that_is_too_large_is_not_sent(served, open_page):
    page = open_page(served[1])
    page.evaluate(GIANT)
    expect(page.locator("#message")).to_contain_text("giant.wav: larger than 1 GiB")


def page_with(serve, open_page, path):
    """Writes a file of sound, and drops it on a page without others."""
    soundfile.write(path, quiet_then_loud(), RATE)
    _, url = serve(path.parent / "work")
    page = open_page(url)
    page.set_input_files("#file", str(path))
    return page


def test_a_file_is_heard_and_seen_in_step(serve, tmp_path, open_page):
    page = page_with(serve, open_page, tmp_path / "two <b>tones.wav")
    page.click("#rows button:has-text('Listen')")
    expect(page.locator("#listen-name")).to_have_text("two <b>tones.wav")
    expect(page.locator("#listen-note")).to_have_text("0:04")
    expect(page.locator("#when")).to_have_text("At 0:00")
    page.focus("#views")
    for key, when, left in (
        ("End", "At 0:04", "100%"),
        ("Home", "At 0:00", "0%"),
        ("ArrowRight", "At 0:04", "100%"),
        ("ArrowLeft", "At 0:00", "0%"),
    ):
        page.keyboard.press(key)
        expect(page.locator("#when")).to_have_text(when)
        assert page.evaluate(LEFT) == left
    box = page.locator("#views").bounding_box()
    page.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + 30)
    expect(page.locator("#when")).to_have_text("At 0:02")
    expect(page.locator("#views")).to_have_attribute("aria-valuetext", "0:02")
    page.keyboard.press("Home")
    page.keyboard.press(" ")
    expect(page.locator("#cursor")).not_to_have_attribute("style", "left: 0%;")
    page.keyboard.press(" ")
    for canvas in ("wave", "scales", "genres"):
        assert page.evaluate(COLOURS, canvas) > 1, canvas


LEFT = "() => document.getElementById('cursor').style.left"
COLOURS = """id => {
  const {width, height} = document.getElementById(id);
  const context = document.getElementById(id).getContext('2d');
  const {data} = context.getImageData(0, 0, width, height);
  return new Set(new Uint32Array(data.buffer)).size;
}"""


def test_a_format_that_the_browser_does_not_play_is_played(serve, tmp_path, open_page):
    page = page_with(serve, open_page, tmp_path / "tones.aiff")
    page.click("#rows button:has-text('▶')")
    expect(page.locator("#player")).to_have_js_property("duration", 4)
    expect(page.locator("#player")).to_have_js_property("paused", False)


def test_a_late_answer_never_replaces_a_newer_one(labelled, open_page):
    page, held = open_page(labelled[1]), []
    page.route("**/api/analysis*", lambda route: held.append(route))
    page.locator("#rows button:has-text('Listen')").nth(0).click()
    page.click("#tab-label")
    page.locator("#rows button:has-text('Listen')").nth(1).click()
    while len(held) < 2:
        page.wait_for_timeout(20)
    held[1].continue_()
    expect(page.locator("#listen-name")).to_have_text("1 <b>.wav")
    with contextlib.suppress(Exception):  # The page may have given it up.
        held[0].continue_()
    page.wait_for_timeout(500)
    assert text_of(page, "#listen-name") == "1 <b>.wav"
    assert text_of(page, "#playing") == "1 <b>.wav"


def test_review_is_done_with_keys_and_kept(serve, music, tmp_path, open_page):
    application, url = serve(tmp_path / "work", music)
    application.posts["label"]()
    explored.wait(application)
    page = open_page(url, "review")
    count = page.locator("#review-count")
    expect(count).to_have_text("8 files to review, 0 corrections")
    names = [text_of(page, "#review-name")]
    for keys, expected in (
        (["a"], "7 files to review, 1 corrections"),
        (["c", *"dub", "Enter"], "6 files to review, 2 corrections"),
        (["s"], "5 files to review, 2 corrections"),
        (["2"], "4 files to review, 3 corrections"),
    ):
        for key in keys:
            page.keyboard.press(key)
        expect(count).to_have_text(expected)
        expect(page.locator("#review-name")).not_to_have_text(names[-1])
        names.append(text_of(page, "#review-name"))
    assert len(set(names)) == 5
    page.keyboard.press("u")
    expect(count).to_have_text("5 files to review, 2 corrections")
    expect(page.locator("#review-name")).to_have_text(names[3])
    page.keyboard.press("p")
    expect(page.locator("#playing")).to_have_text(names[3])
    _, url = serve(tmp_path / "work", music)
    page = open_page(url, "review")
    expect(page.locator("#review-count")).to_contain_text("2 corrections")
    page.click("#tab-label")
    row = page.locator("#rows tr", has_text=names[1])
    expect(row.locator("td").nth(4)).to_have_text("dub")


def test_corrections_train_a_version_that_labels_from_then_on(
    serve, music, tmp_path, open_page, monkeypatch
):
    explored.without_checks(monkeypatch)
    application, url = serve(tmp_path / "work", music)
    application.posts["label"]()
    explored.wait(application)
    page = open_page(url, "train")
    expect(page.locator("#found-text")).to_contain_text("correct some files")
    expect(page.locator("#start-training")).to_be_disabled()
    for row in application.gets["review"]("doubt")["rows"][:6]:
        genre = GENRES[int(row["name"][0]) % 2]
        application.posts["correct"](row["id"], genre)
    page.click("#look button:has-text('Look')")
    expect(page.locator("#found-text")).to_have_text("6 files in 2 genres")
    page.click("#start-training")
    expect(page.locator("#trained h2")).to_have_text("Version 1 is used now")
    expect(page.locator("#trained")).to_contain_text(
        re.compile(r"After: \d+ % of 6 files right")
    )
    expect(page.locator("#about")).to_contain_text("2 genres (noise, tone)")
    explored.wait(application)
    page.click("#tab-label")
    for seed in range(8):
        row = page.locator("#rows tr", has_text=f"{seed} <b>.wav")
        expect(row.locator("td").nth(1)).to_have_text(GENRES[seed % 2])
    page.click("#tab-review")
    expect(page.locator("#review-count")).to_contain_text("2 files to review")


def test_the_map_is_walked_with_keys_and_similar_files_are_played(labelled, open_page):
    page = open_page(labelled[1], "map")
    expect(page.locator("#legend li").first).to_be_visible()
    page.focus("#points")
    seen = set()
    for key in ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"):
        for _ in range(8):
            page.keyboard.press(key)
            seen.add(text_of(page, "#map-name"))
    assert len(seen) > 4
    page.fill("#map-find", "3 <b>")
    expect(page.locator("#map-name")).to_have_text("3 <b>.wav")
    similar = page.locator("#map-similar li")
    expect(similar.first).to_contain_text(re.compile(r"^[157] <b>\.wav"))  # tones too
    similar.first.locator("button:has-text('▶')").click()
    expect(page.locator("#playing")).to_have_text(re.compile(r"^[157] <b>\.wav"))


def test_the_tabs_are_walked_with_keys(labelled, open_page):
    page = open_page(labelled[1])
    page.focus("#tab-label")
    for name in (*TABS[1:], TABS[0]):
        page.keyboard.press("ArrowRight")
        expect(page.locator(f"#{name}")).to_be_visible()
        expect(page.locator("[aria-selected=true]")).to_have_id(f"tab-{name}")
        expect(page.locator("[role=tabpanel]:visible")).to_have_count(1)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_no_tab_has_serious_faults_of_accessibility_or_is_too_wide(
    labelled, open_page, width, scheme
):
    page = open_page(labelled[1], width=width, color_scheme=scheme)
    page.locator("#rows button:has-text('Listen')").first.click()
    expect(page.locator("#listen-result")).to_be_visible()
    for name in TABS:
        page.click(f"#tab-{name}")
        page.wait_for_timeout(300)
        assert not browser.accessibility_faults(page), name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
