"""WAV files that are decoded in the graph, beside what libsndfile makes of them."""

import io
import struct

import numpy as np
import pytest
import soundfile
import soxr
import tensorflow as tf

from genre_tl.audio import decoding, resampling, wav_graph

RATE = 16_000
GUID = b"\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"

decode = tf.function(wav_graph.decode, [tf.TensorSpec([None], tf.string)])


def one(data: bytes) -> np.ndarray:
    return decode(tf.constant([data])).numpy()[0]


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    size = len(body) if size is None else size
    return name + struct.pack("<I", size) + body + b"\0" * (len(body) % 2)


def fmt(
    tag: int = 1,
    channels: int = 1,
    rate: int = RATE,
    bits: int = 16,
    align: int | None = None,
    extra: bytes = b"",
) -> bytes:
    align = channels * bits // 8 if align is None else align
    fields = struct.pack(
        "<HHIIHH", tag, channels, rate, rate * align % 2**32, align, bits
    )
    return chunk(b"fmt ", fields + extra)


def riff(*chunks: bytes, head: bytes = b"RIFF") -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return head + struct.pack("<I", len(body)) + body


def written(samples: np.ndarray, rate: int, subtype: str, kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype, format=kind)
    return file.getvalue()


def noise(num_samples: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.uniform(-0.9, 0.9, [num_samples, channels])


PCM = noise(101)[:, 0].astype(np.float32)
WORDS = (PCM * 2**15).astype("<i2")
DATA = chunk(b"data", WORDS.tobytes())


@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]
)
def test_every_sample_format_is_what_libsndfile_reads(subtype, channels, kind):
    data = written(noise(333, channels), RATE, subtype, kind)
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    np.testing.assert_allclose(one(data), expected.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_001])
def test_other_rates_are_resampled_as_those_of_files_are(rate, tmp_path):
    samples = noise(rate + rate // 3, 2, seed=rate)
    data = written(samples, rate, "PCM_16")
    (tmp_path / "x.wav").write_bytes(data)
    (clip,) = decoding.read([str(tmp_path / "x.wav")])
    np.testing.assert_allclose(one(data), clip.waveform, atol=1e-6)


def test_a_file_of_many_blocks_is_resampled_as_if_in_one_piece(monkeypatch):
    monkeypatch.setattr(wav_graph, "_BLOCK_SAMPLES", 3 * 22_050)
    samples = noise(22_050 * 10 + 321)[:, 0].astype(np.float32)
    data = written(samples, 22_050, "FLOAT")
    whole = resampling.resample(samples, 22_050, RATE).numpy()
    in_blocks = tf.function(wav_graph.decode)(tf.constant([data])).numpy()[0]
    np.testing.assert_allclose(in_blocks, whole, atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_tones_come_out_as_soxr_has_them(rate):
    time = np.arange(2 * rate) / rate
    tones = sum(0.2 * np.sin(2 * np.pi * hz * time) for hz in (110, 1234, 3456))
    expected = soxr.resample(tones.astype(np.float32), rate, RATE, "VHQ")
    found = one(written(tones, rate, "FLOAT"))
    assert len(found) == len(expected)
    np.testing.assert_allclose(found[2000:-2000], expected[2000:-2000], atol=1e-5)


@pytest.mark.parametrize(
    "data",
    [
        riff(fmt(), DATA),
        riff(fmt(), DATA, head=b"RF64"),
        riff(chunk(b"JUNK", b"odd"), fmt(), chunk(b"LIST", bytes(26)), DATA),
        riff(DATA, fmt()),
        riff(fmt(extra=b"\0\0"), DATA, chunk(b"data", b"another one")),
        riff(fmt(), chunk(b"data", WORDS.tobytes(), 0)),
        riff(fmt(), chunk(b"data", WORDS.tobytes(), 0xFFFFFFFF)),
        riff(fmt(), chunk(b"data", WORDS.tobytes(), 4 * len(WORDS))),
        riff(fmt(), DATA)[:4] + bytes(4) + riff(fmt(), DATA)[8:],
        riff(
            fmt(0xFFFE, extra=struct.pack("<HHIH", 22, 16, 4, 1) + GUID),
            DATA,
        ),
    ],
)
def test_headers_of_many_writers_lead_to_the_same_samples(data):
    np.testing.assert_array_equal(one(data), WORDS / np.float32(2**15))


def test_a_file_that_breaks_off_is_used_as_far_as_it_goes():
    data = riff(fmt(channels=2), chunk(b"data", WORDS[:100].tobytes()))
    expected = WORDS[:100].reshape(-1, 2).mean(axis=1) / 2**15
    for missing, kept in ((0, 50), (1, 49), (4, 49), (5, 48), (196, 1)):
        np.testing.assert_allclose(
            one(data[: len(data) - missing]), expected[:kept], atol=1e-7
        )


def rf64(size: int, stated: int = 2**32 - 1) -> bytes:
    """A file whose `ds64` says how long its `data` is, with a chunk after that."""
    sizes = chunk(b"ds64", struct.pack("<QQQI", 0, size, 0, 0))
    sound = chunk(b"data", WORDS.tobytes(), stated)
    tail = chunk(b"LIST", b"what is no audio" * 20)
    return riff(sizes, fmt(), sound, tail, head=b"RF64")


@pytest.mark.parametrize("rate, subtype", [(RATE, "PCM_16"), (22_050, "FLOAT")])
def test_what_stands_after_the_audio_of_an_rf64_file_is_not_decoded(
    rate, subtype, tmp_path
):
    data = bytearray(written(noise(5_000, 2), rate, subtype, "RF64"))
    data += chunk(b"LIST", b"what is no audio" * 20)
    assert data[12:16] == b"ds64"
    data[20:28] = struct.pack("<Q", len(data) - 8)
    (tmp_path / "x.wav").write_bytes(data)
    (clip,) = decoding.read([str(tmp_path / "x.wav")])
    np.testing.assert_allclose(one(bytes(data)), clip.waveform, atol=1e-6)


@pytest.mark.parametrize("size, stated", [(202, 2**32 - 1), (202, 202), (5, 202)])
def test_the_size_that_rf64_states_is_taken_where_data_has_none(size, stated):
    samples = one(rf64(size, stated))
    np.testing.assert_array_equal(samples, WORDS / np.float32(2**15))


@pytest.mark.parametrize("size", [0, 2**40, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_size_in_rf64_beyond_the_file_means_all_that_is_there(size):
    whole = rf64(size)
    samples = one(whole)
    assert len(samples) == (len(whole) - whole.index(b"data") - 8) // 2
    np.testing.assert_array_equal(samples[:101], WORDS / np.float32(2**15))


def test_clips_of_a_batch_are_padded_to_the_longest():
    files = [
        written(noise(n, seed=n), rate, "PCM_16")
        for n, rate in ((100, RATE), (44_100, 44_100), (7, 8_000))
    ]
    batch = decode(tf.constant(files)).numpy()
    assert batch.shape == (3, RATE)
    for row, data in zip(batch, files, strict=True):
        alone = one(data)
        np.testing.assert_allclose(row[: len(alone)], alone, atol=1e-7)
        assert not row[len(alone) :].any()
    assert decode(tf.constant([], tf.string)).shape[0] == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_samples_that_are_no_numbers_count_as_zero(value):
    samples = noise(200).astype("<f4")
    samples[50] = value
    for rate in (RATE, 22_050):
        body = chunk(b"data", samples.tobytes())
        mended = chunk(b"data", np.where(samples == value, 0, samples).tobytes())
        if np.isnan(value):
            mended = chunk(b"data", np.nan_to_num(samples).tobytes())
        header = fmt(3, bits=32, rate=rate)
        np.testing.assert_array_equal(
            one(riff(header, body)), one(riff(header, mended))
        )


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "empty file"),
        (b"ID3\x03", "no RIFF/WAVE header"),
        (b"RIFX" + riff(fmt(), DATA)[4:], "no RIFF/WAVE header"),
        (riff(fmt(), DATA).replace(b"WAVE", b"AVI "), "no RIFF/WAVE header"),
        (riff(), "no fmt chunk"),
        (riff(DATA), "no fmt chunk"),
        (riff(fmt(), DATA)[:30], "fmt chunk too short"),
        (riff(chunk(b"fmt ", bytes(14)), DATA), "fmt chunk too short"),
        (riff(fmt()), "before any audio"),
        (riff(fmt(), DATA)[:40], "before any audio"),
        (riff(fmt(), chunk(b"data", b"")), "no audio"),
        (riff(fmt(), chunk(b"data", b"\1")), "no audio"),
        (riff(fmt(2, bits=4), DATA), "codec 2 is"),
        (riff(fmt(0x55), DATA), "codec 85 is"),
        (riff(fmt(0xFFFE), DATA), "codec 65534 is"),
        (riff(fmt(channels=0, align=2), DATA), "0 channels"),
        (riff(fmt(rate=0), DATA), "sample rate 0 Hz"),
        (riff(fmt(rate=2**32 - 1), DATA), "sample rate 4294967295 Hz"),
        (riff(fmt(bits=12, align=2), DATA), "unsupported: 12 bits"),
        (riff(fmt(bits=0, align=2), DATA), "unsupported: 0 bits"),
        (riff(fmt(3, bits=16), DATA), "unsupported: 16 bits"),
        (riff(fmt(align=4), DATA), "wrong block size 4"),
        (riff(fmt(align=0), DATA), "wrong block size 0"),
        (riff(chunk(b"JUNK", b"") * 1000, fmt(), DATA), "no fmt chunk"),
    ],
)
def test_a_broken_file_is_refused_by_its_number_and_the_reason(data, reason):
    fine = riff(fmt(), DATA)
    for batch, number in (([data], 0), ([fine, fine, data, b"", fine], 2)):
        with pytest.raises(tf.errors.InvalidArgumentError) as error:
            decode(tf.constant(batch))
        assert f"audio_bytes[{number}]: " in error.value.message
        assert reason in error.value.message


def test_a_batch_beyond_all_bounds_is_refused(monkeypatch):
    monkeypatch.setattr(wav_graph, "MAX_BATCH_SAMPLES", 1000)
    with pytest.raises(tf.errors.InvalidArgumentError, match="0 at most: send fewer"):
        wav_graph.decode(tf.constant([riff(fmt(), DATA)] * 10))


def test_more_clips_than_a_server_computes_are_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="33 clips, 32 at most"):
        decode(tf.constant([riff(fmt(), DATA)] * 33))


def test_files_that_take_long_to_resample_are_refused_together_but_not_alone():
    short = riff(fmt(rate=767_999), DATA)
    assert decode(tf.constant([short])).shape[0] == 1
    with pytest.raises(tf.errors.InvalidArgumentError, match="too long to convert"):
        decode(tf.constant([short] * 3))
    common = [riff(fmt(rate=rate), DATA) for rate in (44_100, 48_000, 11_025, 96_000)]
    assert decode(tf.constant(8 * common)).shape[0] == 32


@pytest.mark.parametrize(
    "shape, given", [((), ""), ((3,), "3"), ((2, 1, 4), "2, 1, 4")]
)
def test_another_rank_is_refused_by_its_shape(shape, given):
    spec = [tf.TensorSpec(None, tf.float32)]
    require = tf.function(
        lambda x: wav_graph.require_axes(x, "x", "batch", "samples"), spec
    )
    assert require(tf.ones([2, 3])).shape == (2, 3)
    text = rf"x: shape \[{given}\], expected \[batch, samples\]"
    with pytest.raises(tf.errors.InvalidArgumentError, match=text):
        require(tf.ones(shape))
