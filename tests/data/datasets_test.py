"""Tables, vocabularies and recordings of the collections."""

import collections
import errno
import gzip
import os
import pathlib

import numpy as np
import pytest

from genre_tl.data import datasets

PATHS = ("0/a-b-01-x-0-29.mp3", "0/a-b-01-x-29-58.mp3", "c/d-e-02-y-0-29.mp3")
MORE = ("d/g-h-03-z-0-29.mp3", "f/i-j-04-w-0-29.mp3")


def touch(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_table(path, rows):
    text = "".join("\t".join(f'"{cell}"' for cell in row) + "\n" for row in rows)
    data = text.encode()
    touch(path, gzip.compress(data) if path.suffix == ".gz" else data)


def make_tagged(root, paths=PATHS + MORE, name=datasets.ANNOTATIONS):
    header = ["rock", "mp3_path", "calm", "clip_id", "drums"]
    rows = [[int(i == 0), path, 1, 100 + i, int(i < 2)] for i, path in enumerate(paths)]
    write_table(root / name, [header, *rows])
    for path in paths:
        touch(root / path)


def make_gtzan(root, num_clips=4, suffix=".wav"):
    for genre in datasets.GTZAN_GENRES:
        for index in range(num_clips):
            touch(root / genre / f"{genre}.{index:05d}{suffix}")


# MagnaTagATune


def test_columns_go_by_their_names_and_tags_are_alphabetical(tmp_path):
    make_tagged(tmp_path)
    table = datasets.magnatagatune(tmp_path)
    assert table.vocabulary == ("calm", "drums", "rock")
    assert table.paths == PATHS + MORE
    assert table.labels.tolist() == [[1, 1, 1], [1, 1, 0], *[[1, 0, 0]] * 3]
    assert table.labels.dtype == np.uint8
    assert table.multi_label
    assert table.skipped == ()


def test_a_gzipped_table_and_an_mp3_folder_give_the_same(tmp_path):
    make_tagged(tmp_path / "plain")
    make_tagged(tmp_path / "zip" / "mp3", name="elsewhere.csv")
    make_tagged(tmp_path / "tables", name=datasets.ANNOTATIONS + ".gz")
    plain = datasets.magnatagatune(tmp_path / "plain")
    zipped = datasets.magnatagatune(tmp_path / "zip", tables=tmp_path / "tables")
    assert zipped.paths == plain.paths
    assert np.array_equal(zipped.labels, plain.labels)
    assert zipped.files[0] == str(tmp_path / "zip" / "mp3" / PATHS[0])


def test_clips_of_one_recording_are_one_group_with_and_without_clip_info(tmp_path):
    make_tagged(tmp_path)
    by_name = datasets.magnatagatune(tmp_path).groups
    assert [by_name.index(group) for group in by_name] == [0, 0, 2, 3, 4]
    urls = ["u", "v", "u", "w", "w"]
    rows = [[url, 100 + i] for i, url in enumerate(urls)]
    write_table(tmp_path / datasets.CLIP_INFO, [["original_url", "clip_id"], *rows])
    assert datasets.magnatagatune(tmp_path).groups == tuple(urls)


def test_a_clip_info_table_of_another_collection_is_refused(tmp_path):
    make_tagged(tmp_path)
    rows = [["original_url", "clip_id"], ["u", "100"]]
    write_table(tmp_path / datasets.CLIP_INFO, rows)
    with pytest.raises(ValueError, match=r"4 clip ids \(101, 102, 103, 104\)"):
        datasets.magnatagatune(tmp_path)


def test_a_table_that_does_not_fit_is_refused_with_count_and_first_names(tmp_path):
    paths = [f"0/clip_{i}-0-29.mp3" for i in range(9)]
    make_tagged(tmp_path, paths)
    for path in paths[1:]:
        (tmp_path / path).unlink()
    with pytest.raises(FileNotFoundError, match=r"8 clips \(0/clip_1-.*\.\.\.\)"):
        datasets.magnatagatune(tmp_path)
    assert len(datasets.magnatagatune(tmp_path, check_files=False)) == 9


def test_empty_and_unlisted_files_are_left_out_and_reported(tmp_path):
    make_tagged(tmp_path)
    touch(tmp_path / PATHS[1], b"")
    touch(tmp_path / "a" / "unlisted.mp3")
    touch(tmp_path / "a" / ".hidden.mp3")
    table = datasets.magnatagatune(tmp_path)
    assert PATHS[1] not in table.paths
    assert len(table) == 4
    assert table.skipped == (
        (PATHS[1], "empty file"),
        ("a/unlisted.mp3", "not in annotations_final.csv"),
    )


@pytest.mark.parametrize("is_there", [True, False])
def test_the_three_known_empty_clips_may_be_empty_or_absent(tmp_path, is_there):
    known = tuple(sorted(datasets.EMPTY_CLIPS))
    make_tagged(tmp_path, PATHS + known)
    for path in known:
        touch(tmp_path / path, b"")
        if not is_there:
            (tmp_path / path).unlink()
    table = datasets.magnatagatune(tmp_path)
    assert table.paths == PATHS
    assert [path for path, _ in table.skipped] == [*known]


def test_num_tags_keeps_the_commonest(tmp_path):
    make_tagged(tmp_path)
    table = datasets.magnatagatune(tmp_path, num_tags=2)
    assert table.vocabulary == ("calm", "drums")
    with pytest.raises(ValueError, match="num_tags is 4"):
        datasets.magnatagatune(tmp_path, num_tags=4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a tab-separated table"),
        ("clip_id,rock,mp3_path\n1,0,a\n", "not a tab-separated table"),
        ("clip_id\tx\ty\tmp3_path\n1\t0\t1\n", "1 of another length"),
        ("clip_id\tx\ty\tmp3_path\n1\t0\t2\t0/a\n", "neither 0 nor 1"),
        ("clip_id\tx\ty\tmp3_path\n1\t0\t\t0/a\n", "neither 0 nor 1"),
        ("clip_id\tx\tx\tmp3_path\n1\t0\t1\t0/a\n", "there twice"),
    ],
)
def test_a_malformed_table_is_refused_by_name(tmp_path, content, message):
    touch(tmp_path / datasets.ANNOTATIONS, content.encode())
    with pytest.raises(ValueError, match=message) as error:
        datasets.magnatagatune(tmp_path, check_files=False)
    assert datasets.ANNOTATIONS in str(error.value)


def test_a_folder_without_a_table_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no annotations_final\.csv"):
        datasets.magnatagatune(tmp_path)


def test_a_truncated_gzip_is_refused_by_name(tmp_path):
    make_tagged(tmp_path, name="whole.csv.gz")
    data = (tmp_path / "whole.csv.gz").read_bytes()
    touch(tmp_path / "annotations_final.csv.gz", data[:-12])
    with pytest.raises(ValueError, match=r"annotations_final\.csv\.gz"):
        datasets.magnatagatune(tmp_path)


def test_the_real_tables_have_the_published_sizes(shared):
    table = datasets.magnatagatune(shared / "data" / "magnatagatune", check_files=False)
    assert table.labels.shape == (25_860, 188)
    assert np.sum(~table.labels.any(axis=1)) == 4_221
    counts = collections.Counter(table.groups)
    assert len(counts) == 5_405
    assert max(counts.values()) == 75


def test_file_names_and_clip_info_give_the_same_real_recordings(shared, tmp_path):
    tables = shared / "data" / "magnatagatune"
    name = "annotations_final.csv.gz"
    (tmp_path / name).symlink_to(tables / name)
    by_info = datasets.magnatagatune(tables, check_files=False).groups
    by_name = datasets.magnatagatune(tmp_path, check_files=False).groups
    assert len(set(by_info)) == len(set(zip(by_info, by_name, strict=True)))
    assert len(set(by_name)) == len(set(by_info))


def test_fifty_real_tags_are_those_of_the_literature(shared):
    tables = shared / "data" / "magnatagatune"
    table = datasets.magnatagatune(tables, num_tags=50, check_files=False)
    assert len(table.vocabulary) == 50
    assert {"guitar", "choral", "metal", "no vocals"} <= set(table.vocabulary)
    # 997 clips of folders d, e and f have none of the 50 tags: counted in published
    # index files.
    test = [path[0] in "def" for path in table.paths]
    assert np.sum(~table.labels[test].any(axis=1)) == 997


def test_the_small_real_collection_loads_with_its_empty_files_reported(shared):
    table = datasets.load("auto", shared / "data" / "mini_mtt")
    assert table.name == "magnatagatune"
    assert table.labels.shape == (834, 188)
    assert [reason for _, reason in table.skipped] == ["empty file"] * 3


# GTZAN


@pytest.mark.parametrize("below", ["genres_original", "genres", "."])
@pytest.mark.parametrize("suffix", [".wav", ".au"])
def test_gtzan_is_found_in_either_layout_and_format(tmp_path, below, suffix):
    make_gtzan(tmp_path / below, suffix=suffix)
    table = datasets.load("auto", tmp_path)
    assert table.name == "gtzan"
    assert table.vocabulary == datasets.GTZAN_GENRES
    assert table.paths[0] == f"blues/blues.00000{suffix}"
    assert table.classes.tolist() == sorted([*range(10)] * 4)
    assert not table.multi_label


def test_hip_hop_is_hiphop_in_folder_and_file_name(tmp_path):
    make_gtzan(tmp_path)
    for path in sorted((tmp_path / "hiphop").iterdir()):
        touch(tmp_path / "hip-hop" / path.name.replace("hiphop", "hip-hop"))
        path.unlink()
    (tmp_path / "hiphop").rmdir()
    table = datasets.gtzan(tmp_path)
    assert table.vocabulary == datasets.GTZAN_GENRES
    assert "hiphop.00000" in table.groups


def test_strange_and_empty_files_of_gtzan_are_reported(tmp_path):
    make_gtzan(tmp_path)
    touch(tmp_path / "jazz" / "jazz.00054.wav", b"")
    touch(tmp_path / "jazz" / "mine.wav")
    table = datasets.gtzan(tmp_path)
    assert len(table) == 40
    assert dict(table.skipped) == {
        "jazz/jazz.00054.wav": "empty file",
        "jazz/mine.wav": "not named like a clip of GTZAN",
    }


def test_a_clip_in_two_formats_is_refused(tmp_path):
    make_gtzan(tmp_path)
    touch(tmp_path / "pop" / "pop.00000.au")
    with pytest.raises(ValueError, match=r"1 clip \(pop\.00000\) there twice"):
        datasets.gtzan(tmp_path)


def test_other_genres_are_not_gtzan(tmp_path):
    make_gtzan(tmp_path)
    touch(tmp_path / "polka" / "polka.00000.wav")
    with pytest.raises(ValueError, match="polka"):
        datasets.gtzan(tmp_path)
    assert datasets.load("auto", tmp_path).name == "folder"


# Folders of genres


def test_a_folder_of_genres_may_be_nested_and_mixed(tmp_path):
    touch(tmp_path / "Polka" / "anna" / "one" / "a.flac")
    touch(tmp_path / "Polka" / "anna" / "two" / "b.MP3")
    touch(tmp_path / "Hip Hop" / "c.ogg")
    touch(tmp_path / "Hip Hop" / ".DS_Store")
    touch(tmp_path / ".git" / "d.wav")
    touch(tmp_path / "README.txt")
    table = datasets.load("auto", tmp_path)
    assert table.vocabulary == ("Polka", "hiphop")
    assert table.paths == (
        "Hip Hop/c.ogg",
        "Polka/anna/one/a.flac",
        "Polka/anna/two/b.MP3",
    )
    assert table.classes.tolist() == [1, 0, 0]
    assert table.groups[1] == table.groups[2] != table.groups[0]
    assert table.skipped == ()


def test_what_a_folder_of_genres_leaves_out_is_reported(tmp_path):
    touch(tmp_path / "a" / "x.wav")
    touch(tmp_path / "b" / "y.wav")
    touch(tmp_path / "b" / "z.m4a")
    touch(tmp_path / "b" / "cover")
    touch(tmp_path / "b" / "zero.wav", b"")
    touch(tmp_path / "stray.wav")
    (tmp_path / "a" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    table = datasets.folder(tmp_path)
    assert table.paths == ("a/x.wav", "b/y.wav")
    assert dict(table.skipped) == {
        "a/gone.wav": "cannot be read: No such file or directory",
        "a/loop": "linked folder, not followed",
        "b/cover": "format without a suffix is not read",
        "b/z.m4a": "format .m4a is not read; convert it to FLAC, WAV or MP3",
        "b/zero.wav": "empty file",
        "stray.wav": "not in a folder",
    }


def test_a_folder_that_cannot_be_entered_is_reported(tmp_path, monkeypatch):
    for path in ("a/x.wav", "a/artist/y.wav", "b/z.wav"):
        touch(tmp_path / path)
    scandir = os.scandir

    def closed(path):
        if pathlib.Path(path).name == "artist":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    table = datasets.folder(tmp_path)
    assert table.paths == ("a/x.wav", "b/z.wav")
    reason = "folder cannot be read: Permission denied"
    assert table.skipped == (("a/artist", reason),)


def test_a_linked_genre_folder_is_read(tmp_path):
    touch(tmp_path / "elsewhere" / "sub" / "x.wav")
    touch(tmp_path / "root" / "a" / "x.wav")
    (tmp_path / "root" / "b").symlink_to(tmp_path / "elsewhere")
    assert datasets.folder(tmp_path / "root").paths == ("a/x.wav", "b/sub/x.wav")


def test_too_few_or_empty_genres_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        datasets.load("auto", tmp_path / "absent")
    with pytest.raises(ValueError, match="0 genre folders"):
        datasets.folder(tmp_path)
    touch(tmp_path / "a" / "x.wav")
    with pytest.raises(ValueError, match=r"1 genre folder \(a\)"):
        datasets.folder(tmp_path)
    touch(tmp_path / "b" / "notes.txt")
    with pytest.raises(ValueError, match=r"1 genre \(b\) without a usable clip"):
        datasets.folder(tmp_path)
    with pytest.raises(ValueError, match="'mtt'"):
        datasets.load("mtt", tmp_path)


def test_a_part_of_the_real_gtzan_loads(shared):
    table = datasets.load("auto", shared / "data" / "gtzan")
    assert (table.name, len(table)) == ("gtzan", 70)


# The table


def test_tags_have_no_classes(tmp_path):
    make_tagged(tmp_path)
    with pytest.raises(ValueError, match="no single genre"):
        _ = datasets.magnatagatune(tmp_path).classes


def test_select_takes_rows_in_the_given_order(tmp_path):
    make_tagged(tmp_path)
    table = datasets.magnatagatune(tmp_path)
    part = table.select([2, 0])
    assert part.paths == (PATHS[2], PATHS[0])
    assert np.array_equal(part.labels, table.labels[[2, 0]])
    assert part.groups == (table.groups[2], table.groups[0])


def test_an_inconsistent_table_is_refused():
    def table(paths, labels, groups):
        root = pathlib.Path("root")
        return datasets.Dataset("x", root, paths, labels, ("u", "v"), groups, False)

    eye = np.eye(2, dtype=np.uint8)
    assert len(table(("a", "b"), eye, ("a", "b"))) == 2
    with pytest.raises(ValueError, match="do not fit"):
        table(("a",), eye, ("a",))
    with pytest.raises(ValueError, match="twice"):
        table(("a", "a"), eye, ("a", "b"))
    with pytest.raises(ValueError, match="exactly one genre"):
        table(("a", "b"), 0 * eye, ("a", "b"))


def test_groups_that_share_audio_become_one(tmp_path):
    paths = ["x/3.wav", "x/a/1.wav", "x/a/2.wav", "y/b/4.wav", "y/c/5.wav", "y/d/6.wav"]
    for path in paths:
        touch(tmp_path / path)
    table = datasets.folder(tmp_path)
    assert list(table.paths) == paths
    # 3 is 4; 2 is 5, which brings 1 with it; 6 stands alone.
    groups = table.joined([0, 1, 2, 0, 2, 3]).groups
    assert [groups.index(group) for group in groups] == [0, 1, 1, 0, 1, 5]
    assert table.joined(range(6)).groups == table.groups
