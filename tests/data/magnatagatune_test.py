"""Tables, tags and recordings of MagnaTagATune."""

import collections
import gzip

import numpy as np
import pytest
from support import collection_files
from support.collection_files import MORE, PATHS, touch, write_table

from genre_tl.data import collection, magnatagatune


def test_columns_go_by_their_names_and_tags_are_alphabetical(tmp_path):
    collection_files.make_magnatagatune(tmp_path)
    table = magnatagatune.load(tmp_path)
    assert table.vocabulary == ("calm", "drums", "rock")
    assert table.paths == PATHS + MORE
    assert table.labels.tolist() == [[1, 1, 1], [1, 1, 0], *[[1, 0, 0]] * 3]
    assert table.labels.dtype == np.uint8
    assert table.multi_label
    assert table.skipped == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_table_with_windows_line_ends_and_a_byte_order_mark_loads(tmp_path, encoding):
    collection_files.make_magnatagatune(tmp_path, newline="\r\n", encoding=encoding)
    table = magnatagatune.load(tmp_path)
    assert table.vocabulary == ("calm", "drums", "rock")
    assert table.paths == PATHS + MORE


def test_a_gzipped_table_and_an_mp3_folder_give_the_same(tmp_path):
    collection_files.make_magnatagatune(tmp_path / "plain")
    collection_files.make_magnatagatune(tmp_path / "zip" / "mp3")
    table = tmp_path / "zip" / "mp3" / magnatagatune.ANNOTATIONS
    gzipped = tmp_path / "zip" / (magnatagatune.ANNOTATIONS + ".gz")
    touch(gzipped, gzip.compress(table.read_bytes()))
    table.unlink()
    plain = magnatagatune.load(tmp_path / "plain")
    zipped = magnatagatune.load(tmp_path / "zip")
    assert zipped.paths == plain.paths
    assert np.array_equal(zipped.labels, plain.labels)
    assert zipped.files[0] == str(tmp_path / "zip" / "mp3" / PATHS[0])


def test_clips_of_one_recording_are_one_group_with_and_without_clip_info(tmp_path):
    collection_files.make_magnatagatune(tmp_path)
    by_name = magnatagatune.load(tmp_path).groups
    assert [by_name.index(group) for group in by_name] == [0, 0, 2, 3, 4]
    urls = ["u", "v", "u", "w", "w"]
    rows = [[url, 100 + i] for i, url in enumerate(urls)]
    write_table(
        tmp_path / magnatagatune.CLIP_INFO, [["original_url", "clip_id"], *rows]
    )
    assert magnatagatune.load(tmp_path).groups == tuple(urls)


def test_a_clip_info_table_of_another_collection_is_refused(tmp_path):
    collection_files.make_magnatagatune(tmp_path)
    rows = [["original_url", "clip_id"], ["u", "100"]]
    write_table(tmp_path / magnatagatune.CLIP_INFO, rows)
    with pytest.raises(ValueError, match=r"4 clip ids \(101, 102, 103, 104\)"):
        magnatagatune.load(tmp_path)


def test_a_table_that_does_not_fit_is_refused_with_count_and_first_names(tmp_path):
    paths = [f"0/clip_{i}-0-29.mp3" for i in range(9)]
    collection_files.make_magnatagatune(tmp_path, paths)
    for path in paths[1:]:
        (tmp_path / path).unlink()
    with pytest.raises(FileNotFoundError, match=r"8 clips \(0/clip_1-.*\.\.\.\)"):
        magnatagatune.load(tmp_path)
    assert len(magnatagatune.read_tables(tmp_path)) == 9


def test_empty_and_unlisted_files_are_left_out_and_reported(tmp_path):
    collection_files.make_magnatagatune(tmp_path)
    touch(tmp_path / PATHS[1], b"")
    touch(tmp_path / "a" / "unlisted.mp3")
    touch(tmp_path / "a" / ".hidden.mp3")
    table = magnatagatune.load(tmp_path)
    assert PATHS[1] not in table.paths
    assert len(table) == 4
    assert table.skipped == (
        (PATHS[1], "empty file"),
        ("a/unlisted.mp3", "not in annotations_final.csv"),
    )


@pytest.mark.parametrize("is_there", [True, False])
def test_the_three_known_empty_clips_may_be_empty_or_absent(tmp_path, is_there):
    known = tuple(sorted(magnatagatune.EMPTY_CLIPS))
    collection_files.make_magnatagatune(tmp_path, PATHS + known)
    for path in known:
        touch(tmp_path / path, b"")
        if not is_there:
            (tmp_path / path).unlink()
    table = magnatagatune.load(tmp_path)
    assert table.paths == PATHS
    assert table.skipped == tuple((path, "empty file") for path in known if is_there)


def test_num_tags_keeps_the_commonest(tmp_path):
    collection_files.make_magnatagatune(tmp_path)
    table = magnatagatune.load(tmp_path, num_tags=2)
    assert table.vocabulary == ("calm", "drums")
    with pytest.raises(ValueError, match="num_tags is 4"):
        magnatagatune.load(tmp_path, num_tags=4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no rows"),
        ("id,rock,mp3_path\n1,0,a\n", "clip_id, mp3_path must be among them"),
        ("clip_id\tx\ty\tmp3_path\n1\t0\t1\n", "line 2: 3 cells for 4 columns"),
        ("clip_id\tx\ty\tmp3_path\n1\t0\t2\t0/a\n", "neither 0 nor 1"),
        ("clip_id\tx\ty\tmp3_path\n1\t0\t\t0/a\n", "neither 0 nor 1"),
        ("clip_id\tx\tx\tmp3_path\n1\t0\t1\t0/a\n", "each must occur once"),
    ],
)
def test_a_malformed_table_is_refused_by_name(tmp_path, content, message):
    touch(tmp_path / magnatagatune.ANNOTATIONS, content.encode())
    with pytest.raises(ValueError, match=message) as error:
        magnatagatune.read_tables(tmp_path)
    assert magnatagatune.ANNOTATIONS in str(error.value)


def test_a_folder_without_a_table_is_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"annotations_final\.csv \(or .gz\) not found"
    ):
        magnatagatune.load(tmp_path)


def test_a_truncated_gzip_is_refused_by_name(tmp_path):
    collection_files.make_magnatagatune(tmp_path, name="whole.csv.gz")
    data = (tmp_path / "whole.csv.gz").read_bytes()
    touch(tmp_path / "annotations_final.csv.gz", data[:-12])
    with pytest.raises(ValueError, match=r"annotations_final\.csv\.gz"):
        magnatagatune.load(tmp_path)


def test_the_real_tables_have_the_published_sizes(shared):
    table = magnatagatune.read_tables(shared / "data" / "magnatagatune")
    assert table.labels.shape == (25_860, 188)
    assert np.sum(~table.labels.any(axis=1)) == 4_221
    counts = collections.Counter(table.groups)
    assert len(counts) == 5_405
    assert max(counts.values()) == 75


def test_file_names_and_clip_info_give_the_same_real_recordings(shared, tmp_path):
    tables = shared / "data" / "magnatagatune"
    name = "annotations_final.csv.gz"
    (tmp_path / name).symlink_to(tables / name)
    by_info = magnatagatune.read_tables(tables).groups
    by_name = magnatagatune.read_tables(tmp_path).groups
    assert len(set(by_info)) == len(set(zip(by_info, by_name, strict=True)))
    assert len(set(by_name)) == len(set(by_info))


def test_fifty_real_tags_are_those_of_the_literature(shared):
    tables = shared / "data" / "magnatagatune"
    table = magnatagatune.read_tables(tables, num_tags=50)
    assert len(table.vocabulary) == 50
    assert {"guitar", "choral", "metal", "no vocals"} <= set(table.vocabulary)
    # 997 clips of folders d, e and f have none of the 50 tags: counted in published
    # index files.
    test = [path[0] in "def" for path in table.paths]
    assert np.sum(~table.labels[test].any(axis=1)) == 997


def test_the_small_real_collection_loads_with_its_empty_files_reported(shared):
    table = collection.load("auto", shared / "data" / "mini_mtt")
    assert table.name == "magnatagatune"
    assert table.labels.shape == (834, 188)
    assert [reason for _, reason in table.skipped] == ["empty file"] * 3
