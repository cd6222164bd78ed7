"""Miniature collections on disk, without audio in them."""

import gzip

from genre_tl.data import gtzan, magnatagatune

PATHS = ("0/a-b-01-x-0-29.mp3", "0/a-b-01-x-29-58.mp3", "c/d-e-02-y-0-29.mp3")
MORE = ("d/g-h-03-z-0-29.mp3", "f/i-j-04-w-0-29.mp3")


def touch(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_table(path, rows, newline="\n", encoding="utf-8"):
    lines = ("\t".join(f'"{cell}"' for cell in row) + newline for row in rows)
    data = "".join(lines).encode(encoding)
    touch(path, gzip.compress(data) if path.suffix == ".gz" else data)


def make_magnatagatune(
    root, paths=PATHS + MORE, name=magnatagatune.ANNOTATIONS, **kwargs
):
    """Writes clips and annotations: all calm, the first two drums, the first rock."""
    header = ["rock", "mp3_path", "calm", "clip_id", "drums"]
    rows = [[int(i == 0), path, 1, 100 + i, int(i < 2)] for i, path in enumerate(paths)]
    write_table(root / name, [header, *rows], **kwargs)
    for path in paths:
        touch(root / path)


def make_gtzan(root, num_clips=4, suffix=".wav"):
    for genre in gtzan.GENRES:
        for index in range(num_clips):
            touch(root / genre / f"{genre}.{index:05d}{suffix}")
