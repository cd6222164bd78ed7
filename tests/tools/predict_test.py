"""`tools.predict` as a program, with a model whose scores are known."""

import csv
import io
import json
import os
import pathlib
import pty
import subprocess
import sys

import pytest
from support import known_scores

from tools import outputs

ROOT = pathlib.Path(__file__).parents[2]
LABELS = known_scores.LABELS
COLUMNS = "path", "best", "verdict", "familiarity", "note", "error"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> pathlib.Path:
    return known_scores.export(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("music")
    known_scores.write_wav(folder / "b.wav", 0.25)
    (folder / "deep" / "er").mkdir(parents=True)
    known_scores.write_wav(folder / "deep" / "er" / "A ü, b.WAV", 0.75, 40_000)
    known_scores.write_wav(folder / "a.wav", 0.5)
    (folder / "c.mp3").write_bytes(b"this is no music" * 99)
    (folder / "cover.jpg").write_bytes(b"picture")
    (folder / ".hidden.wav").write_bytes(b"")
    cut_off = (folder / "a.wav").read_bytes()[:8044]
    (folder / "cut.wav").write_bytes(cut_off)
    return folder


def start(*args: object, **kwargs) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tools.predict", *map(str, args)],
        cwd=ROOT,
        stdout=kwargs.pop("stdout", subprocess.PIPE),
        stderr=kwargs.pop("stderr", subprocess.PIPE),
        text=True,
        **kwargs,
    )


def predict(*args: object) -> tuple[int, str, str]:
    process = start(*args)
    stdout, stderr = process.communicate()
    return process.returncode, stdout, stderr


@pytest.fixture(scope="module")
def as_json(model, music) -> tuple[int, list[dict], str]:
    """All of the folder, then one file again, then one that is not there."""
    code, stdout, stderr = predict(
        f"--model={model}", "--format=json", music, music / "b.wav", music / "no.wav"
    )
    return code, [json.loads(line) for line in stdout.splitlines()], stderr


def test_every_audio_file_has_a_row_in_order(as_json, music):
    names = ["a.wav", "b.wav", "c.mp3", "cut.wav", "deep/er/A ü, b.WAV"]
    paths = [str(music / name) for name in [*names, "b.wav", "no.wav"]]
    assert [row["path"] for row in as_json[1]] == paths


def test_rows_hold_the_scores_of_all_labels_the_best_first(as_json):
    scores = {pathlib.Path(row["path"]).name: row.get("scores") for row in as_json[1]}
    expected = {"loud, very": 0.75, "long": 0.25, "quiet": 0.25}
    assert scores["A ü, b.WAV"] == pytest.approx(expected, abs=1e-3)
    assert next(iter(scores["A ü, b.WAV"])) == "loud, very"
    assert next(iter(scores["b.wav"])) == "quiet"


def test_files_that_fail_have_a_reason_on_stderr_and_in_their_row(as_json, music):
    code, rows, stderr = as_json
    failed = [row for row in rows if "error" in row]
    assert [pathlib.Path(row["path"]).name for row in failed] == ["c.mp3", "no.wav"]
    assert not any("scores" in row for row in failed)
    assert code == 1
    assert stderr.splitlines() == [
        *(f"{row['path']}: {row['error']}" for row in failed),
        "5 of 7 files; 2 failed",
    ]


def test_a_damaged_file_that_was_used_has_a_note(as_json):
    notes = [row.get("note", "") for row in as_json[1]]
    assert [bool(note) for note in notes] == [False] * 3 + [True] + [False] * 3
    assert "cut off" in notes[3]


def test_csv_is_written_to_a_file_and_max_secs_limits_the_audio(model, music, tmp_path):
    output = tmp_path / "scores.csv"
    code, stdout, stderr = predict(
        *(f"--model={model}", "--format=csv", f"--output={output}", "--max_secs=1"),
        music,
    )
    assert (code, stdout, stderr.splitlines()[-1]) == (1, "", "4 of 5 files; 1 failed")
    with output.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [*COLUMNS, *LABELS]
    assert [row["best"] for row in rows[1:3]] == ["quiet", ""]
    assert rows[2]["error"] and not rows[2]["long"]
    assert rows[4]["path"].endswith("A ü, b.WAV")
    assert float(rows[4]["long"]) == pytest.approx(0.1, abs=1e-3)
    assert os.listdir(tmp_path) == ["scores.csv"]


def test_text_is_one_line_per_file_with_the_best_labels(model, music, tmp_path):
    # A name that is no valid text, and would begin a new line.
    known_scores.write_wav(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n.wav"), 0.75)
    code, stdout, stderr = predict(
        *(f"--model={model}", "--top_k=2"),
        *(music / "b.wav", music / "cut.wav", tmp_path),
    )
    first, second, third = stdout.splitlines()
    assert first == f"{music / 'b.wav'}  quiet 75 %, loud, very 25 %"
    assert second.startswith(f"{music / 'cut.wav'}  quiet 50 %, ")
    assert second.endswith("s present)")
    assert third == rf"{tmp_path}/\udcff\n.wav  loud, very 75 %, quiet 25 %"
    assert (code, stderr) == (0, "3 of 3 files\n")


def test_files_below_the_threshold_of_their_genre_are_unsure(model, music):
    flags = f"--model={model}", "--min_precision=0.9", "--top_k=1"
    names = "b.wav", "a.wav", "deep/er/A ü, b.WAV"
    code, stdout, _ = predict(*flags, *(music / name for name in names))
    assert code == 0
    assert [line.partition("  ")[2] for line in stdout.splitlines()] == [
        "quiet 75 %",
        "quiet 50 %  (unsure)",
        "loud, very 75 %  (unsure)",
    ]


def test_thresholds_that_a_model_does_not_have_are_refused(model):
    known = "has thresholds for 0.9; give one of them"
    assert_refused(2, known, f"--model={model}", "--min_precision=0.5", "x.wav")
    starter = f"--model={ROOT}/saved_models/starter"
    assert_refused(1, "has no thresholds", starter, "--min_precision=0.9", "x.wav")


def test_a_chart_on_a_terminal_draws_bars(model, music):
    primary, secondary = pty.openpty()
    process = start(f"--model={model}", "--chart", music / "b.wav", stdout=secondary)
    os.close(secondary)
    text = b""
    try:
        while piece := os.read(primary, 4096):
            text += piece
    except OSError:  # the terminal was closed
        pass
    _, stderr = process.communicate()
    os.close(primary)
    assert (process.returncode, stderr) == (0, "1 of 1 files\n")
    name, quiet, loud, *_ = text.decode().splitlines()
    assert name == str(music / "b.wav")
    assert quiet.startswith("quiet") and quiet.count("█") > loud.count("█") > 1


@pytest.mark.parametrize(
    "args, code, reason",
    [
        ([], 2, "name the files or folders"),
        (["--format=csv", "--chart", "x.wav"], 2, "--chart"),
        (["--top_k=-1", "x.wav"], 2, "top_k"),
        (["{empty}"], 1, "no audio files"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(tmp_path, args, code, reason):
    args = [arg.format(empty=tmp_path) for arg in args]
    assert_refused(code, reason, *args)


def test_a_missing_model_leaves_no_output(tmp_path):
    assert_refused(
        1,
        f"{tmp_path}/absent: no SavedModel or model.onnx here; export a model first",
        *(f"--model={tmp_path}/absent", f"--output={tmp_path}/scores.txt", "x.wav"),
    )
    assert os.listdir(tmp_path) == []


def assert_refused(expected_code: int, reason: str, *args: str) -> None:
    code, stdout, stderr = predict(*args)
    assert (code, stdout) == (expected_code, "")
    assert stderr.startswith("error: ") and stderr.count("\n") == 1
    assert reason in stderr


def test_the_awkward_files_each_get_scores_or_a_reason(model, shared):
    folder = shared / "data" / "awkward_audio"
    code, stdout, stderr = predict(f"--model={model}", "--format=json", folder)
    rows = [json.loads(line) for line in stdout.splitlines()]
    assert len(rows) == len(os.listdir(folder))
    assert (code, "Traceback" in stderr) == (1, False)
    for row in rows:
        name = pathlib.Path(row["path"]).name
        assert ("scores" in row) != bool(row.get("error"))
        if name.startswith(("ok_", "bad_")):
            assert ("scores" in row) == name.startswith("ok_"), row
        else:
            assert row.get("note") or row.get("error"), row


@pytest.mark.parametrize("name", ["a.wav", "x\ry.wav", 'x,"y\n.wav', "x\r"])
def test_a_row_of_csv_keeps_any_name(name):
    row = outputs.csv_row([name, "rock"])
    assert row.endswith("rock\n")
    assert [*csv.reader(io.StringIO(row, newline=""))] == [[name, "rock"]]
