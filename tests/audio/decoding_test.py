"""Files of every format become waveforms; a bad file never stops the others."""

import errno
import functools
import importlib.util
import itertools
import math
import operator
import os
import pathlib
import re
import struct
import sys
import zlib

import numpy as np
import pytest
import soundfile
import soxr
import tensorflow as tf

from genre_tl import audio, params
from genre_tl.audio import (
    decoding,
    ffmpeg,
    libsndfile,
    streaming,
    tensorflow_io_decoder,
)
from genre_tl.data import audio_files
from tests.support import sounds
from tests.support.sounds import encode, encode_mp3, music, without_tag, written


def wav(samples=None, rate_hz=22_050, **changes):
    """A 16-bit mono WAV whose header may lie."""
    samples = music(rate_hz)[:, 0] if samples is None else samples
    data = (samples * 32_767).astype("<i2").tobytes()
    header = {"riff": 36 + len(data), "rate": rate_hz, "data": len(data), **changes}
    byte_rate = 2 * header["rate"] % 2**32
    form = struct.pack("<IHHIIHH", 16, 1, 1, header["rate"], byte_rate, 2, 16)
    riff = b"RIFF" + struct.pack("<I", header["riff"]) + b"WAVEfmt " + form
    return riff + b"data" + struct.pack("<I", header["data"]) + data


def flac_stating(num_samples):
    data = bytearray(encode(music(22_050), 22_050, "FLAC", "PCM_16"))
    data[21] = data[21] & 0xF0 | num_samples >> 32
    data[22:26] = (num_samples % 2**32).to_bytes(4, "big")
    return bytes(data)


@functools.cache
def sound_files():
    """Bytes of files without faults, by name."""
    noise = np.random.default_rng(1).integers(0, 255, 3_000, np.uint8).tobytes()
    files = {"riff.wav": wav(), "wrong_name.mp3": wav(), "UPPER.WAV": wav()}
    for container, subtype, rate_hz, num_channels in (
        ("WAV", "PCM_16", 44_100, 2),
        ("WAV", "PCM_24", 44_100, 2),
        ("WAV", "PCM_32", 44_100, 1),
        ("WAV", "PCM_U8", 22_050, 1),
        ("WAV", "FLOAT", 48_000, 1),
        ("WAV", "DOUBLE", 48_000, 2),
        ("WAVEX", "PCM_16", 44_100, 2),
        ("FLAC", "PCM_16", 44_100, 2),
        ("FLAC", "PCM_24", 48_000, 1),
        ("OGG", "VORBIS", 44_100, 2),
        ("OGG", "VORBIS", 22_050, 1),
        ("OGG", "OPUS", 48_000, 1),
        ("AIFF", "PCM_16", 44_100, 2),
        ("AU", "PCM_16", 22_050, 1),
    ):
        name = f"{subtype}_{rate_hz}_{num_channels}.{container.lower()}"
        samples = music(rate_hz, num_channels)
        files[name] = encode(samples, rate_hz, container, subtype)
    for rate_hz in (8_000, 16_000, 22_050, 32_000, 44_100, 48_000):
        files[f"{rate_hz}_1.mp3"] = encode_mp3(rate_hz)
        files[f"{rate_hz}_2.mp3"] = encode_mp3(rate_hz, 2)
    files["untagged_mpeg1.mp3"] = without_tag(encode_mp3(44_100, 2))
    files["untagged_mpeg2.mp3"] = without_tag(encode_mp3(22_050))
    files["id3v1.mp3"] = encode_mp3(22_050) + b"TAG" + bytes(125)
    cover = b"ID3\x04\0\0" + bytes([0, 9, 0, 0])  # 9 * 128 * 128 bytes of cover art
    files["id3v2.mp3"] = cover + bytes(9 * 128 * 128) + encode_mp3(22_050)
    files["junk_first.mp3"] = noise + encode_mp3(44_100)
    files["short.wav"] = wav(music(22_050, secs=0.3)[:, 0])
    files["silence.wav"] = wav(np.zeros(22_050))
    files["junk_chunk.wav"] = wav().replace(b"fmt ", b"JUNK\x04\0\0\0\0\0\0\0fmt ", 1)
    files["unknown_length.flac"] = flac_stating(0)
    files["ünïcode and spaces.wav"] = wav()
    return files


@functools.cache
def odd_files():
    """Bytes of files that are read with a note, and a part of the note, by name."""
    tune = music(22_050)
    vorbis = encode(music(44_100, 2, 8.0), 44_100, "OGG", "VORBIS")
    flac = encode(music(22_050), 22_050, "FLAC", "PCM_16")
    au, aiff = encode(tune, 22_050, "AU"), encode(tune, 22_050, "AIFF", "PCM_16")
    song, hole = encode_mp3(44_100, 2), encode_mp3(22_050, secs=4.0)
    noise = np.random.default_rng(2).integers(0, 255, 2_000, np.uint8).tobytes()
    third = len(hole) // 3
    return {
        "cut.wav": (wav()[:60_000], "cut off: 1.4 of 2.5 s"),
        "cut.au": (au[:60_024], "cut off: 1.4 of 2.5 s"),
        "cut.aiff": (aiff[:60_054], "cut off: 1.4 of 2.5 s"),
        "cut.flac": (flac[: len(flac) // 2], "of 2.5 s present"),
        "cut.ogg": (vorbis[: len(vorbis) // 2], "cut off"),
        "cut.mp3": (song[: len(song) // 2], "of 2.5 s present"),
        "hole.mp3": (hole[:third] + hole[third + 900 :], "of 4.0 s present"),
        "noise.mp3": (hole[:third] + noise + hole[third + 2_000 :], "of 4.0 s present"),
        "riff_size_zero.wav": (wav(riff=0), "wrong sizes in the header"),
        "data_size_ffffffff.wav": (wav(data=2**32 - 1), "wrong sizes in the header"),
        "never_closed.wav": (wav(riff=8, data=0), "wrong sizes in the header"),
        "promises_much.flac": (flac_stating(2**36 - 1), "2.5 of 3116529.6 s present"),
        "promises_more.flac": (flac_stating(10**6), "2.5 of 45.4 s present"),
    }


@functools.cache
def bad_files():
    """Bytes of files that cannot be used, and a part of the reason, by name."""
    rng = np.random.default_rng(0)
    nan, infinite = music(22_050), music(22_050)
    nan[1_000], infinite[1_000] = np.nan, np.inf
    return {
        "zero_bytes.wav": (b"", "empty"),
        "zero_bytes.mp3": (b"", "empty"),
        "header_only.wav": (wav()[:44], "no audio"),
        "zero_samples.wav": (wav(np.zeros(0)), "no audio"),
        "data_size_zero.wav": (wav(data=0), "no audio"),
        "truncated_header.wav": (wav()[:30], "cut off in the header"),
        "text.wav": (b"this is not audio\n" * 50, "not audio"),
        "random.mp3": (rng.bytes(20_000), "not audio"),
        "random.flac": (rng.bytes(20_000), "not audio"),
        "zero_rate.wav": (wav(rate=0), "no sample rate"),
        "rate_1.wav": (wav(rate=1), "sample rate 1 Hz is outside"),
        "rate_of_gigahertz.wav": (wav(rate=2**31 - 1), "2147483647 Hz is outside"),
        "nan.wav": (encode(nan, 22_050, "WAV", "FLOAT"), "NaN"),
        "infinite.wav": (encode(infinite, 22_050, "WAV", "FLOAT"), "NaN or infinite"),
    }


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Good, odd and bad files in turn, so that every kind has every neighbour."""
    odd = {name: data for name, (data, _) in odd_files().items()}
    bad = {name: data for name, (data, _) in bad_files().items()}
    files = {**sound_files(), **odd, **bad}
    names = sorted(files, key=lambda name: zlib.crc32(name.encode()))
    folder = tmp_path_factory.mktemp("audio")
    return written(folder, {name: files[name] for name in names})


@pytest.fixture(scope="module")
def both(paths):
    """The clips of all files through both routes, by name."""
    first = list(decoding.read(list(paths.values()), use_tfio=True))
    second = list(decoding.read(list(paths.values())))
    return dict(zip(paths, zip(first, second, strict=True), strict=True))


def needs_tensorflow_io():
    if not tensorflow_io_decoder._decoders():
        pytest.skip("NOT RUN: tensorflow-io is absent or does not load")


def test_clips_come_in_order_and_none_is_missing(paths, both):
    for route in zip(*both.values(), strict=True):
        assert [clip.index for clip in route] == list(range(len(paths)))
        assert [clip.path for clip in route] == list(paths.values())


@pytest.mark.parametrize("name", sound_files())
def test_a_sound_file_is_the_same_through_both_routes(both, name):
    first, second = both[name]
    for clip in (first, second):
        assert (clip.note, clip.error) == ("", "")
        assert clip.waveform.dtype == np.float32
    assert first.rate_hz == second.rate_hz
    assert first.waveform.shape == second.waveform.shape
    np.testing.assert_allclose(first.waveform, second.waveform, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("PCM_16_44100_2.wav", 3e-4),
        ("PCM_24_44100_2.wav", 3e-5),
        ("PCM_U8_22050_1.wav", 0.05),
        ("DOUBLE_48000_2.wav", 3e-5),
        ("PCM_24_48000_1.flac", 3e-5),
        ("PCM_16_44100_2.aiff", 3e-4),
        ("PCM_16_22050_1.au", 3e-4),
        ("VORBIS_44100_2.ogg", 0.1),
        ("OPUS_48000_1.ogg", 0.1),
        ("16000_1.mp3", 0.1),
        ("22050_2.mp3", 0.1),
        ("44100_1.mp3", 0.1),
        ("48000_2.mp3", 0.1),
    ],
)
def test_the_waveform_of_a_file_is_the_one_that_was_written(both, name, tolerance):
    clip = both[name][0]
    written = music(clip.rate_hz, 2 if "_2." in name else 1).mean(axis=1)
    expected = soxr.resample(written, clip.rate_hz, params.SAMPLE_RATE_HZ, "VHQ")
    assert len(clip.waveform) == math.ceil(len(written) * 16_000 / clip.rate_hz)
    error = clip.waveform[: len(expected)] - expected
    assert np.sqrt(np.mean(error**2)) < tolerance * np.sqrt(np.mean(expected**2))


@pytest.mark.parametrize("name", ["untagged_mpeg1.mp3", "untagged_mpeg2.mp3"])
def test_an_mp3_without_a_length_is_read_to_its_end(both, name):
    waveform, rate_hz = both[name][0].waveform, both[name][0].rate_hz
    written = music(rate_hz, 2 if "mpeg1" in name else 1).mean(axis=1)
    expected = soxr.resample(written, rate_hz, params.SAMPLE_RATE_HZ, "VHQ")
    lag = np.correlate(waveform, expected, "valid").argmax()  # the encoder's delay
    error = waveform[lag : lag + len(expected)] - expected
    assert np.sqrt(np.mean(error**2)) < 0.1 * np.sqrt(np.mean(expected**2))


@pytest.mark.parametrize("name", odd_files())
def test_an_odd_file_is_read_as_far_as_possible_with_a_note(both, name):
    for clip in both[name]:
        assert not clip.error
        assert odd_files()[name][1] in clip.note
        assert np.abs(clip.waveform).max() > 0.05
    first, second = both[name]
    np.testing.assert_allclose(first.waveform, second.waveform, atol=1e-5)


def test_a_cut_file_gives_its_beginning(both):
    whole = both["riff.wav"][0].waveform
    for name in ("cut.wav", "cut.au", "cut.aiff", "cut.flac"):
        left = both[name][0].waveform
        assert len(left) < len(whole)
        heard = len(left) - 800  # resampling rings before a cut
        np.testing.assert_allclose(left[:heard], whole[:heard], atol=1e-4)


@pytest.mark.parametrize("name", bad_files())
def test_a_bad_file_gives_a_readable_reason(both, name):
    for clip in both[name]:
        assert clip.waveform is None
        assert bad_files()[name][1] in clip.error
        assert "libsndfile" not in clip.error and "Error" not in clip.error


def test_what_is_not_a_file_gives_a_reason(tmp_path):
    missing, folder = tmp_path / "missing.wav", tmp_path
    first, second, third = decoding.read([str(missing), str(folder), "a\0b.wav"])
    assert first.error == "No such file or directory"
    assert second.error == "Is a directory"
    assert "null" in third.error


def test_damaged_files_leave_the_terminal_quiet(paths, capfd):
    names = {*odd_files(), *bad_files()}
    list(decoding.read([paths[name] for name in paths if name in names]))
    assert capfd.readouterr() == ("", "")


def test_16_bits_are_scaled_by_32768_and_floats_are_kept(tmp_path):
    rate_hz = params.SAMPLE_RATE_HZ
    extremes = np.array([-32_768, -1, 0, 1, 32_767], np.int16)
    loud = np.array([-5.5, -1, 0.25, 1, 7.5], np.float32)
    files = written(
        tmp_path,
        {
            "int.wav": encode(extremes, rate_hz, "WAV", "PCM_16"),
            "int.flac": encode(extremes, rate_hz, "FLAC", "PCM_16"),
            "int.au": encode(extremes, rate_hz, "AU", "PCM_16"),
            "float.wav": encode(loud, rate_hz, "WAV", "FLOAT"),
        },
    )
    *integers, floats = decoding.read(list(files.values()))
    for clip in integers:
        np.testing.assert_array_equal(clip.waveform, extremes / np.float32(32_768))
    np.testing.assert_array_equal(floats.waveform, loud)


def test_a_sample_rate_may_be_as_low_or_high_as_the_limits(tmp_path):
    tone = 0.5 * np.sin(np.arange(1_000))
    files = {
        "low.wav": wav(tone, rate_hz=streaming.MIN_RATE_HZ),
        "high.wav": wav(np.repeat(tone, 77)[:76_800], rate_hz=streaming.MAX_RATE_HZ),
    }
    low, high = decoding.read(list(written(tmp_path, files).values()))
    assert (len(low.waveform), len(high.waveform)) == (16_000, 1_600)


def test_max_secs_keeps_the_beginning(paths, both):
    names = [name for name in paths if name in sound_files()]
    for use_tfio in (True, False):
        clips = decoding.read(
            [paths[name] for name in names], max_secs=1.25, use_tfio=use_tfio
        )
        for name, clip in zip(names, clips, strict=True):
            whole = both[name][0].waveform
            assert len(clip.waveform) == min(20_000, len(whole))
            assert not clip.note
            np.testing.assert_allclose(clip.waveform, whole[:20_000], atol=1e-5)


def test_the_end_of_max_secs_is_not_taken_for_the_end_of_the_file(tmp_path):
    # What is read beyond it, so that resampling sees no edge, begins a block.
    samples = np.random.default_rng(0).uniform(-1, 1, 2**18 + 5_000)
    data = encode(samples, 16_000, "WAV", "PCM_16")
    (path,) = written(tmp_path, {"a.wav": data}).values()
    (clip,) = decoding.read([path], max_secs=(2**18 - 500) / 16_000)
    assert (len(clip.waveform), clip.note) == (2**18 - 500, "")


def test_samples_beyond_max_secs_are_not_checked(tmp_path):
    samples = music(22_050, secs=4.0)
    samples[60_000:] = np.nan
    files = {"tail.wav": encode(samples, 22_050, "WAV", "FLOAT")}
    path = written(tmp_path, files)["tail.wav"]
    (clip,) = decoding.read([path], max_secs=2.0)
    assert not clip.error
    (clip,) = decoding.read([path])
    assert "NaN" in clip.error


@pytest.mark.parametrize("max_secs", [0, -1, math.nan])
def test_a_length_that_is_not_positive_is_refused_at_once(max_secs):
    with pytest.raises(ValueError, match="max_secs"):
        decoding.read([], max_secs=max_secs)


def test_no_files_are_no_clips():
    assert list(decoding.read([])) == []


def test_reading_may_be_stopped_early(paths):
    clips = decoding.read(list(paths.values()))
    assert next(clips).index == 0
    clips.close()


def test_tensorflow_io_loads_where_it_is_made_for():
    version = tuple(int(x) for x in tf.__version__.split(".")[:2])
    if version >= (2, 18) or sys.platform != "linux":
        pytest.skip("tensorflow-io is not made for this TensorFlow or system")
    if importlib.util.find_spec("tensorflow_io") is None:
        pytest.skip("NOT RUN: tensorflow-io is not installed")
    assert "mp3float" in tensorflow_io_decoder._decoders()


def test_whole_files_of_known_kinds_go_through_tensorflow_io(paths, monkeypatch):
    needs_tensorflow_io()

    def refuse(*args, **kwargs):
        raise ValueError("read by another decoder")

    monkeypatch.setattr(ffmpeg.Source, "blocks", refuse)
    monkeypatch.setattr(libsndfile.Source, "blocks", refuse)
    names = [
        "VORBIS_44100_2.ogg",
        "16000_1.mp3",
        "44100_2.mp3",
    ]
    for clip in decoding.read([paths[name] for name in names], use_tfio=True):
        assert not clip.error, clip.path


def test_the_documented_pipeline_decodes_with_tensorflow_io(tmp_path, root):
    needs_tensorflow_io()
    time = np.arange(3 * 44_100) / 44_100
    chirp = 0.4 * np.sin(2 * np.pi * 440 * time * (1 + time / 9))
    path = str(tmp_path / "chirp.mp3")
    soundfile.write(path, np.stack([chirp, chirp / 2], axis=1), 44_100)
    text = (root / "docs/audio.md").read_text(encoding="utf8")
    (pipeline,) = re.findall(r"```python\n(import.*?tfio.*?)```", text, re.DOTALL)
    values = {"paths": [path]}
    exec(pipeline, values)
    (found,) = values["clips"].as_numpy_iterator()
    (clip,) = decoding.read([path])
    np.testing.assert_allclose(found, clip.waveform, atol=1e-5)


def test_without_tensorflow_io_every_file_is_read_by_the_other_decoders(
    paths, both, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorflow_io", None)
    tensorflow_io_decoder._decoders.cache_clear()
    try:
        assert not tensorflow_io_decoder._decoders()
        clips = list(decoding.read(list(paths.values()), use_tfio=True))
    finally:
        tensorflow_io_decoder._decoders.cache_clear()
    for clip, (_, expected) in zip(clips, both.values(), strict=True):
        assert (clip.note, clip.error) == (expected.note, expected.error)


def test_real_mp3s_are_the_same_through_both_routes(shared):
    needs_tensorflow_io()
    files = sorted((shared / "data/mini_mtt").glob("*/*.mp3"))[::60]
    names = [str(path) for path in files if path.stat().st_size]
    assert len(names) > 10
    first = decoding.read(names, use_tfio=True)
    for clip, other in zip(first, decoding.read(names), strict=True):
        assert (clip.note, clip.error, clip.rate_hz) == ("", "", 16_000)
        assert clip.waveform.shape == other.waveform.shape
        np.testing.assert_allclose(clip.waveform, other.waveform, atol=1e-5)


def test_real_awkward_files_come_out_as_their_names_say(shared, capfd):
    files = sorted((shared / "data/awkward_audio").iterdir())
    assert len(files) > 25
    for clip in decoding.read([str(path) for path in files]):
        name = pathlib.Path(clip.path).name
        assert bool(clip.error) == name.startswith("bad_"), (name, clip)
        assert bool(clip.note) == (not name.startswith(("bad_", "ok_"))), (name, clip)
        if not clip.error:
            assert len(clip.waveform) >= 4_800
            assert np.isfinite(clip.waveform).all()
            assert ("silence" in name) == (np.abs(clip.waveform).max() == 0)
    assert capfd.readouterr() == ("", "")


LONG = {
    "44k1.wav": lambda: encode(music(44_100, 2, 9.3), 44_100, "WAV", "PCM_16"),
    "odd rate.flac": lambda: encode(music(44_101, 1, 7.1), 44_101, "FLAC", "PCM_16"),
    "same rate.wav": lambda: encode(music(16_000, 1, 8.0), 16_000, "WAV", "FLOAT"),
    "tag.mp3": lambda: encode_mp3(44_100, 2, 9.3),
    "no tag.mp3": lambda: without_tag(encode_mp3(22_050, 1, 9.3)),
    "junk.mp3": lambda: b"junk" * 99 + encode_mp3(48_000, 2, 9.3),
}


@pytest.mark.parametrize("max_secs", [None, 5.01])
def test_pieces_are_the_whole_without_a_seam(tmp_path, max_secs):
    files = written(tmp_path, {name: make() for name, make in LONG.items()})
    names = list(files.values())
    pieces = list(decoding.read(names, piece_samples=30_000, max_secs=max_secs))
    for whole in decoding.read(names, max_secs=max_secs):
        *first, last = (piece for piece in pieces if piece.index == whole.index)
        assert len(first) >= 2
        assert [len(piece.waveform) for piece in first] == [30_000] * len(first)
        assert not any(piece.is_last for piece in first) and last.is_last
        together = np.concatenate([piece.waveform for piece in [*first, last]])
        np.testing.assert_allclose(together, whole.waveform, rtol=0, atol=2e-6)
        assert (last.note, last.rate_hz) == (whole.note, whole.rate_hz)


def test_a_file_of_a_whole_number_of_pieces_has_no_empty_one(tmp_path):
    data = encode(music(16_000, 1, 4.0), 16_000, "WAV", "PCM_16")
    (path,) = written(tmp_path, {"a.wav": data}).values()
    for piece_samples, count in ((64_000, 1), (32_000, 2)):
        pieces = list(decoding.read([path], piece_samples=piece_samples))
        assert len(pieces) == count and pieces[-1].is_last


def test_every_file_ends_with_one_last_piece_and_errors_come_late_too(paths, tmp_path):
    samples = music(16_000, 1, 20.0)
    samples[-100] = np.nan
    late = written(
        tmp_path, {"late.wav": encode(samples, 16_000, "WAV", "FLOAT")}
    ).values()
    names = [*paths.values(), *late]
    pieces = list(decoding.read(names, piece_samples=40_000))
    last = [piece for piece in pieces if piece.is_last]
    assert [piece.path for piece in last] == names
    assert [piece.index for piece in last] == list(range(len(names)))
    assert "NaN" in last[-1].error and last[-1].waveform is None
    assert sum(not piece.is_last for piece in pieces if piece.index == len(names) - 1)
    for piece, whole in zip(last, decoding.read(names), strict=True):
        assert (piece.note, piece.error) == (whole.note, whole.error)


def test_pieces_of_no_length_are_refused():
    with pytest.raises(ValueError, match="piece_samples=0"):
        next(decoding.read(["a.wav"], piece_samples=0))


def test_mp3s_that_were_joined_are_read_to_the_end(tmp_path):
    first, second = encode_mp3(44_100, 2, 4.0), encode_mp3(44_100, 2, 6.0)
    files = {"first.mp3": first, "second.mp3": second, "joined.mp3": first + second}
    alone, other, joined = decoding.read(list(written(tmp_path, files).values()))
    assert (joined.note, joined.error) == ("", "")
    gap = len(joined.waveform) - len(alone.waveform) - len(other.waveform)
    assert 0 <= gap < 0.1 * 16_000  # what an encoder adds before and after
    same = len(alone.waveform) - 800  # decoding overlaps, resampling rings
    np.testing.assert_allclose(joined.waveform[:same], alone.waveform[:same], atol=1e-4)
    end = other.waveform[800:-800]
    lag = np.correlate(joined.waveform[len(alone.waveform) :], end, "valid").argmax()
    error = joined.waveform[len(alone.waveform) + lag :][: len(end)] - end
    assert np.sqrt(np.mean(error**2)) < 0.1 * np.sqrt(np.mean(end**2))


# No encoder for Monkey's Audio is at hand, and none for Speex.
@pytest.mark.parametrize("suffix", sorted(audio_files.AUDIO_SUFFIXES - {".ape"}))
def test_every_format_that_a_collection_takes_is_read(tmp_path, suffix):
    rate_hz = 48_000
    tone = np.float32(0.5) * np.sin(np.arange(rate_hz, dtype=np.float32) / 30)
    if suffix in sounds.FFMPEG_KINDS:
        data = sounds.encode_with_ffmpeg(tone[:, np.newaxis], rate_hz, suffix)
    else:
        kinds = {".snd": "AU", ".aif": "AIFF", ".aifc": "AIFF", ".mpga": "MP3"}
        kinds |= {".oga": "OGG", ".ogx": "OGG", ".opus": "OGG", ".wave": "WAV"}
        subtype = "OPUS" if suffix == ".opus" else None
        data = encode(tone, rate_hz, kinds.get(suffix, suffix[1:].upper()), subtype)
    (path,) = written(tmp_path, {f"tone{suffix}": data}).values()
    (clip,) = decoding.read([path])
    assert (clip.error, clip.note) == ("", "")
    assert len(clip.waveform) == pytest.approx(16_000, abs=1_000)
    assert np.sqrt(np.mean(clip.waveform**2)) == pytest.approx(0.5**1.5, rel=0.1)


def test_samples_on_the_scale_of_integers_get_a_note(tmp_path):
    files = {
        "integers.wav": encode(32_768 * music(22_050), 22_050, "WAV", "FLOAT"),
        "loud.wav": encode(30 * music(22_050), 22_050, "WAV", "FLOAT"),
    }
    integers, loud = decoding.read(list(written(tmp_path, files).values()))
    assert "where 1 is full scale: integers that were not scaled?" in integers.note
    assert loud.note == ""


# Errors of the operating system


@pytest.mark.parametrize(
    "name, at, where, reason",
    [
        ("x.wav", 1, "libsndfile._Sound.read", "could not read the file to its end"),
        ("x.flac", 1, "libsndfile._Sound.read", "could not read the file to its end"),
        ("x.mp3", 1, "libsndfile._Sound.read", "could not read the file to its end"),
        ("x.ogg", 0, "ffmpeg.Source.blocks", os.strerror(errno.EBADF)),
    ],
)
def test_an_error_of_the_system_is_not_taken_for_damage_of_the_file(
    name, at, where, reason, tmp_path, monkeypatch
):
    path = tmp_path / name
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 2**20), 16_000)
    original, calls = operator.attrgetter(where)(audio), itertools.count()
    # At this call the file is replaced by one that can only be written to.
    with open(path, "rb") as file, open(os.devnull, "wb") as closed:

        def disturb(*args, **kwargs):
            if next(calls) == at:
                os.dup2(closed.fileno(), file.fileno())
            return original(*args, **kwargs)

        opened = functools.partial(open, file.fileno(), "rb", closefd=False)
        monkeypatch.setattr(f"genre_tl.audio.{where}", disturb)
        monkeypatch.setattr(decoding, "open", lambda *_: opened(), raising=False)
        (clip,) = decoding.read([str(path)])
    assert clip.is_system_error and reason in clip.error


def test_damage_of_the_file_is_no_error_of_the_system(tmp_path):
    (tmp_path / "x.wav").write_bytes(b"no sound" * 99)
    (clip,) = decoding.read([str(tmp_path / "x.wav")])
    assert clip.error and not clip.is_system_error
