"""Speed and memory of a catalogue of many tracks."""

from __future__ import annotations

import multiprocessing
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from genre_tl.library import catalogue
from genre_tl.serving import predictor

from . import files, timing

_SIZES = 100_000, 367, 256  # tracks; labels and units of the starter
_MODEL = catalogue.Model(
    "made up", "1", "scores", "embedding", tuple(map(str, range(_SIZES[1]))), True
)


def speed(repeats: int) -> None:
    """Prints times of a catalogue of 100,000 tracks with made-up results."""
    with tempfile.TemporaryDirectory() as folder:
        secs = timing.once(lambda: _fill(folder))
        size = (pathlib.Path(folder) / catalogue.FILE).stat().st_size
        # Opened in a process of its own, whose memory is that of the catalogue.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows, peak = pool.apply(_measure, (folder, repeats))
    rows = [["added", f"{secs:.0f} s"], *rows]
    timing.table(f"{_SIZES[0]:,} tracks, {size / 1e6:.0f} MB on disk", ["", ""], rows)
    print(f"\nPeak memory: {peak}")


def _fill(folder: str) -> None:
    with catalogue.Catalogue(folder, _MODEL) as opened:
        opened.add(_results(pathlib.Path(folder)))


def _results(folder: pathlib.Path) -> Iterator[predictor.Result]:
    num_tracks, num_labels, num_units = _SIZES
    random = np.random.default_rng(0)
    for number in range(num_tracks):
        path = folder / f"{number % 1000:03d}" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"%d" % number)
        scores, embedding = (random.random(x, np.float32) for x in _SIZES[1:])
        yield predictor.Result(str(path), scores, embedding - 0.5, secs=200.0)


def _measure(folder: str, repeats: int) -> tuple[list[list[str]], str]:
    """Returns rows of a table, and the peak memory of this process."""
    begin = time.perf_counter()
    opened = catalogue.Catalogue(folder, _MODEL)
    pages = {
        sort: catalogue.Query(sort=sort, state="open", limit=50)
        for sort in ("path", "doubt", "score")
    } | {"search": catalogue.Query(text="9999", limit=50)}
    first = opened.rows(pages["doubt"])
    secs = {"opened, first page": time.perf_counter() - begin}
    secs["first neighbours"] = timing.once(lambda: opened.nearest(first[0].path))
    rows: list[list[Any]] = [[name, f"{x:.2f} s"] for name, x in secs.items()]
    paths = [row.path for row in first]
    found = [timing.once(lambda p=p: opened.nearest(p)) for p in paths]  # type: ignore
    rows.append(["neighbours of 50 tracks", timing.milliseconds(found)])
    for name, query in pages.items():
        times = [timing.once(lambda: opened.rows(query)) for _ in range(repeats)]
        rows.append([f"a page by {name}", timing.milliseconds(times)])
    counts = [timing.once(lambda: opened.count(pages["doubt"])) for _ in range(repeats)]
    rows.append(["number of open tracks", f"{1e3 * statistics.median(counts):.0f} ms"])
    rows.append(["map", f"{timing.once(opened.positions):.1f} s"])
    rows.append(["map again", f"{timing.once(opened.positions):.2f} s"])
    return rows, files.peak_memory(of_children=False)
