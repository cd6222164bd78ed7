"""The demo corpus: its layout, reproducibility and sound."""

import dataclasses
import itertools
import json
import wave

import numpy as np
import pytest
from scipy import signal
from sklearn import linear_model, model_selection, pipeline, preprocessing

from genre_tl.data import collection, gtzan, splits
from tools.demo_corpus import builder, synthesis

CORPUS = {"num_tagged": 68, "clips_per_genre": 6, "clip_secs": 5, "seed": 0}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "corpus"
    builder.write(root, **CORPUS)
    return root


def read(path):
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        data = file.readframes(file.getnframes())
        return np.frombuffer(data, "<i2") / 32768, file.getframerate()


def piece(**changes):
    plain = synthesis.Piece(
        bpm=120, groove="none", bass="none", rhythm="held", chords="piano",
        lead="none", harmony="pop", key=0,
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def test_the_tagged_part_loads_as_magnatagatune(demo):
    table = collection.load("auto", demo / "tagged")
    assert table.name == "demo"
    assert len(table) == 68
    assert table.skipped == ()
    assert len(set(table.groups)) == 34
    for name in ("paper", "literature"):
        parts = splits.by_name(table, name)
        used = [{table.groups[row] for row in rows} for rows in parts.values()]
        assert sum(map(len, used)) == 34
    samples, rate_hz = read(table.files[0])
    assert (len(samples), rate_hz) == (5 * 16_000, 16_000)


def test_the_genre_part_loads_as_gtzan(demo):
    table = collection.load("auto", demo / "genres")
    assert table.name == "demo" and table.groups[0] == "blues.00000"
    assert table.labels.sum(axis=0).tolist() == [6] * 10
    assert table.skipped == ()
    samples, rate_hz = read(table.files[0])
    assert (len(samples), rate_hz) == (5 * 22_050, 22_050)


def test_every_clip_sounds_and_none_is_another(demo):
    for part in ("tagged", "genres"):
        table = collection.load("auto", demo / part)
        sounds = [read(path)[0] for path in table.files]
        assert min(np.std(samples) for samples in sounds) > 1e-3
        assert len({samples.tobytes() for samples in sounds}) == len(table)


def test_every_tag_has_clips_with_and_without_it(demo):
    share = collection.load("auto", demo / "tagged").labels.mean(axis=0)
    assert len(share) == 22
    assert share.min() > 0
    assert share.max() < 1


def test_a_seed_gives_one_corpus_and_another_seed_another(demo, tmp_path):
    small = CORPUS | {"num_tagged": 2, "clips_per_genre": 1}
    builder.write(tmp_path / "same", **small)
    builder.write(tmp_path / "other", **small | {"seed": 1})
    for path in (tmp_path / "same").rglob("*.wav"):
        relative = path.relative_to(tmp_path / "same")
        assert path.read_bytes() == (demo / relative).read_bytes()
        assert path.read_bytes() != (tmp_path / "other" / relative).read_bytes()


def test_a_second_call_does_nothing(demo):
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*")}
    builder.write(demo, **CORPUS)
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*")} == before


def test_nothing_else_is_overwritten(demo, tmp_path):
    with pytest.raises(FileExistsError, match="something other"):
        builder.write(demo, **CORPUS | {"seed": 1})
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        builder.write(tmp_path, **CORPUS)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_a_failed_call_leaves_nothing(tmp_path, monkeypatch):
    def full(*args):
        raise OSError("disk full")

    monkeypatch.setattr(builder, "_write_genres", full)
    with pytest.raises(OSError, match="disk full"):
        builder.write(tmp_path / "a" / "corpus", **CORPUS)
    assert list((tmp_path / "a").iterdir()) == []


def test_a_full_disk_is_named(small_disk):
    with pytest.raises(OSError, match="No space left") as error:
        builder.write(small_disk / "corpus", **CORPUS)
    assert error.value.filename.startswith(f"{small_disk}/corpus.part/tagged/")
    assert list(small_disk.iterdir()) == []


def test_the_manifest_states_the_parameters(demo):
    manifest = json.loads((demo / "corpus.json").read_text())
    assert manifest.items() >= CORPUS.items()


@pytest.mark.parametrize("name", sorted(synthesis.INSTRUMENTS))
def test_an_instrument_sounds_at_the_pitch_it_is_given(name):
    # A4 and harmonics: the spectrum repeats every 440 Hz, and there is no other line.
    note = synthesis.tone(name, 69, 16_000, 16_000)
    spectrum = np.abs(np.fft.rfft(note * np.hanning(len(note)))) ** 2
    hz = np.arange(len(spectrum))
    near = np.abs(hz - 440 * np.round(hz / 440)) < 0.03 * hz
    assert spectrum[near].sum() > 0.9 * spectrum.sum()
    assert spectrum[415:465].sum() > 0.02 * spectrum.sum()
    assert np.all(np.isfinite(note))


def test_the_tempo_heard_is_the_tempo_of_the_piece():
    rate_hz = 16_000
    for bpm in (90, 120, 150):
        rng = np.random.default_rng(0)
        waveform = synthesis.play(piece(bpm=bpm, groove="disco"), 10, rate_hz, rng)
        frames = np.abs(waveform[: len(waveform) // 160 * 160].reshape(-1, 160))
        rise = np.maximum(np.diff(frames.max(axis=1)), 0)
        echo = np.correlate(rise, rise, "full")[len(rise) - 1 :]
        # Disco sounds every half beat and is alike every beat.
        frames_a_beat = 60 / bpm * 100
        lags = np.arange(round(0.8 * frames_a_beat), round(1.2 * frames_a_beat))
        assert lags[np.argmax(echo[lags])] == pytest.approx(frames_a_beat, abs=1.5)


def test_tags_name_what_can_be_heard():
    def tags(**changes):
        heard = builder._tags(piece(**changes))
        return {tag for tag, on in heard.items() if on} - set(gtzan.GENRES)

    assert tags() == {"piano"}
    assert tags(bpm=70, groove="rock", bass="halves", lead="flute") == {
        *("slow", "drums", "bass", "piano", "flute")
    }
    assert tags(groove="swing", harmony="blues", bpm=160) == {
        *("drums", "fast", "piano")
    }
    assert tags(rhythm="skank", harmony="riff") == {"offbeat", "piano"}


def test_a_piece_with_half_the_choices_of_a_genre_is_tagged_with_it():
    for genre, style in builder._STYLES.items():
        typical = {part: builder._options(style, part)[0] for part in builder._PARTS}
        assert builder._tags(piece(**typical))[genre]
        half = dict(list(typical.items())[:3])
        assert builder._tags(piece(**half))[genre]


@pytest.mark.parametrize(
    "part, table",
    [
        ("groove", synthesis.GROOVES),
        ("bass", synthesis.BASSES),
        ("rhythm", synthesis.RHYTHMS),
        ("chords", synthesis.INSTRUMENTS),
        ("lead", {**synthesis.INSTRUMENTS, "none": None}),
        ("harmony", synthesis.HARMONIES),
    ],
)
def test_styles_use_what_the_tables_have(part, table):
    assert tuple(builder._STYLES) == gtzan.GENRES
    styles = builder._STYLES.values()
    used = {choice for style in styles for choice in builder._options(style, part)}
    assert used <= set(table)
    if part not in ("chords", "lead"):
        assert used == set(table)


def features(path):
    """Means and spreads of a log spectrogram in 40 bands."""
    samples, rate_hz = read(path)
    _, _, power = signal.spectrogram(samples, rate_hz, nperseg=1024, noverlap=512)
    edges = np.geomspace(2, 370, 41).astype(int) + np.arange(41)
    bands = [power[a:b].mean(axis=0) for a, b in itertools.pairwise(edges)]
    log = np.log(np.stack(bands) + 1e-8)
    return np.concatenate([log.mean(1), log.std(1), np.diff(log).std(1)])


def test_simple_features_classify_genres_well_above_chance(demo):
    table = collection.load("auto", demo / "genres")
    model = pipeline.make_pipeline(
        preprocessing.StandardScaler(),
        linear_model.LogisticRegression(C=0.05, max_iter=500),
    )
    accuracy = model_selection.cross_val_score(
        model, np.stack([features(path) for path in table.files]), table.classes, cv=6
    ).mean()
    # Chance is 0.1, with a standard deviation of 0.04 on 60 clips.
    assert 0.3 < accuracy < 0.95
