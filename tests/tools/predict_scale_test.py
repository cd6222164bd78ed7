"""`tools.predict` on many files: lists, resumption, embeddings, scores over time."""

import csv
import io
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from absl import flags
from absl.testing import flagsaver
from support import loudness, other_user

from genre_tl.serving import predictor, runtimes
from tools import command, outputs, predict

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
    """Runs the tool in this process; returns exit code, stdout and stderr."""
    model = loudness.Model(tmp_path / "model")
    monkeypatch.setattr(predictor, "Predictor", lambda path: model)
    monkeypatch.setattr(predictor, "GROUP_FILES", 2)
    # It would last: later tests compare with programs that have the usual graphs.
    monkeypatch.setattr(command, "skip_graph_rewriting", lambda: None)
    monkeypatch.chdir(tmp_path)

    def run_(*args, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with flagsaver.flagsaver():
            rest = flags.FLAGS(["predict", *map(str, args)])
            try:
                code = command._guarded(predict.main, rest)
            except KeyboardInterrupt:
                code = 130
        return code, *capsys.readouterr()

    return run_


def paths_of(stdout):
    return [json.loads(line)["path"] for line in stdout.splitlines()]


def test_lists_come_from_the_standard_input_by_lines_or_nul(run, music):
    names = [str(music / "a" / "02.wav"), str(music / "a" / "00.wav")]
    lines = os.fsencode("\n".join(names))
    assert paths_of(run("--format=json", "-", stdin=lines)[1]) == names
    assert paths_of(run("--format=json", "-", stdin=lines + b"\n")[1]) == names
    windows = b"\xef\xbb\xbf" + lines.replace(b"\n", b"\r\n") + b"\r\n"
    assert paths_of(run("--format=json", "-", stdin=windows)[1]) == names
    nul = os.fsencode("\0".join(names))
    assert paths_of(run("--format=json", "--null", "-", stdin=nul)[1]) == names
    both = run("--format=json", music / "b" / "01.wav", "-", stdin=lines)[1]
    assert paths_of(both) == [str(music / "b" / "01.wav"), *names]


def test_globs_that_no_shell_expanded_are_expanded(run, music):
    stdout = run("--format=json", music / "?" / "0[0-3].wav")[1]
    expected = sorted(str(path) for path in music.glob("?/0[0-3].wav"))
    assert paths_of(stdout) == expected and len(expected) == 4
    code, _, stderr = run(music / "*.ogg")
    assert (code, "no file matches this pattern" in stderr) == (1, True)


def test_top_k_and_threshold_choose_the_labels_in_every_format(run, music):
    path = music / "b" / "07.wav"
    (row,) = csv.DictReader(io.StringIO(run("--format=csv", "--top_k=1", path)[1]))
    assert (row["best"], row["quiet"] != "", row["loud"]) == ("quiet", True, "")
    stdout = run("--format=json", "--threshold=0.5", path)[1]
    assert list(json.loads(stdout)["scores"]) == ["quiet"]
    assert "nothing above 99 %" in run("--threshold=0.99", path)[1]


OUTPUTS = ("--output=o.csv", "--embeddings=e.npz")


@pytest.fixture
def whole(run, music, tmp_path):
    """The outputs of an uninterrupted call, by name."""
    assert run(*OUTPUTS, music)[0] == 1
    return take(tmp_path)


def take(folder):
    names = [name for name in ("o.csv", "e.npz") if (folder / name).exists()]
    left = [path.name for path in folder.iterdir() if path.name != "model"]
    assert sorted(left) == sorted(names)
    found = {name: (folder / name).read_bytes() for name in names}
    for name in names:
        (folder / name).unlink()
    return found


def test_embeddings_have_one_vector_per_usable_file(whole):
    rows = list(csv.DictReader(io.StringIO(whole["o.csv"].decode())))
    table = np.load(io.BytesIO(whole["e.npz"]))
    assert list(table["ids"]) == [row["path"] for row in rows if not row["error"]]
    assert table["vectors"].shape == (NUM_FILES - 2, 3)
    lengths = np.array([soundfile.info(str(path)).frames for path in table["ids"]])
    # Longer ones have the mean of their pieces.
    short = lengths <= runtimes.CHUNK_SEGMENTS * loudness.SEGMENT
    lengths[0] = 0  # the first file is silent
    assert table["vectors"][short, 0].tolist() == lengths[short].tolist()


@pytest.mark.parametrize("num_scored", [0, 1, 2, 5, 9])
def test_an_interrupted_call_resumes(
    run, whole, music, tmp_path, monkeypatch, num_scored
):
    real, scored = predictor.predict, []

    def dying(*args, **kwargs):
        for result in real(*args, **kwargs):
            if len(scored) == num_scored:
                raise KeyboardInterrupt
            scored.append(result)
            yield result

    monkeypatch.setattr(predictor, "predict", dying)
    assert run(*OUTPUTS, music)[0] == 130
    assert not (tmp_path / "o.csv").exists()
    (tmp_path / "o.csv.partial" / "00000009.npz.part").write_text("half a chu")
    monkeypatch.setattr(predictor, "predict", real)
    code, _, stderr = run(*OUTPUTS, music)
    assert code == 1
    kept = num_scored // 2 * 2
    assert (f"resuming after {kept} of {NUM_FILES} files" in stderr) == (kept > 0)
    assert f"{NUM_FILES - 2} of {NUM_FILES} files; 2 failed" in stderr
    assert take(tmp_path) == whole


def test_another_call_does_not_resume_it(run, music, tmp_path, monkeypatch):
    real = predictor.predict

    def dying(*args, **kwargs):
        results = real(*args, **kwargs)
        yield from (next(results) for _ in range(4))
        raise KeyboardInterrupt

    monkeypatch.setattr(predictor, "predict", dying)
    assert run(*OUTPUTS, music)[0] == 130
    chunks = {x.name: x.read_bytes() for x in (tmp_path / "o.csv.partial").iterdir()}
    assert len(chunks) == 3
    for others, name in (
        ([*OUTPUTS, music / "a"], "list of files"),
        ([*OUTPUTS, "--top_k=1", music], "--top_k"),
        (["--output=o.csv", music], "--embeddings"),
    ):
        code, _, stderr = run("--model=m", *others)
        assert (code, stderr.count("\n")) == (1, 1)
        assert f"with another {name}" in stderr and "o.csv.partial: left by" in stderr
    for name, content in chunks.items():
        assert (tmp_path / "o.csv.partial" / name).read_bytes() == content


PROGRAM = f"""
import concurrent.futures.thread, os, pathlib, sys, time
sys.path.insert(0, {str(ROOT / "tests")!r})
from support import loudness, other_user
from genre_tl.serving import dividing, predictor
from tools import predict
if "ORDINARY_USER" in os.environ:
    other_user.drop_root()
class Hanging(loudness.Model):
    def score_pieces(self, pieces):
        found = super().score_pieces(pieces)
        if self.calls == int(os.environ.get("HANG_AT_CALL", "0")):
            pathlib.Path("reached").touch()
            time.sleep(10_000)
        return found
predictor.Predictor = Hanging
predictor.GROUP_FILES = 2
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


def start_and_hang(folder, call, *args):
    """Starts the tool and returns it when its model has been called so often."""
    process = start(folder, *args, HANG_AT_CALL=str(call))
    while not (folder / "reached").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    (folder / "reached").unlink()
    return process


def test_after_kill_9_the_same_command_gives_the_same_bytes(run, music, tmp_path):
    kills = int(os.environ.get("GENRE_TL_KILLS", "3"))
    command_line = [*OUTPUTS, *[music] * kills]
    assert run(*command_line)[0] == 1
    expected, chance = take(tmp_path), random.Random(0)
    for _ in range(kills):
        process = start_and_hang(tmp_path, chance.choice([1, 2]), *command_line)
        process.kill()
        process.communicate()
        assert not (tmp_path / "o.csv").exists()
    code, _, stderr = run(*command_line)
    assert code == 1 and "resuming after" in stderr
    assert take(tmp_path) == expected


def test_text_of_finished_chunks_is_printed_again(run, music, tmp_path, monkeypatch):
    real = predictor.predict
    _, expected, _ = run("--format=csv", music)

    def dying(*args, **kwargs):
        results = real(*args, **kwargs)
        yield from (next(results) for _ in range(5))
        raise KeyboardInterrupt

    monkeypatch.setattr(predictor, "predict", dying)
    assert run("--format=csv", "--embeddings=e.npz", music)[0] == 130
    monkeypatch.setattr(predictor, "predict", real)
    assert run("--format=csv", "--embeddings=e.npz", music)[:2] == (1, expected)


@pytest.mark.parametrize("pages", range(1, 6))
def test_on_a_full_disk_the_same_command_resumes(run, music, small_disk, pages):
    assert run(f"--output={music}/../o.csv", music)[0] == 1
    expected = (music.parent / "o.csv").read_bytes()
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes((16 - pages) * 4096))
    code, _, stderr = run(f"--output={small_disk}/o.csv", music)
    *_, last = stderr.splitlines()
    assert code == 1 and last.startswith(f"error: {small_disk}/o.csv.p")
    assert "No space left" in last and not (small_disk / "o.csv").exists()
    ballast.unlink()
    code, _, stderr = run(f"--output={small_disk}/o.csv", music)
    assert code == 1 and ("resuming after" in stderr) == (pages > 1)
    assert (small_disk / "o.csv").read_bytes() == expected
    assert [path.name for path in small_disk.iterdir()] == ["o.csv"]


def test_a_chunk_that_does_not_fit_on_the_disk_is_named(small_disk):
    full = pytest.raises(OSError, match="No space left")
    with full as caught, outputs.opened(f"{small_disk}/v.npz", {}) as chunks:
        for _ in range(100):
            chunks.add(vectors=np.zeros(700))
    assert caught.value.filename.startswith(f"{small_disk}/v.npz.partial/")


def test_two_calls_do_not_write_the_same_file(music, tmp_path, run):
    process = start_and_hang(tmp_path, 1, *OUTPUTS, music)
    code, _, stderr = run(*OUTPUTS, music)
    process.kill()
    process.communicate()
    assert code == 1 and "another process is writing here" in stderr


def test_scores_over_time_are_a_plot_and_a_table_per_file(run, music, tmp_path):
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
        soundfile.write(tmp_path / "m" / name, np.linspace(-1, 1, 900), loudness.RATE)
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


def test_a_file_in_place_of_the_taggram_folder_is_refused_at_once(run, music, tmp_path):
    (tmp_path / "t").write_text("")
    found = run("--model=m", "--taggram=t", music)
    assert found == (1, "", "error: t: File exists\n")


def test_other_outputs_are_written_though_the_pipe_is_closed(music, tmp_path):
    wanted = ["--embeddings=e.npz", "--taggram=t"]
    process = start(tmp_path, *wanted, music, stdout=subprocess.PIPE)
    assert process.stdout.readline()
    process.stdout.close()
    assert "9 of 11 files; 2 failed" in process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1
    assert len(np.load(tmp_path / "e.npz")["ids"]) == NUM_FILES - 2
    assert len(list((tmp_path / "t").rglob("*.png"))) == NUM_FILES - 2


def test_links_to_folders_are_followed_and_hidden_folders_skipped(run, music, tmp_path):
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


def test_a_closed_folder_fails_alone(music, public_folder):
    other_user.require(public_folder)
    os.chmod(public_folder, 0o777)  # the model writes its card
    shutil.copytree(music, public_folder / "m")
    os.chmod(public_folder / "m", 0o755)
    os.chmod(public_folder / "m/a", 0o000)
    args = ["--format=json", public_folder / "m", public_folder / "m/a"]
    process = start(public_folder, *args, stdout=subprocess.PIPE, ORDINARY_USER="1")
    stdout, stderr = process.communicate()
    os.chmod(public_folder / "m/a", 0o755)
    rows = [json.loads(line) for line in stdout.splitlines()]
    closed = {"path": f"{public_folder}/m/a", "error": "Permission denied"}
    assert [rows[0], rows[-1]] == [closed, closed]
    assert [row["path"] for row in rows[1:-1]] == [
        f"{public_folder}/m/b/{index:02d}.wav" for index in range(1, NUM_FILES, 2)
    ]
    assert stderr.count(f"{public_folder}/m/a: Permission denied\n") == 2
    assert process.returncode == 1 and "4 of 7 files; 3 failed" in stderr


def test_no_files_give_an_empty_table(run, tmp_path):
    assert run(*OUTPUTS, "-")[0] == 0
    found = take(tmp_path)
    assert found["o.csv"] == b"path,best,verdict,familiarity,note,error,quiet,loud\n"
    assert np.load(io.BytesIO(found["e.npz"]))["ids"].shape == (0,)


def test_unsupported_files_are_reported_once_with_the_remedy(run, music, tmp_path):
    for name in ("x.mid", "y.MID", "z.ra", "cover.jpg"):
        (tmp_path / "m").mkdir(exist_ok=True)
        (tmp_path / "m" / name).touch()
    code, stdout, stderr = run(tmp_path / "m", music / "a" / "00.wav")
    remedy = "skipped: 2 .mid, 1 .ra (unsupported; convert them to FLAC or MP3)"
    assert (code, stdout.count("\n"), stderr.count(remedy)) == (0, 1, 1)


def test_the_suffix_of_the_output_chooses_the_format(run, music, tmp_path):
    path = music / "a" / "00.wav"
    for name, first in (("o.csv", b"path,"), ("o.jsonl", b"{"), ("o", b"/")):
        assert run(f"--output={name}", path)[0] == 0
        assert (tmp_path / name).read_bytes().startswith(first)


@pytest.mark.parametrize(
    "args, code, reason",
    [
        (["--output=o.csv", "--format=json"], 2, "--format=json contradicts"),
        (["--output=o.csv", "--chart"], 2, "--chart needs text, not csv"),
        (["--embeddings=e.csv"], 2, "end the name in .npz"),
        (["--output=/dev/null"], 1, "--output=/dev/null: not a regular file"),
        (["--output=fifo"], 1, "--output=fifo: not a regular file"),
        (["--embeddings=e.npz"], 1, "--embeddings=e.npz: not a regular file"),
    ],
)
def test_outputs_that_cannot_be_written_are_refused(run, tmp_path, args, code, reason):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "e.npz").mkdir()
    found, stdout, stderr = run(*args, "x.wav")
    assert (found, stdout) == (code, "") and reason in stderr


def test_a_tilde_is_the_home_folder(run, music, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("--output=~/o.csv", "--embeddings=~/e.npz", music)[0] == 1
    assert sorted(take(tmp_path)) == ["e.npz", "o.csv"]


def test_an_output_that_is_a_link_is_written_through(run, music, tmp_path):
    (tmp_path / "o.csv").symlink_to(tmp_path / "other.csv")
    (tmp_path / "other.csv").touch()
    assert run("--output=o.csv", music / "a" / "00.wav")[0] == 0
    assert (tmp_path / "o.csv").is_symlink()
    assert (tmp_path / "other.csv").read_text().startswith("path,")


def test_a_silent_file_has_a_note(run, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(900), loudness.RATE)
    assert "(no sound)" in run(tmp_path / "a.wav")[1]


def test_labels_named_as_a_column_get_another_name():
    writer = outputs.Writer("csv", ["path", "rock", "error"])
    expected = "path,best,verdict,familiarity,note,error,label path,rock,label error\n"
    assert writer.head() == expected
    assert outputs.csv_head(["secs"], ["secs", "a"]) == "secs,label secs,a\n"


def test_a_csv_for_excel_begins_with_a_byte_order_mark(run, music, tmp_path):
    path = tmp_path / "s.csv"
    run("--bom", f"--output={path}", music)
    assert path.read_bytes().startswith(b"\xef\xbb\xbfpath,best,")
    assert run("--bom", music)[0] == 2


def test_csv_has_no_formulas_and_a_terminal_no_escapes(run, tmp_path, monkeypatch):
    for name in ("=1.wav", "+2.wav", "@3.wav", "-4.wav", "\x1b[31m.wav"):
        soundfile.write(tmp_path / name, np.linspace(-1, 1, 900), loudness.RATE)
    monkeypatch.chdir(tmp_path)
    names = ["=1.wav", "+2.wav", "@3.wav", "./-4.wav"]
    rows = csv.DictReader(io.StringIO(run("--format=csv", *names)[1]))
    paths = [row["path"] for row in rows]
    assert paths == ["./=1.wav", "./+2.wav", "./@3.wav", "./-4.wav"]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for kind in ("text", "json", "csv"):
        assert "\x1b" not in run(f"--format={kind}", "\x1b[31m.wav")[1]
