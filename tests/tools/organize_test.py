"""`tools.organize` as a program."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from support import known_scores, tagged_files

from genre_tl.library import tags

ROOT = pathlib.Path(__file__).parents[2]
WRITE = ("--tag", "--playlists=lists", "--sort_into=sorted", "--how=move", "--write")


@pytest.fixture
def music(tmp_path):
    """A folder with `music`, and with scores of it in a CSV."""
    (tmp_path / "music").mkdir()
    paths = tagged_files.write(tmp_path / "music")
    with open(tmp_path / "scores.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "best", "note", "error", "dub", "label path", "'=a"])
        for number, path in enumerate(paths):
            row = [f"music/{path.name}", "dub", "", "", 0.9 - number / 20, 0.1, ""]
            writer.writerow(row)
    return tmp_path


def command(*args):
    return [sys.executable, "-m", "tools.organize", *map(str, args)]


def organize(folder, *args):
    done = subprocess.run(
        command(*args),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def state(folder):
    return tagged_files.digests(folder)


def test_without_write_it_shows_what_it_would_do_and_changes_nothing(music):
    before = state(music)
    code, stdout, stderr = organize(music, "scores.csv", *WRITE[:-1])
    assert code == 0 and state(music) == before
    assert stdout[:2] == [
        "music/0.mp3  genre: none -> dub",
        f"music/0.mp3  move: {music}/sorted/dub/0.mp3",
    ]
    assert stdout[-1] == "lists/dub.m3u8  playlist of 9 files"
    assert stderr == ["10 to change: use --write; 1 without a genre of at least 0.5"]


def test_it_does_what_it_showed_and_undo_takes_it_back(music):
    before = state(music)
    _, shown, _ = organize(music, "scores.csv", *WRITE[:-1])
    code, stdout, stderr = organize(music, "scores.csv", *WRITE)
    assert (code, stdout) == (0, shown)
    assert "--undo=organize_undo.jsonl" in stderr[-1]
    assert tags.read(music / "sorted" / "dub" / "0.mp3") == ("dub",)
    done = state(music)
    code, stdout, stderr = organize(music, "scores.csv", *WRITE)
    assert (code, stdout) == (0, []) and state(music) == done
    assert organize(music, "--undo=organize_undo.jsonl") == (
        *(0, []),
        ["19 changes undone"],
    )
    assert state(music) == before


def test_a_file_that_cannot_be_changed_has_one_line_and_the_exit_code_is_1(music):
    tagged_files.with_unknown_version(music / "music" / "0.mp3")
    os.chmod(music / "music" / "1.flac", 0o444)
    code, _, stderr = organize(music, "scores.csv", "--tag", "--write")
    assert code == 1 and len(stderr) == 3
    assert stderr[0].startswith("music/0.mp3: its tags cannot be read (")
    assert stderr[1] == "music/1.flac: read-only file"
    assert "2 failed" in stderr[2]
    assert tags.read(music / "music" / "2.ogg") == ("dub",)
    os.chmod(music / "music" / "1.flac", 0o644)
    code, stdout, _ = organize(music, "scores.csv", "--tag", "--write")
    assert stdout == ["music/1.flac  genre: none -> dub"]


def test_rows_of_json_lines_with_tags_give_the_genres_among_them(music):
    rows = [
        {"path": "music/0.mp3", "scores": {"msd:rock": 0.8, "happy": 0.9, "jazz": 0.6}},
        {"path": "music/1.flac", "error": "not audio"},
        {"path": "music/2.ogg", "scores": {}, "note": "no sound"},
        {"path": "music/3.opus", "scores": {"jazz": 0.9}, "verdict": "unsure"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (music / "scores.jsonl").write_text(text)
    code, stdout, stderr = organize(music, "scores.jsonl", "--tag", "--max_genres=2")
    assert (code, stdout) == (1, ["music/0.mp3  genre: none -> Rock; Jazz"])
    assert stderr[0] == "music/1.flac: no prediction: not audio"
    _, stdout, _ = organize(music, "scores.jsonl", "--tag", "--genres=happy=Joy")
    assert stdout == ["music/0.mp3  genre: none -> Joy"]


def test_a_model_predicts_the_files_of_a_folder(tmp_path):
    model = known_scores.export(tmp_path / "model")
    (tmp_path / "music").mkdir()
    known_scores.write_wav(tmp_path / "music" / "a.wav", 0.75)
    (tmp_path / "music" / "b.wav").write_bytes(b"no audio")
    args = ("music", f"--model={model}", "--tag", "--write", "--sort_into=music/by")
    for expected in (["loud", "copy"], []):
        code, stdout, stderr = organize(tmp_path, *args, "--genres=quiet,long")
        assert (code, stdout) == (1, [])  # too loud
        code, stdout, stderr = organize(tmp_path, *args, "--min_score=0.7")
        assert code == 1 and "b.wav: no prediction: " in "".join(stderr)
        assert len(stdout) == len(expected)
    assert tags.read(tmp_path / "music" / "a.wav") == ("loud, very",)
    assert (tmp_path / "music" / "by" / "loud, very" / "a.wav").is_file()


def test_a_killed_run_is_finished_by_the_same_command(music):
    before = state(music)
    assert organize(music, "scores.csv", *WRITE)[0] == 0
    done = {name: x[0] for name, x in state(music).items() if "undo" not in name}
    organize(music, "--undo=organize_undo.jsonl")
    with subprocess.Popen(
        command("scores.csv", *WRITE),
        cwd=music,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        log = music / "organize_undo.jsonl"
        while not log.exists() or log.read_bytes().count(b"\n") < 3:
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    code, _, stderr = organize(music, "scores.csv", *WRITE)
    assert (code, stderr[0]) == (0, "resuming the run in organize_undo.jsonl")
    now = {name: x[0] for name, x in state(music).items() if "undo" not in name}
    assert {x: now[x] for x in now if ".lock" not in x} == done
    organize(music, "--undo=organize_undo.jsonl")
    assert state(music) == before


@pytest.mark.parametrize(
    "args, code, reason",
    [
        ([], 2, "name a table of tools.predict, or files and folders"),
        (["scores.csv"], 2, "say what to do: --tag, --sort_into or --playlists"),
        (["scores.csv", "--tag", "--how=move"], 2, "--how needs --sort_into"),
        (["scores.csv", "a.mp3", "--tag"], 2, "scores.csv is a table: give it alone"),
        (["scores.csv", "--tag", "--model=x"], 2, "--model is for audio files"),
        (["absent.csv", "--tag"], 1, "absent.csv: No such file"),
        (["other.csv", "--tag"], 1, "other.csv: not a table that"),
        (["bad.csv", "--tag"], 1, "bad.csv: line 2"),
        (
            ["scores.csv", "--tag", "--genres=dup"],
            1,
            "--genres=dup: 'dup': not a label",
        ),
        (["--undo=absent"], 1, "--undo=absent: no such file"),
        (["--undo=scores.csv"], 1, "scores.csv: not an undo file"),
        (["--undo=x", "--write"], 2, "--undo takes no other arguments"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(tmp_path, args, code, reason):
    head = "path,best,note,error,dub\n"
    (tmp_path / "scores.csv").write_text(f"{head}a.mp3,dub,,,0.9\n")
    (tmp_path / "bad.csv").write_text(f"{head}a.mp3,dub,,,much\n")
    (tmp_path / "other.csv").write_text("name,genre\na.mp3,dub\n")
    found, stdout, stderr = organize(tmp_path, *args)
    assert (found, stdout, len(stderr)) == (code, [], 1)
    assert stderr[0].startswith("error: ") and reason in stderr[0]
