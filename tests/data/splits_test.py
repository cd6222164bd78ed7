"""Published splits, folds and held-out clips."""

import pathlib

import numpy as np
import pytest

from genre_tl.data import collection, datasets, gtzan, magnatagatune, splits

CLIPS = ("0/a.mp3", "0/b.mp3", "c/d.mp3", "d/g.mp3", "f/i.mp3")


def tagged(*paths):
    labels = np.ones((len(paths), 2), np.uint8)
    root = pathlib.Path("music")
    return datasets.Dataset("x", root, paths, labels, ("u", "v"), paths, True)


def genres(paths, groups=None, root=pathlib.Path("music")):
    names = [path.split("/")[0] for path in paths]
    vocabulary = tuple(sorted(set(names)))
    labels = np.array([[n == v for v in vocabulary] for n in names], np.uint8)
    groups = tuple(groups or paths)
    return datasets.Dataset("x", root, tuple(paths), labels, vocabulary, groups, False)


def make_table(num_clips, suffix=".wav", root=pathlib.Path("music")):
    return genres(
        [
            f"{genre}/{genre}.{index:05d}{suffix}"
            for genre in gtzan.GENRES
            for index in range(num_clips)
        ],
        root=root,
    )


def write_lists(root, train, valid, test):
    root.mkdir(exist_ok=True)
    for name, stems in (("train", train), ("valid", valid), ("test", test)):
        lines = "".join(f"{stem.split('.')[0]}/{stem}.wav\n" for stem in stems)
        (root / f"{name}_filtered.txt").write_text(lines)


def test_the_folder_splits_are_the_published_ones():
    table = tagged(*CLIPS)
    paper = splits.by_name(table, "paper")
    assert paper["train"].tolist() == [0, 1, 2, 3]
    assert paper["valid"].tolist() == [4]
    literature = splits.by_name(table, "literature")
    assert [rows.tolist() for rows in literature.values()] == [[0, 1], [2], [3, 4]]


def test_a_split_that_leaves_a_part_empty_is_refused():
    with pytest.raises(ValueError, match="leaves valid without"):
        splits.by_name(tagged(*CLIPS[:3]), "paper")


def test_a_split_that_does_not_suit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'papr'"):
        splits.by_name(tagged(*CLIPS), "papr")
    with pytest.raises(ValueError, match=r"10 folders \(blues, .*other than 0-9, a-f"):
        splits.by_name(make_table(1), "paper")
    with pytest.raises(FileNotFoundError, match=r"train_filtered\.txt, .* not found"):
        splits.by_name(make_table(1), "fault_filtered", lists=tmp_path)


def test_the_real_folder_splits_have_the_published_sizes_and_divide_no_recording(
    shared,
):
    tables = shared / "data" / "magnatagatune"
    table = magnatagatune.read_tables(tables)
    paper = splits.by_name(table, "paper")
    assert len(paper["valid"]) == 2_105
    literature = splits.by_name(table, "literature")
    assert [len(rows) for rows in literature.values()] == [18_706, 1_825, 5_329]
    for parts in (paper, literature):
        used = [{table.groups[row] for row in rows} for rows in parts.values()]
        assert sum(map(len, used)) == len(set().union(*used))


def test_the_fault_filtered_split_goes_by_stem_whatever_the_format(tmp_path):
    write_lists(tmp_path, ["pop.00001", "blues.00000"], ["rock.00002"], ["jazz.00003"])
    table = make_table(4, ".au", root=tmp_path / "genres")
    parts = splits.by_name(table, "fault_filtered")
    names = {part: table.select(rows).paths for part, rows in parts.items()}
    assert names["train"] == ("blues/blues.00000.au", "pop/pop.00001.au")
    assert names["valid"] == ("rock/rock.00002.au",)
    assert names["test"] == ("jazz/jazz.00003.au",)


def test_only_the_known_broken_clip_may_be_absent_unasked(tmp_path, caplog):
    table, lists = make_table(4), tmp_path
    write_lists(lists, ["pop.00001", "jazz.00054"], ["pop.00002"], ["pop.00003"])
    parts = splits.by_name(table, "fault_filtered", lists=lists)
    assert [len(rows) for rows in parts.values()] == [1, 1, 1]
    assert "jazz.00054" in caplog.text
    write_lists(lists, ["pop.00001", "pop.00077"], ["pop.00002"], ["pop.00003"])
    with pytest.raises(FileNotFoundError, match=r"1 clip \(pop\.00077\)"):
        splits.by_name(table, "fault_filtered", lists=lists)


def test_lists_with_windows_line_ends_and_a_byte_order_mark_load(tmp_path):
    write_lists(tmp_path, ["pop.00001", "blues.00000"], ["rock.00002"], ["jazz.00003"])
    for path in tmp_path.glob("*.txt"):
        text = path.read_text().replace("\n", "\r\n")
        path.write_bytes(text.encode("utf-8-sig"))
    parts = splits.by_name(make_table(4), "fault_filtered", lists=tmp_path)
    assert [len(rows) for rows in parts.values()] == [2, 1, 1]


def test_a_clip_in_two_lists_is_refused(tmp_path):
    write_lists(tmp_path, ["pop.00001"], ["pop.00001"], ["pop.00002"])
    with pytest.raises(ValueError, match=r"pop\.00001"):
        splits.by_name(make_table(4), "fault_filtered", lists=tmp_path)


def test_the_real_lists_have_the_published_sizes(shared):
    lists = shared / "data" / "gtzan"
    parts = splits.by_name(make_table(100), "fault_filtered", lists=lists)
    assert [len(rows) for rows in parts.values()] == [443, 197, 290]


def test_a_part_of_the_real_gtzan_is_not_taken_for_the_whole(shared):
    table = collection.load("auto", shared / "data" / "gtzan")
    with pytest.raises(FileNotFoundError, match="865 clips"):
        splits.by_name(table, "fault_filtered")


def test_folds_are_stratified_seeded_and_cover_every_row_once():
    table = make_table(7)
    folds = splits.folds(table, 7, seed=3)
    assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(70))
    for rows in folds:
        assert sorted(table.classes[rows]) == [*range(10)]
        assert rows.tolist() == sorted(rows)
    again, other = splits.folds(table, 7, seed=3), splits.folds(table, 7, seed=4)
    assert all(map(np.array_equal, folds, again))
    assert not all(map(np.array_equal, folds, other))


def test_no_fold_divides_a_group():
    # Of each genre six artists, with 1 to 6 clips.
    artists = [f"{genre}/{name}" for genre in "ab" for name in range(6)]
    groups = [artist for artist in artists for _ in range(1 + int(artist[-1]))]
    table = genres([f"{group}/{i}.wav" for i, group in enumerate(groups)], groups)
    folds = splits.folds(table, 3, seed=0)
    groups = [{table.groups[row] for row in rows} for rows in folds]
    assert sum(map(len, groups)) == 12
    assert len(np.unique(np.concatenate(folds))) == len(table) == 42
    with pytest.raises(ValueError, match="'a' has only 6 .* 7 folds need 7"):
        splits.folds(table, 7, seed=0)


def test_folds_of_groups_are_stratified_seeded_and_cover_every_row_once():
    # Of each genre four artists with five clips.
    groups = [f"{genre}/{name}" for genre in "abcde" for name in range(4)]
    groups = [group for group in groups for _ in range(5)]
    table = genres([f"{group}/{i}.wav" for i, group in enumerate(groups)], groups)
    divided = [splits.folds(table, 4, seed) for seed in range(20)]
    for folds in divided:
        assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(100))
        for rows in folds:
            assert np.bincount(table.classes[rows]).tolist() == [5] * 5
    assert all(map(np.array_equal, divided[3], splits.folds(table, 4, seed=3)))
    assert len({tuple(folds[0]) for folds in divided}) > 10


def test_one_seventh_can_be_held_out():
    table = make_table(7)
    parts = splits.held_out(table, 7, seed=0, fold=2)
    assert set(parts) == {"train", "test"}
    assert len(parts["train"]) == 60
    assert np.array_equal(parts["test"], splits.folds(table, 7, 0)[2])
    assert not set(parts["train"]) & set(parts["test"])
    with pytest.raises(ValueError, match="fold is 7"):
        splits.held_out(table, 7, seed=0, fold=7)


def test_tags_have_no_folds():
    with pytest.raises(ValueError, match="no single genre"):
        splits.folds(tagged(*CLIPS), 2, seed=0)


def test_random_parts_keep_groups_whole_whatever_the_labels():
    groups = tuple(f"g{index % 20}" for index in range(100))
    table = datasets.Dataset(
        name="table",
        root=pathlib.Path("x"),
        paths=tuple(f"{index}.wav" for index in range(100)),
        labels=np.eye(2, dtype=np.uint8)[np.arange(100) % 2],
        vocabulary=("a", "b"),
        groups=groups,
        multi_label=True,
    )
    parts = splits.random(table, 10, seed=3)
    assert sorted([*parts["train"], *parts["valid"]]) == list(range(100))
    assert len({groups[row] for row in parts["valid"]}) == 2
    assert len(parts["valid"]) == 10
    assert not np.array_equal(parts["valid"], splits.random(table, 10, 4)["valid"])
    with pytest.raises(ValueError, match="20 artist folders .* into 21 parts"):
        splits.random(table, 21, seed=3)
