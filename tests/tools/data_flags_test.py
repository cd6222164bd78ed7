"""Flags that choose a collection."""

import subprocess
import sys

import pytest
from absl import app, flags
from absl.testing import flagsaver
from support.collection_files import touch

from tools import data_flags

FLAGS = flags.FLAGS


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("music/a/1.wav", "music/b/2.wav"):
        touch(tmp_path / path)
    with flagsaver.flagsaver():
        yield tmp_path


def test_a_tilde_in_a_path_is_the_home_folder(home):
    FLAGS(["tool", "--data_dir=~/music", "--features_dir=~/features"])
    assert data_flags.table().root == home / "music"
    assert data_flags.store_dir() == home / "features"


def test_the_feature_store_has_the_name_of_the_folder_or_table(home):
    (home / "list.csv").write_text("path,label\nmusic/a/1.wav,x\nmusic/b/2.wav,y\n")
    FLAGS(["tool", "--data_dir=~/music/"])
    assert str(data_flags.store_dir()) == "features/music"
    FLAGS(["tool", "--data_dir=~", "--table=~/list.csv"])
    assert str(data_flags.store_dir()) == "features/list"
    assert data_flags.table().files[0] == str(home / "music/a/1.wav")


def write_tables(home):
    (home / "list.csv").write_text("path,labels\nmusic/a/1.wav,x\nmusic/b/2.wav,y\n")
    (home / "lists").mkdir()
    (home / "lists/soft.csv").write_text("path,y,z\n../music/b/2.wav,.5,\n")


def test_several_tables_are_joined_and_name_the_feature_store(home):
    write_tables(home)
    FLAGS(["tool", "--table=~/list.csv", "--table=~/lists/soft.csv"])
    table = data_flags.table()
    assert (table.root, table.vocabulary) == (home, ("x", "y", "z"))
    assert table.paths == ("music/a/1.wav", "music/b/2.wav")
    assert str(data_flags.store_dir()) == "features/list+soft"


def test_a_table_may_be_the_folder_of_a_collection(home):
    FLAGS(["tool", "--table=~/music/"])
    assert data_flags.table().vocabulary == ("a", "b")
    assert str(data_flags.store_dir()) == "features/music"
    (home / "more.csv").write_text("path,label\nmusic/a/1.wav,c\nmusic/b/2.wav,d\n")
    FLAGS(["tool", "--table=~/more.csv"])
    joined = data_flags.table()
    assert joined.vocabulary == ("a", "b", "c", "d")
    assert joined.classes.tolist() == [0, 1]


def test_data_dir_goes_with_a_single_csv_only(home):
    write_tables(home)
    FLAGS(["tool", "--data_dir=~", "--table=~/list.csv"])
    data_flags.table()
    for tables in ([str(home / "music")], FLAGS.table * 2):
        with (
            flagsaver.flagsaver(table=tables),
            pytest.raises(app.UsageError, match=f"join it by --table={home}"),
        ):
            data_flags.table()


def test_train_passes_each_table_on_as_a_flag_of_its_own():
    program = (
        "import sys; from tools import train; train.FLAGS(sys.argv); "
        "print(train._given('data_dir', 'table', 'max_secs'))"
    )
    tables = ["--table=a b.csv", "--table=c"]
    done = subprocess.run(
        [sys.executable, "-c", program, *tables, "--max_secs=0"],
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str([*tables, "--max_secs=0.0"]), done.stderr
