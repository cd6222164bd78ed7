"""`Predictor` with an exported classifier."""

import os
import shutil
import subprocess

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from support import tiny_export
from support.tiny_export import CLIPS, LABELS, SEGMENT, answer, scores_of

from genre_tl import files
from genre_tl.audio import sound
from genre_tl.serving import model_card, predictor, versions

CARDS = model_card.PATH, model_card.PATH.with_suffix(".md"), model_card.SUMS
# A missing graph is no SavedModel; a bit of the list is one of another file.
UNNAMED = "saved_model.pb", str(model_card.SUMS)


def test_the_predictor_takes_versions_or_one_version(exported):
    assert exported.predictor.folder == exported.folder
    assert exported.predictor.labels == tuple(LABELS)
    assert versions.newest_whole(exported.folder) == exported.folder


def test_the_predictor_keeps_the_order_of_clips_of_any_length(exported, monkeypatch):
    monkeypatch.setattr(predictor, "_BATCH_SAMPLES", 2 * SEGMENT)
    clips = [*CLIPS, np.zeros(0, np.float32), CLIPS[1].astype(np.float64)]
    expected = [scores_of(exported, clip[np.newaxis])[0] for clip in clips]
    np.testing.assert_allclose(exported.predictor.scores(clips), expected, atol=1e-6)
    assert exported.predictor.scores([]).shape == (0, len(LABELS))


@pytest.mark.parametrize(
    "waveform", [np.zeros([2, 9], np.float32), np.zeros(9, np.int16)]
)
def test_the_predictor_refuses_what_is_no_waveform(exported, waveform):
    with pytest.raises(ValueError, match=r"waveforms\[1\] is .*floating-point"):
        exported.predictor.scores([np.zeros(9, np.float32), waveform])


def test_the_predictor_says_why_it_cannot_load(tmp_path, exported):
    with pytest.raises(
        FileNotFoundError, match="absent: no SavedModel or .* here; export a model"
    ):
        predictor.Predictor(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="no SavedModel or model.onnx here"):
        predictor.Predictor(tmp_path)
    (tmp_path / "3").mkdir()
    with pytest.raises(FileNotFoundError, match="3: no SavedModel or model.onnx here"):
        predictor.Predictor(tmp_path)
    (tmp_path / "3" / "saved_model.pb").write_bytes(b"\x0anonsense")
    with pytest.raises(ValueError, match=r"sha256sums\.txt: missing or empty; export"):
        predictor.Predictor(tmp_path)
    model_card.write(tmp_path / "3", {})
    with pytest.raises(ValueError, match="damaged SavedModel"):
        predictor.Predictor(tmp_path)
    tf.saved_model.save(tf.Module(), str(tmp_path / "4"))
    model_card.write(tmp_path / "4", {})
    with pytest.raises(ValueError, match="of another program"):
        predictor.Predictor(tmp_path)


@pytest.mark.parametrize("change", ["bit", "empty", "missing"])
def test_an_export_with_a_changed_file_is_refused(exported, tmp_path, change):
    folder = shutil.copytree(exported.folder, tmp_path / "1")
    for name in tiny_export.files_of(folder):
        path = folder / name
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        path.write_bytes(flipped if change == "bit" else b"")
        if change == "missing":
            path.unlink()
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            predictor.Predictor(folder)
        assert str(folder) in str(error.value) and "export" in str(error.value)
        assert name in str(error.value) or name in UNNAMED
        path.write_bytes(content)
    predictor.Predictor(folder)


def test_a_damaged_version_is_passed_over_with_a_warning(exported, tmp_path, caplog):
    for name in ("1", "2"):
        shutil.copytree(exported.folder, tmp_path / name)
    (tmp_path / "2" / "saved_model.pb").write_bytes(b"")
    (tmp_path / "3").mkdir()
    with caplog.at_level("WARNING", logger="absl"):
        assert predictor.Predictor(tmp_path).folder == tmp_path / "1"
    first, second = (record.getMessage() for record in caplog.records)
    assert f"{tmp_path}/3: no SavedModel or model.onnx here" in first
    assert f"{tmp_path}/2/saved_model.pb: damaged" in second
    assert first.endswith("version 1 is used") and second.endswith("version 1 is used")


def test_sha256sum_finds_a_changed_file(exported, tmp_path):
    folder = shutil.copytree(exported.folder, tmp_path / "1")
    check = ["sha256sum", "--check", "--quiet", str(model_card.SUMS)]
    assert subprocess.run(check, cwd=folder).returncode == 0
    with open(folder / "saved_model.pb", "ab") as file:
        file.write(b"x")
    done = subprocess.run(check, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1 and "saved_model.pb: FAILED" in done.stdout


def test_the_card_holds_the_digests_of_the_other_files(exported):
    card = model_card.read(exported.folder)
    beside = {str(path) for path in CARDS}
    found = files.digests(exported.folder)
    assert card["sha256"] == {name: found[name] for name in found.keys() - beside}


def test_the_predictor_returns_embeddings(exported):
    pieces = exported.predictor._whole(CLIPS)
    _, vectors, *_ = exported.predictor.score_pieces(pieces)
    expected = [answer(exported, "embedding", clip)["embedding"][0] for clip in CLIPS]
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert exported.predictor.score_pieces([])[1].shape == (0, vectors.shape[1])


def test_batches_hold_every_piece_in_order_and_no_more_than_their_share():
    lengths = np.random.default_rng(0).integers(0, 10**6, 100)
    pieces = [sound.Piece(np.zeros(n, np.float32), 0, np.float32(0)) for n in lengths]
    batches = list(predictor._batches(pieces))
    assert [len(x.waveform) for batch in batches for x in batch] == lengths.tolist()
    for batch in batches:
        longest = max(len(piece.waveform) for piece in batch)
        assert len(batch) * longest <= predictor._BATCH_SAMPLES


def test_a_forked_process_is_told_what_to_do(exported, monkeypatch):
    # Without a fork, which would hang if the check came too late.
    monkeypatch.setattr(os, "getpid", lambda: -1)
    calls = [
        lambda: exported.predictor.scores([CLIPS[0]]),
        lambda: exported.predictor.taggram(CLIPS[0]),
        lambda: next(predictor.predict(exported.predictor, ["a.wav"])),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match="create it in the child"):
            call()


def test_a_silent_file_has_a_note(exported, tmp_path):
    path = str(tmp_path / "silent.wav")
    soundfile.write(path, np.zeros(16_000), 16_000)
    (result,) = predictor.predict(exported.predictor, [path])
    assert result.scores.shape == (len(LABELS),)
    assert result.note == "no sound"
