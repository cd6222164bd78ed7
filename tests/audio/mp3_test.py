"""libsndfile decodes plain MP3s of low rates as FFmpeg does; FFmpeg the others."""

import contextlib

import numpy as np
import pytest

from genre_tl.audio import decoding, ffmpeg, libsndfile, mp3
from tests.support.sounds import encode, encode_mp3, music, without_tag, written

RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000)
ID3 = b"ID3\4\0\0" + bytes([0, 0, 3, 5]) + bytes(3 * 128 + 5)
CBR = encode(
    music(16_000), 16_000, "MP3", bitrate_mode="CONSTANT", compression_level=0.5
)
SONG, OTHER = encode_mp3(22_050, 2), encode_mp3(24_000, 2)
MIDDLE, TAG = len(SONG) // 2, SONG.index(b"Xing")

PLAIN = {
    **{f"{r}_{n}": encode_mp3(r, n) for r in RATES_HZ for n in (1, 2)},
    "ID3 tags": ID3 + SONG + b"TAG" + bytes(125),
    "frames of one length, no tag": without_tag(CBR),
}
OTHERS = {
    "no tag": without_tag(SONG),
    "cut off": SONG[:MIDDLE],
    "frames missing": SONG[:MIDDLE] + SONG[SONG.index(SONG[:2], MIDDLE + 900) :],
    "junk before": bytes(9) + SONG,
    "junk within": SONG[:MIDDLE] + bytes(9) + SONG[MIDDLE:],
    "junk after": SONG + bytes(9),
    "channels change": SONG + encode_mp3(22_050, 1),
    "rate changes": SONG + OTHER,
    "joined": SONG + SONG,
    "wrong size in the tag": SONG[: TAG + 12] + bytes(4) + SONG[TAG + 16 :],
    "starts within": CBR[CBR.index(CBR[:2], len(CBR) // 2) :],
    "high rate": encode_mp3(32_000),
    "no such rate": b"\xff\xf3\x9c\0" + SONG,
    "cut off in an ID3 tag": ID3[:8],
    "first bytes": SONG[:3],
    "not an MP3": b"OggS" + bytes(99),
}


def opened(tmp_path, data):
    (path,) = written(tmp_path, {"x.mp3": data}).values()
    return open(path, "rb")


def samples(source):
    with contextlib.closing(source):
        return np.concatenate(list(source.blocks())), source.note()


@pytest.mark.parametrize("name", PLAIN)
def test_libsndfile_decodes_a_plain_mp3_as_ffmpeg_does(tmp_path, capfd, name):
    with opened(tmp_path, PLAIN[name]) as file:
        source = decoding._source(file)
        assert isinstance(source, libsndfile.Source)
        actual, note = samples(source)
        file.seek(0)
        expected, _ = samples(ffmpeg.Source(file))
    assert note == "" and actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", OTHERS)
def test_ffmpeg_decodes_every_other_mp3(tmp_path, name):
    with opened(tmp_path, OTHERS[name]) as file:
        assert not mp3.is_plain(file)


def test_ffmpeg_decodes_what_is_too_long_for_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(mp3, "_MOST_BYTES", len(SONG) - 1)
    with opened(tmp_path, SONG) as file:
        assert not mp3.is_plain(file)
