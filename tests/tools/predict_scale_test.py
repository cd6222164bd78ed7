"""`tools.predict` on many files: lists, resumption, embeddings, scores over time."""

import csv
import io
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
import soundfile
from absl import flags
from absl.testing import flagsaver
from support import loudness

from genre_tl import serving
from genre_tl.serving import prediction
from tools import command, journal, predict

ROOT = pathlib.Path(__file__).parents[2]
NUM_FILES = 11


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Files of different loudness and length, two of them no audio."""
    folder = tmp_path_factory.mktemp("music")
    rng = np.random.default_rng(0)
    for index in range(NUM_FILES):
        path = folder / "ab"[index % 2] / f"{index:02d}.wav"
        path.parent.mkdir(exist_ok=True)
        samples = rng.uniform(-0.09, 0.09, 700 + 2_900 * (index % 4)) * index
        soundfile.write(path, samples, loudness.RATE, "PCM_16")
    (folder / "a" / "04.wav").write_bytes(b"no sound")
    (folder / "b" / "09.wav").write_bytes(b"")
    return folder


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs the tool in this process; gives exit code, stdout and stderr."""
    model = loudness.Model(tmp_path / "model")
    monkeypatch.setattr(serving, "Predictor", lambda path: model)
    monkeypatch.setattr(prediction, "GROUP_FILES", 2)
    # It would last: later tests compare with programs that have the usual graphs.
    monkeypatch.setattr(command, "begin_soon", lambda: None)
    monkeypatch.chdir(tmp_path)

    def run_(*args, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with flagsaver.flagsaver():
            rest = flags.FLAGS(["predict", *map(str, args)])
            code = command._guarded(predict.main, rest)
        return code, *capsys.readouterr()

    return run_


def paths_of(stdout):
    return [json.loads(line)["path"] for line in stdout.splitlines()]


def test_lists_come_from_the_standard_input_by_lines_or_nul(run, music):
    names = [str(music / "a" / "02.wav"), str(music / "a" / "00.wav")]
    lines = os.fsencode("\n".join(names))
    assert paths_of(run("--format=json", "-", stdin=lines)[1]) == names
    assert paths_of(run("--format=json", "-", stdin=lines + b"\n")[1]) == names
    nul = os.fsencode("\0".join(names))
    assert paths_of(run("--format=json", "--null", "-", stdin=nul)[1]) == names
    both = run("--format=json", music / "b" / "01.wav", "-", stdin=lines)[1]
    assert paths_of(both) == [str(music / "b" / "01.wav"), *names]


def test_globs_that_no_shell_expanded_are_expanded(run, music):
    stdout = run("--format=json", music / "?" / "0[0-3].wav")[1]
    expected = sorted(str(path) for path in music.glob("?/0[0-3].wav"))
    assert paths_of(stdout) == expected and len(expected) == 4
    code, _, stderr = run(music / "*.ogg")
    assert (code, "nothing is called so" in stderr) == (1, True)


def test_top_k_and_threshold_choose_the_labels_in_every_format(run, music):
    path = music / "b" / "07.wav"
    (row,) = csv.DictReader(io.StringIO(run("--format=csv", "--top_k=1", path)[1]))
    assert (row["best"], row["quiet"] != "", row["loud"]) == ("quiet", True, "")
    stdout = run("--format=json", "--threshold=0.5", path)[1]
    assert list(json.loads(stdout)["scores"]) == ["quiet"]
    assert "nothing above 99 %" in run("--threshold=0.99", path)[1]


OUTPUTS = ("--output=o.csv", "--format=csv", "--embeddings=e.npz")


@pytest.fixture
def whole(run, music, tmp_path):
    """The outputs of an undisturbed call, by name."""
    assert run(*OUTPUTS, music)[0] == 1
    return take(tmp_path)


def take(folder):
    names = [name for name in ("o.csv", "e.npz") if (folder / name).exists()]
    left = [path.name for path in folder.iterdir() if path.is_file()]
    assert sorted(left) == sorted(names), "something else is left"
    found = {name: (folder / name).read_bytes() for name in names}
    for name in names:
        (folder / name).unlink()
    return found


def test_embeddings_are_a_vector_a_usable_file_with_its_path(whole):
    rows = list(csv.DictReader(io.StringIO(whole["o.csv"].decode())))
    table = np.load(io.BytesIO(whole["e.npz"]))
    assert list(table["ids"]) == [row["path"] for row in rows if not row["error"]]
    assert table["vectors"].shape == (NUM_FILES - 2, 3)
    lengths = np.array([soundfile.info(str(path)).frames for path in table["ids"]])
    # Others are means of their pieces.
    short = lengths <= prediction._PIECE_SEGMENTS * loudness.SEGMENT
    assert table["vectors"][short, 0].tolist() == lengths[short].tolist()


@pytest.mark.parametrize("num_scored", [0, 1, 2, 5, 9])
def test_a_call_that_was_cut_short_is_gone_on_with(
    run, whole, music, tmp_path, monkeypatch, num_scored
):
    real, scored = prediction.predict, []

    def dying(*args, **kwargs):
        for result in real(*args, **kwargs):
            if len(scored) == num_scored:
                raise KeyboardInterrupt
            scored.append(result)
            yield result

    monkeypatch.setattr(prediction, "predict", dying)
    assert run(*OUTPUTS, music)[0] == 130
    assert not (tmp_path / "o.csv").exists()
    with open(tmp_path / "o.csv.partial", "a") as file:
        file.write("half a li")
    monkeypatch.setattr(prediction, "predict", real)
    code, _, stderr = run(*OUTPUTS, music)
    assert code == 1
    kept = num_scored // 2 * 2
    assert (f"going on after {kept} of {NUM_FILES} files" in stderr) == (kept > 0)
    assert f"{NUM_FILES - 2} of {NUM_FILES} files; 2 failed" in stderr
    assert take(tmp_path) == whole


def test_another_call_does_not_go_on_with_it(run, music, tmp_path, monkeypatch):
    real = prediction.predict

    def dying(*args, **kwargs):
        results = real(*args, **kwargs)
        yield from (next(results) for _ in range(4))
        raise KeyboardInterrupt

    monkeypatch.setattr(prediction, "predict", dying)
    assert run(*OUTPUTS, music)[0] == 130
    before = (tmp_path / "o.csv.partial").read_bytes()
    for others, name in (
        ([*OUTPUTS, music / "a"], "list of files"),
        ([*OUTPUTS, "--top_k=1", music], "--top_k"),
        (["--output=o.csv", "--format=csv", music], "--embeddings"),
    ):
        code, _, stderr = run(*others)
        assert (code, stderr.count("\n")) == (1, 1)
        assert f"with other {name}" in stderr and "o.csv.progress" in stderr
    assert (tmp_path / "o.csv.partial").read_bytes() == before


PROGRAM = f"""
import concurrent.futures.thread, os, sys, time
sys.path.insert(0, {str(ROOT / "tests")!r})
from support import loudness
from genre_tl import serving
from genre_tl.serving import prediction
from tools import predict
if "NOBODY" in os.environ:  # here, as that user may not be able to read Python itself
    os.setgid(65534)
    os.setuid(65534)
class Slow(loudness.Model):
    def score_pieces(self, pieces):
        time.sleep(0.1)
        return super().score_pieces(pieces)
serving.Predictor = Slow
prediction.GROUP_FILES = 2
predict.cli()
"""


def start(folder, *args, stdout=None, **env):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, f"--model={folder}/model", *map(str, args)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_after_kill_9_the_same_command_ends_with_the_same_bytes(whole, music, tmp_path):
    chance = random.Random(0)
    kills = int(os.environ.get("GENRE_TL_KILLS", "3"))
    for num_bytes in sorted(chance.randrange(1, 300) for _ in range(kills)):
        process = start(tmp_path, *OUTPUTS, music)
        partial = tmp_path / "o.csv.partial"
        while process.poll() is None:
            if partial.exists() and partial.stat().st_size >= num_bytes:
                time.sleep(chance.uniform(0, 0.1))
                process.send_signal(signal.SIGKILL)
                process.wait()
            time.sleep(0.01)
        process.stderr.close()
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "o.csv").exists()
    process = start(tmp_path, *OUTPUTS, music)
    _, stderr = process.communicate()
    assert process.returncode == 1 and "going on after" in stderr
    assert take(tmp_path) == whole


@pytest.mark.parametrize("pages", range(1, 6))
def test_a_full_disk_is_said_and_the_same_command_goes_on(
    run, music, small_disk, pages
):
    outputs = [f"--output={small_disk}/o.csv", "--format=csv", *[music] * 16]
    assert run(f"--output={music}/../o.csv", *outputs[1:])[0] == 1
    expected = (music.parent / "o.csv").read_bytes()
    assert len(expected) > 3 * 4096
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes((16 - pages) * 4096))
    code, _, stderr = run(*outputs)
    *_, last = stderr.splitlines()
    assert code == 1 and last.startswith(f"error: {small_disk}/o.csv.p")
    assert "No space left" in last and not (small_disk / "o.csv").exists()
    written = (small_disk / "o.csv.partial").read_bytes()
    assert expected.startswith(written)
    ballast.unlink()
    code, _, stderr = run(*outputs)
    assert code == 1 and ("going on after" in stderr) == (pages > 1)
    assert (small_disk / "o.csv").read_bytes() == expected
    assert [path.name for path in small_disk.iterdir()] == ["o.csv"]


def test_a_full_disk_is_told_by_its_file_when_that_is_closed_too(small_disk):
    path = f"{small_disk}/v.npz"
    full = pytest.raises(OSError, match="No space left")
    with full as caught, journal.opened([path], {}) as log:
        for _ in range(1000):
            log.write(0, bytes(700))
    assert caught.value.filename == f"{path}.partial"


def test_two_calls_do_not_write_the_same_file(music, tmp_path, run):
    process = start(tmp_path, *OUTPUTS, music, music, music, music)
    while not (tmp_path / "o.csv.progress").exists() and process.poll() is None:
        time.sleep(0.01)
    code, _, stderr = run(*OUTPUTS, music)
    process.kill()
    process.communicate()
    assert code == 1 and "another process is writing it" in stderr


def test_scores_over_time_are_a_picture_and_a_table_a_file(run, music, tmp_path):
    run("--taggram=over/time", music)
    found = {
        path.relative_to(tmp_path / "over/time").as_posix()
        for path in (tmp_path / "over/time").rglob("*.*")
    }
    names = [f"{'ab'[i % 2]}/{i:02d}.wav" for i in range(NUM_FILES) if i not in (4, 9)]
    assert found == {f"{name}.{end}" for name in names for end in ("csv", "png")}
    with open(tmp_path / "over/time/b/07.wav.csv", encoding="utf8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["secs", "quiet", "loud"]
    samples, _ = soundfile.read(music / "b/07.wav", dtype="float32")
    times, scores = loudness.Model(tmp_path / "model").taggram(samples)
    assert [float(row["secs"]) for row in rows] == pytest.approx(times, abs=6e-4)
    assert [float(row["loud"]) for row in rows] == pytest.approx(scores[:, 1], abs=1e-6)


def test_a_name_too_long_for_scores_over_time_fails_alone(run, tmp_path):
    (tmp_path / "m").mkdir()
    lengths = (246, 247, 251, 252, 255)
    names = [f"{'n' * (length - 4)}.wav" for length in lengths]
    for name in [*names, "a.wav", "z.wav"]:
        soundfile.write(tmp_path / "m" / name, np.ones(900), loudness.RATE)
    code, _, stderr = run("--taggram=t", *OUTPUTS, tmp_path / "m")
    assert (code, stderr.count("File name too long")) == (1, 4)
    assert "3 of 7 files; 4 failed" in stderr
    usable = {"a.wav", "z.wav", names[0]}
    found = {path.name for path in (tmp_path / "t").iterdir()}
    assert found == {f"{name}.{end}" for name in usable for end in ("csv", "png")}
    table = np.load(tmp_path / "e.npz")
    assert {pathlib.Path(path).name for path in table["ids"]} == usable
    assert (tmp_path / "o.csv").read_text().count("its --taggram cannot") == 4


def test_a_full_disk_stops_scores_over_time(run, music, small_disk):
    (small_disk / "ballast").write_bytes(bytes(13 * 4096))
    code, _, stderr = run(f"--taggram={small_disk}", music)
    assert code == 1 and stderr.splitlines()[-1].startswith(f"error: {small_disk}/")
    assert "No space left" in stderr


def test_a_file_where_scores_over_time_should_go_is_said_at_once(run, music, tmp_path):
    (tmp_path / "t").write_text("")
    assert run("--taggram=t", music) == (1, "", "error: t: File exists\n")


def test_what_else_is_wanted_is_made_though_nobody_reads_the_output(music, tmp_path):
    wanted = ["--embeddings=e.npz", "--taggram=t"]
    process = start(tmp_path, *wanted, music, stdout=subprocess.PIPE)
    assert process.stdout.readline()
    process.stdout.close()
    assert "9 of 11 files; 2 failed" in process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1
    assert len(np.load(tmp_path / "e.npz")["ids"]) == NUM_FILES - 2
    assert len(list((tmp_path / "t").rglob("*.png"))) == NUM_FILES - 2


def test_folders_are_searched_through_links_but_not_in_hiding(run, music, tmp_path):
    top, away = tmp_path / "top", tmp_path / "away"
    for name in ("top/.hidden/x.wav", "top/z/1.wav", "away/2.wav", "away/.bin/y.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(music / "a" / "00.wav")
    for link, target in (
        *((top / "a", top / "z"), (top / "z" / "loop", top), (top / "b", away)),
        *((top / "c", away), (away / "back", top / "z")),
    ):
        link.symlink_to(target)
    found = paths_of(run("--format=json", top)[1])
    assert found == [f"{top}/b/2.wav", f"{top}/z/1.wav"]
    assert paths_of(run("--format=json", top / ".hidden")[1]) == [
        f"{top}/.hidden/x.wav"
    ]


def test_a_closed_folder_fails_alone(music):
    if os.geteuid():
        pytest.skip("NOT RUN WITHOUT PERMISSION: only root may become nobody")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        shutil.copytree(music, f"{folder}/m")
        os.chmod(f"{folder}/m", 0o755)
        os.chmod(f"{folder}/m/a", 0o000)
        args = ["--format=json", f"{folder}/m", f"{folder}/m/a"]
        process = start(folder, *args, stdout=subprocess.PIPE, NOBODY="1")
        stdout, stderr = process.communicate()
    rows = [json.loads(line) for line in stdout.splitlines()]
    closed = {"path": f"{folder}/m/a", "error": "Permission denied"}
    assert [rows[0], rows[-1]] == [closed, closed]
    assert [row["path"] for row in rows[1:-1]] == [
        f"{folder}/m/b/{index:02d}.wav" for index in range(1, NUM_FILES, 2)
    ]
    assert stderr.count(f"{folder}/m/a: Permission denied\n") == 2
    assert process.returncode == 1 and "4 of 7 files; 3 failed" in stderr


def test_no_files_give_an_empty_table(run, tmp_path):
    assert run(*OUTPUTS, "-")[0] == 0
    found = take(tmp_path)
    assert found["o.csv"] == b"path,best,note,error,quiet,loud\n"
    assert np.load(io.BytesIO(found["e.npz"]))["ids"].shape == (0,)
