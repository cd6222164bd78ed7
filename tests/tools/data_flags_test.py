"""Flags that choose a collection."""

import pytest
from absl import flags
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
