"""Object stores: a place in the cache, kept up to date, and errors on the way.

`tests/support/object_store.py` is a server of the S3 protocol, from moto.
"""

import os
import pathlib
import stat

import numpy as np
import pytest
from support import object_store

from genre_tl import files, storage


@pytest.fixture
def server(monkeypatch, tmp_path):
    with object_store.serving(monkeypatch, tmp_path / "cache") as faults:
        monkeypatch.setattr(storage, "_WAIT_SECS", 0.01)
        yield faults


def test_a_path_that_is_no_url_is_left_alone(tmp_path):
    (tmp_path / "a.json").write_text("1")
    assert storage.pulled(tmp_path) == tmp_path
    assert storage.url(tmp_path / "a.json") is None
    with storage.content(tmp_path / "a.json") as path:
        assert path == tmp_path / "a.json"
    assert storage.pulled(f"file://{tmp_path}") == tmp_path
    assert storage.shown(f"{tmp_path}: x") == f"{tmp_path}: x"


def test_a_url_has_a_place_that_tells_the_url(monkeypatch, tmp_path):
    monkeypatch.setenv(storage.CACHE, str(tmp_path))
    place = storage.local("s3://bucket/music/a b.mp3")
    assert place == tmp_path / "s3/bucket/music/a b.mp3"
    assert storage.url(place) == "s3://bucket/music/a b.mp3"
    assert storage.shown(f"no {place}: x") == "no s3://bucket/music/a b.mp3: x"


@pytest.mark.parametrize("url", ["s3://bucket", "s3://", "s3://b/../c", "gs://b//c"])
def test_a_url_without_a_folder_is_refused(url):
    with pytest.raises(ValueError, match="name a bucket, and a folder or file in it"):
        storage.local(url)


def test_an_unknown_protocol_names_the_packages(monkeypatch, tmp_path):
    monkeypatch.setenv(storage.CACHE, str(tmp_path))
    with pytest.raises(ValueError, match=r"nosuch:// cannot be used .*genre_tl\[s3\]"):
        storage.pulled("nosuch://bucket/x")


def test_names_sizes_and_tables_come_at_once_and_audio_when_it_is_read(server):
    client = object_store.client()
    for key, body in (("m/a/1.wav", b"sound"), ("m/t.csv", b"a,b"), ("m2/x.csv", b"")):
        client.put_object(Bucket="bucket", Key=key, Body=body)
    place = storage.pulled("s3://bucket/m")
    found = sorted(x.relative_to(place).as_posix() for x in place.rglob("*.*"))
    assert found == ["a/1.wav", "t.csv"]
    assert (place / "t.csv").read_text() == "a,b"
    wav = (place / "a/1.wav").stat()
    head = client.head_object(Bucket="bucket", Key="m/a/1.wav")
    assert wav.st_size == 5
    assert wav.st_mtime == head["LastModified"].timestamp()
    assert not stat.S_IMODE(wav.st_mode)  # nobody takes zeros for the content
    with storage.content(place / "a/1.wav") as path:
        assert path.read_bytes() == b"sound"
    assert not path.exists()


def test_what_is_deleted_or_changed_there_is_so_here(server):
    client = object_store.client()
    for key in ("m/a/1.csv", "m/b/2.csv", "m/b/3.csv"):
        client.put_object(Bucket="bucket", Key=key, Body=b"old")
    place = storage.pulled("s3://bucket/m")
    client.delete_object(Bucket="bucket", Key="m/a/1.csv")
    client.put_object(Bucket="bucket", Key="m/b/2.csv", Body=b"longer")
    storage.pull(place)
    assert [x.name for x in place.iterdir()] == ["b"]
    assert (place / "b/2.csv").read_text() == "longer"
    assert (place / "b/3.csv").read_text() == "old"


def test_what_is_written_atomically_is_put_and_what_is_removed_is_deleted(server):
    place = storage.pulled("s3://bucket/run")
    place.mkdir()
    files.write_json(place / "run.json", {"a": 1})
    files.write_text(place / "sub.txt", "x")
    assert object_store.contents("run") == {
        "run.json": b'{\n "a": 1\n}\n',
        "sub.txt": b"x",
    }
    before = (place / "run.json").stat()
    storage.pull(place)  # nothing new
    assert (place / "run.json").stat() == before
    files.remove(place / "sub.txt")
    assert [*object_store.contents("run")] == ["run.json"]
    files.remove(place)
    assert not object_store.contents("run") and not place.exists()


def test_what_could_not_be_put_is_not_there_either(server, monkeypatch):
    monkeypatch.setattr(storage, "_ATTEMPTS", 1)
    place = storage.pulled("s3://nosuchbucket/run")
    place.mkdir()
    with pytest.raises(FileNotFoundError, match="s3://nosuchbucket/run/run.json"):
        files.write_json(place / "run.json", {})
    assert not list(place.iterdir())


def test_shards_are_read_by_position_with_and_without_room_in_the_cache(
    server, monkeypatch
):
    name, content = "0" * 32 + ".tfrecord", np.random.default_rng(0).bytes(10_000)
    object_store.client().put_object(Bucket="bucket", Key=f"s/{name}", Body=content)
    place = storage.pulled("s3://bucket/s") / name
    monkeypatch.setattr(storage, "_has_room", lambda size: False)
    assert storage.read_at(place, 4000, 100) == content[4000:4100]
    assert storage.read_at(place, 9990, 100) == content[9990:]
    assert not os.stat(place).st_blocks
    monkeypatch.setattr(storage, "_has_room", lambda size: True)
    assert storage.read_at(place, 4000, 100) == content[4000:4100]
    assert place.read_bytes() == content
    storage.pull(place.parent)
    assert place.read_bytes() == content


def test_a_shard_is_not_kept_where_there_is_no_room(server, monkeypatch):
    monkeypatch.setattr(storage, "_has_room", lambda size: False)
    place = storage.pulled("s3://bucket/s")
    place.mkdir()
    with files.whole(place / ("1" * 32 + ".tfrecord")) as path:
        path.write_bytes(b"frames")
    assert storage.read_at(place / ("1" * 32 + ".tfrecord"), 1, 3) == b"ram"
    (shard,) = place.iterdir()
    assert (shard.stat().st_size, shard.stat().st_blocks) == (6, 0)


def test_errors_on_the_way_are_tried_again(server):
    content = np.random.default_rng(0).bytes(300_000)
    server.share = 0.3
    place = storage.pulled("s3://bucket/d")
    place.mkdir()
    for number in range(10):
        with files.whole(place / f"{number}.npz") as path:
            path.write_bytes(content[number:])
    for path in place.iterdir():
        path.unlink()
    storage.pull(place)
    server.share = 0
    assert {name: len(x) for name, x in object_store.contents("d").items()} == {
        f"{n}.npz": len(content) - n for n in range(10)
    }
    for number in range(10):
        assert (place / f"{number}.npz").read_bytes() == content[number:]
    assert min(server.counts[kind] for kind in object_store.KINDS) > 0


def test_a_service_that_never_answers_is_named_with_a_remedy(server, monkeypatch):
    server.share = 1.0
    monkeypatch.setattr(storage, "_ATTEMPTS", 1)
    monkeypatch.setattr(object_store, "KINDS", ("busy",))
    with pytest.raises(OSError, match="s3://bucket/x: failed 1 times.*then rerun"):
        storage.pulled("s3://bucket/x")
    server.share = 0.0


def test_refused_access_is_an_error_at_once(monkeypatch):
    pytest.importorskip("fsspec", reason="NOT RUN: fsspec is not installed")
    calls = []

    def refuse(fs):
        calls.append(fs)
        raise PermissionError("Access Denied")

    with pytest.raises(OSError, match="memory://a/b: no access .*AWS_ACCESS_KEY_ID"):
        storage._tried("memory://a/b", refuse)
    assert len(calls) == 1


def test_other_file_systems_work_alike(monkeypatch, tmp_path):
    fsspec = pytest.importorskip("fsspec", reason="NOT RUN: fsspec is not installed")
    monkeypatch.setenv(storage.CACHE, str(tmp_path))
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/music/rock/a.mp3", b"sound")
    place = storage.pulled("memory://music/rock")
    with storage.content(place / "a.mp3") as path:
        assert path.read_bytes() == b"sound"
    files.write_text(place / "b.txt", "x")
    assert memory.cat_file("/music/rock/b.txt") == b"x"
    memory.rm("/music", recursive=True)
    storage.pull(place)
    assert not list(pathlib.Path(tmp_path).rglob("*.txt"))
