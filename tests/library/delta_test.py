"""Descriptions of files by changed copies."""

import json

import hypothesis
import pytest
from hypothesis import strategies

from genre_tl.library import delta

BYTES = strategies.binary(max_size=300)


def roundtrip(folder, old, new):
    """Returns the length of a description, after a check that it restores `old`."""
    (folder / "old").write_bytes(old)
    (folder / "new").write_bytes(new)
    text = json.dumps(delta.describe(folder / "old", folder / "new"))
    restored = b"".join(delta.restored(json.loads(text), folder / "new"))
    assert restored == old
    return len(text)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(delta, "_BLOCK_BYTES", 512)


@hypothesis.given(BYTES, BYTES, BYTES, BYTES, strategies.integers(0, 4))
def test_any_file_is_restored(tmp_path_factory, head, tail, tag, other, copies):
    folder = tmp_path_factory.mktemp("delta")
    middle = bytes(range(256)) * copies
    roundtrip(folder, head + tag + middle + tail, other + middle + tail + tag)


@pytest.mark.parametrize(
    "old, new",
    [
        (b"{}old{}", b"{}brand new{}"),
        (b"size1{}", b"size2{}tag at the end"),
        (b"tag to be shorter{}end", b"tag{}and"),
        (b"same{}{}", b"same{}{}"),
    ],
)
def test_audio_at_its_distance_from_beginning_or_end_is_not_stored(tmp_path, old, new):
    audio = bytes(x * x % 251 for x in range(100_000))
    size = roundtrip(tmp_path, old.replace(b"{}", audio), new.replace(b"{}", audio))
    assert size < 1_000


def test_a_copy_that_was_cut_off_is_an_error(tmp_path):
    roundtrip(tmp_path, b"a" * 1000, b"a" * 1000)
    description = delta.describe(tmp_path / "old", tmp_path / "new")
    (tmp_path / "new").write_bytes(b"a" * 900)
    with pytest.raises(ValueError, match="shorter than when it was written"):
        list(delta.restored(description, tmp_path / "new"))
