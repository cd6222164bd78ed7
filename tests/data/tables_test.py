"""CSVs of paths and labels: what they become, and what is refused in which line."""

import json
import pathlib
import re
import sys
import types

import numpy as np
import pytest

from genre_tl.data import joining, splits, tables


@pytest.fixture
def folder(tmp_path):
    for name in ("a.wav", "b.mp3", "deep/c.flac", "d.ogg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def read(folder, text, **kwargs):
    path = folder / "music.csv"
    path.write_text(text, encoding=kwargs.pop("encoding", "utf8"))
    return tables.load(path, **kwargs)


def test_a_genre_a_clip_in_the_order_of_the_table(folder):
    table = read(folder, "label,path\nrock,b.mp3\njazz,a.wav\nrock,deep/c.flac\n")
    assert table.paths == ("b.mp3", "a.wav", "deep/c.flac")
    assert table.vocabulary == ("jazz", "rock")
    assert table.classes.tolist() == [1, 0, 1]
    assert (table.name, table.multi_label, table.root) == ("table", False, folder)
    assert len(set(table.groups)) == 3


def test_tags_are_separated_by_semicolons(folder):
    table = read(folder, "path,labels\na.wav,slow; piano\nb.mp3,piano\nd.ogg,fast\n")
    assert table.vocabulary == ("fast", "piano", "slow")
    assert table.labels.tolist() == [[0, 1, 1], [0, 1, 0], [1, 0, 0]]
    assert table.multi_label


def test_groups_are_kept_and_clips_without_one_stand_alone(folder):
    rows = "a.wav,x,Ann\nb.mp3,y,Ann\ndeep/c.flac,x,\nd.ogg,y,a.wav\n"
    a, b, c, d = read(folder, "path,label,group\n" + rows).groups
    assert a == b and len({a, c, d}) == 3


def test_no_split_of_a_table_divides_a_group(tmp_path):
    rng = np.random.default_rng(1)
    lines = ["path,label,group"]
    for index in range(60):
        (tmp_path / f"{index}.wav").write_bytes(b"x")
        lines.append(f"{index}.wav,{'xyz'[index % 3]},artist {rng.integers(15)}")
    table = read(tmp_path, "\n".join(lines))
    for fold in range(3):
        parts = splits.held_out(table, 3, seed=0, fold=fold)
        groups = [{table.groups[row] for row in parts[part]} for part in parts]
        assert all(groups) and not groups[0] & groups[1]


def test_tabs_a_byte_order_mark_and_quoted_commas_are_read(folder):
    table = read(folder, "path\tlabel\na.wav\tx, y\nb.mp3\tz\n", encoding="utf-8-sig")
    assert table.vocabulary == ("x, y", "z")
    assert read(folder, 'path,label\na.wav,"x, y"\nb.mp3,z\n').vocabulary == (
        table.vocabulary
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_windows_line_ends_are_read(folder, encoding):
    text = "path,label\r\na.wav,x\r\n\r\nb.mp3,y\r\n"
    (folder / "music.csv").write_bytes(text.encode(encoding))
    table = tables.load(folder / "music.csv")
    assert (table.paths, table.vocabulary) == (("a.wav", "b.mp3"), ("x", "y"))


def test_labels_that_look_alike_are_warned_of_and_kept(folder, caplog):
    table = read(folder, "path,label\na.wav,Rock\nb.mp3,rock \nd.ogg,jazz\n")
    assert table.vocabulary == ("Rock", "jazz", "rock")
    assert "labels 'Rock', 'rock' differ only" in caplog.text


def test_paths_may_start_elsewhere_or_be_absolute(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("tables")
    table = read(elsewhere, "path,label\na.wav,x\ndeep/c.flac,y\n", root=folder)
    assert (table.root, table.paths) == (folder, ("a.wav", "deep/c.flac"))
    rows = f"{folder}/a.wav,x\n{folder}/deep/c.flac,y\n"
    assert read(elsewhere, "path,label\n" + rows).files == table.files


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no rows below"),
        ("path\na.wav\n", "line 1: columns  beside path"),
        ("path,label,labels\na.wav,x,y\n", "line 1: columns 'label', 'labels' beside"),
        ("path,label,rock\na.wav,x,1\n", "line 1: columns 'label', 'rock' beside"),
        (",path,rock\n0,a.wav,1\n", "line 1: columns '', 'rock' beside"),
        ("path,genre\na.wav,x\n", "line 2: genre is 'x'; .* genres label"),
        ("path,u,v\na.wav,1,\nb.mp3,0,1.5\n", "line 3: v is '1.5'; .* 0 to 1"),
        ("path,u,v\na.wav,1,0\nb.mp3,-.1,1\n", "line 3: u is '-.1'"),
        ("path,u,v\na.wav,1,inf\n", "line 2: v is 'inf'"),
        ("path,u,v\na.wav,1,\nb.mp3,0,loud\n", "line 3: v is 'loud'"),
        ("path,u\na.wav,1\n", r"1 label \(u\); at least 2"),
        ("path,label,label\na.wav,x,y\n", "each must occur once"),
        ("path,label\n", "no rows below"),
        ("path,label\na.wav,x\nb.mp3,x\n", r"1 label \(x\); at least 2"),
        ("path,label\na.wav,x\n\nb.mp3, \n", "line 4: empty label"),
        ("path,labels\na.wav,x;;y\n", "line 2: empty label"),
        ("path,label\na.wav,x,y\n", "line 2: 3 cells for 2 columns"),
        (
            "path,label\na.wav,x\nb.mp3,y\n./a.wav,y\n",
            "line 4: .*duplicate of line 2",
        ),
        ('path,label\na.wav,"x\n', "not a CSV in UTF-8"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(folder, text, reason):
    with pytest.raises(ValueError, match=rf"music.csv.*{reason}"):
        read(folder, text)


def test_another_encoding_is_refused(folder):
    with pytest.raises(ValueError, match=r"music.csv: not a CSV in UTF-8"):
        read(folder, "path,label\na.wav,é\n", encoding="latin-1")


def test_an_empty_path_is_a_missing_file(folder):
    with pytest.raises(FileNotFoundError, match=r"1 missing file \(line 2: "):
        read(folder, "path,label\n,x\na.wav,y\n")


def test_missing_files_are_counted_and_named_with_their_lines(folder):
    rows = "".join(f"{i}.wav,x\n" for i in range(8))
    with pytest.raises(FileNotFoundError, match=r"8 missing files .*line 3: .*/0.wav"):
        read(folder, "path,label\na.wav,y\n" + rows)


SOFT = "slow,path,group,piano\n.25,b.mp3,Ann,1\n,a.wav,,1e-3\n0,deep/c.flac,Ann, nan\n"


def test_other_columns_are_soft_tags_unknown_where_empty(folder):
    table = read(folder, SOFT)
    assert table.paths == ("b.mp3", "a.wav", "deep/c.flac")
    assert table.vocabulary == ("slow", "piano")
    expected = np.array([[0.25, 1], [np.nan, 0.001], [0, np.nan]], np.float32)
    np.testing.assert_array_equal(table.labels, expected)
    assert table.labels.dtype == np.float32 and table.multi_label
    assert table.groups[0] == table.groups[2] != table.groups[1]


def save(path, **arrays):
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **arrays)
    return path


def test_target_vectors_are_joined_by_name_and_matched_by_file(folder):
    path = save(
        folder / "teacher/vectors.npz",
        paths=["../a.wav", str(folder / "deep/c.flac"), "elsewhere.wav"],
        z=np.array([[1], [2], [3]], np.float16),
        m=np.array([[4.0, 5], [6, 7], [8, 9]]),
    )
    table = tables.load_vectors(path, read(folder, SOFT))
    expected = [[np.nan] * 3, [4, 5, 1], [6, 7, 2]]
    np.testing.assert_array_equal(table.vectors, expected)
    assert table.vectors.dtype == np.float32


ONE = np.ones([1, 2], np.float32)
INFINITE = ONE * np.float32("inf")


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"paths": ["x.wav"], "v": ONE}, "none of the 3 clips; .* such as .*x.wav"),
        ({"paths": ["a.wav"]}, "needs paths .* and an array"),
        ({"ids": ["a.wav"], "v": ONE}, "needs paths .* and an array"),
        ({"paths": ["a.wav"], "v": [[1]]}, r"v is int64 \[1, 1\]; it must be floats"),
        ({"paths": ["a.wav"], "v": ONE[0]}, r"v is float32 \[2\]; .* \[1, dims\]"),
        ({"paths": ["a.wav", "b.mp3"], "v": ONE}, r"\[1, 2\]; .* \[2, dims\]"),
        ({"paths": ["a.wav"], "v": INFINITE}, "infinite values"),
        ({"paths": ["a.wav", "./a.wav"], "v": ONE.repeat(2, 0)}, "1 duplicate clip"),
        ({"paths": np.array(["a.wav"], object), "v": ONE}, "not an NPZ file of plain"),
    ],
)
def test_target_vectors_that_do_not_fit_are_refused(folder, arrays, reason):
    path = save(folder / "v.npz", **arrays)
    with pytest.raises(ValueError, match=f"v.npz: .*{reason}"):
        tables.load_vectors(path, read(folder, SOFT))


def test_a_damaged_file_of_target_vectors_is_refused(folder):
    path = folder / "v.npz"
    table = read(folder, SOFT)
    path.write_bytes(b"PK is not enough")
    with pytest.raises(ValueError, match=r"v.npz: not an NPZ file"):
        tables.load_vectors(path, table)
    with path.open("wb") as file:
        np.save(file, ONE)
    with pytest.raises(ValueError, match=r"v.npz: not an NPZ file"):
        tables.load_vectors(path, table)


def stand_in(monkeypatch, name, **values):
    """Makes a library importable that is not installed."""
    for module in (name.split(".")[0], name):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    vars(sys.modules[name]).update(values)


def test_the_scripts_of_the_document_write_what_is_read(tmp_path, monkeypatch, root):
    scores = {"1.mp3": [[0.2, 1], [0.4, 0]], "2.mp3": [[0.123456, 0.5]]}
    for name in scores:
        (tmp_path / "music/a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "music/a" / name).write_bytes(b"x")

    def extractor(path, model, extract_features):
        taggram = np.array(scores[pathlib.Path(path).name], np.float32)
        return taggram, ["rock", "Mellow"], {"penultimate": 10 * taggram}

    def loader(filename, sampleRate):
        return lambda: filename

    def predictor(graphFilename):
        return lambda path: extractor(path, "", False)[0]

    stand_in(monkeypatch, "musicnn.extractor", extractor=extractor)
    algorithms = {"MonoLoader": loader, "TensorflowPredictMusiCNN": predictor}
    stand_in(monkeypatch, "essentia.standard", **algorithms)
    monkeypatch.chdir(tmp_path)
    classes = json.dumps({"classes": ["rock", "Mellow"]})
    (tmp_path / "msd-musicnn-1.json").write_text(classes)

    text = (root / "docs/soft_tags.md").read_text(encoding="utf8")
    scripts = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        exec(script, {})
        table = tables.load("soft_tags.csv")
        assert table.paths == ("music/a/1.mp3", "music/a/2.mp3")
        assert table.vocabulary == ("msd:rock", "msd:Mellow")
        np.testing.assert_allclose(table.labels, [[0.3, 0.5], [0.1235, 0.5]])
        (tmp_path / "soft_tags.csv").unlink()
    found = tables.load_vectors("soft_vectors.npz", table)
    np.testing.assert_allclose(found.vectors, [[3, 5], [1.23456, 5]], rtol=1e-6)


def test_the_real_soft_tags_and_vectors_fit_the_real_tables(shared):
    data: pathlib.Path = shared / "data"
    soft = tables.load(data / "soft_tags.csv")
    assert len(soft) >= 1_700 and soft.labels.shape[1] == 100
    assert soft.is_soft.all() and not np.isnan(soft.labels).any()
    joined = joining.join([tables.load(data / "real_tagged/table.csv"), soft])
    found = tables.load_vectors(data / "soft_vectors.npz", joined)
    assert found.vectors.shape == (len(joined), 400)
    assert np.isnan(found.vectors[:, 0]).sum() <= 10
