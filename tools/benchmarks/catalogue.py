"""Speed and memory of a catalogue of many tracks."""

from __future__ import annotations

import functools
import multiprocessing
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np

from genre_tl.library import catalogue
from genre_tl.serving import predictor

from . import files, timing

_NUM_TRACKS = 100_000
_NUM_LABELS, _NUM_UNITS = 367, 256  # of the starter
_MODEL = catalogue.Model(
    "made up", "1", "scores", "embedding", tuple(map(str, range(_NUM_LABELS))), True
)


def speed(repeats: int) -> None:
    """Prints times of a catalogue of 100,000 tracks with made-up results."""
    with tempfile.TemporaryDirectory() as folder:
        secs = timing.once(lambda: _fill(folder))
        size = (pathlib.Path(folder) / catalogue.FILE).stat().st_size
        # Opened in a process of its own, whose memory is that of the catalogue.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            measured = pool.apply(_measure, (folder, repeats))
    rows = [["added", f"{secs:.0f} s"], *measured]
    timing.table(f"{_NUM_TRACKS:,} tracks, {size / 1e6:.0f} MB on disk", ["", ""], rows)


def _fill(folder: str) -> None:
    with catalogue.Catalogue(folder, _MODEL) as opened:
        opened.add(_results(pathlib.Path(folder)))


def _results(folder: pathlib.Path) -> Iterator[predictor.Result]:
    sizes = _NUM_LABELS, _NUM_UNITS
    random = np.random.default_rng(0)
    for number in range(_NUM_TRACKS):
        path = folder / f"{number % 1000:03d}" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"%d" % number)
        scores, embedding = (random.random(x, np.float32) for x in sizes)
        yield predictor.Result(str(path), scores, embedding - 0.5, secs=200.0)


def _measure(folder: str, repeats: int) -> list[list[str]]:
    """Returns rows of a table; its memory is that of this process."""
    begin = time.perf_counter()
    opened = catalogue.Catalogue(folder, _MODEL)
    pages = {
        sort: catalogue.Query(sort=sort, state="open", limit=50)
        for sort in ("path", "doubt", "score")
    } | {"search": catalogue.Query(text="9999", limit=50)}
    first = opened.rows(pages["doubt"])
    secs = {"opened, first page": time.perf_counter() - begin}
    secs["first neighbours"] = timing.once(lambda: opened.nearest(first[0].path))
    rows = [[name, f"{x:.2f} s"] for name, x in secs.items()]
    calls: dict[str, Callable[[], object]] = {
        f"a page by {name}": functools.partial(opened.rows, query)
        for name, query in pages.items()
    } | {"number of open tracks": functools.partial(opened.count, pages["doubt"])}
    times = {
        name: [timing.once(x) for _ in range(repeats)] for name, x in calls.items()
    }
    some = [functools.partial(opened.nearest, row.path) for row in first]
    times["neighbours of 50 tracks"] = [timing.once(x) for x in some]
    rows += [[name, timing.milliseconds(x)] for name, x in times.items()]
    rows.append(["peak memory so far", files.peak_memory()])
    rows.append(["map", f"{timing.once(opened.positions):.1f} s"])
    rows.append(["map again", f"{timing.once(opened.positions):.2f} s"])
    rows.append(["peak memory", files.peak_memory()])
    return rows
