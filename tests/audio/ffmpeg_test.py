"""Streams that change, junk, damage, and formats that only FFmpeg decodes."""

import http.server
import threading

import numpy as np
import pytest
import soxr

from genre_tl import params
from genre_tl.audio import decoding, ffmpeg
from tests.support import sounds
from tests.support.sounds import encode, encode_mp3, music, without_tag, written

SUFFIXES = sorted(sounds.FFMPEG_KINDS)


def read(tmp_path, data, name="x.mp3", **kwargs):
    (path,) = written(tmp_path, {name: data}).values()
    (clip,) = decoding.read([path], **kwargs)
    return clip


def ogg(subtype, rate_hz, num_channels, secs):
    return encode(music(rate_hz, num_channels, secs), rate_hz, "OGG", subtype)


def assert_sounds_like(waveform, rate_hz, num_channels, secs, tolerance=0.15):
    """Asserts that a waveform holds the tune, wherever in it."""
    written = music(rate_hz, num_channels, secs).mean(axis=1)
    tune = soxr.resample(written, rate_hz, params.SAMPLE_RATE_HZ, "VHQ")[800:-800]
    lag = np.correlate(waveform, tune, "valid").argmax()
    error = waveform[lag : lag + len(tune)] - tune
    assert np.sqrt(np.mean(error**2)) < tolerance * np.sqrt(np.mean(tune**2))


JOINED = {
    "mono, stereo": ((44_100, 1, 2.0), (44_100, 2, 3.0)),
    "stereo, mono": ((44_100, 2, 3.0), (44_100, 1, 2.0)),
    "rate rises": ((22_050, 2, 2.0), (44_100, 2, 3.0)),
    "rate falls": ((48_000, 1, 2.0), (22_050, 2, 3.0)),
}


@pytest.mark.parametrize("kind", JOINED)
def test_an_mp3_whose_format_changes_is_read_to_its_end(tmp_path, kind):
    first, second = JOINED[kind]
    clip = read(tmp_path, encode_mp3(*first) + encode_mp3(*second))
    secs = first[2] + second[2]
    assert clip.note == "" and clip.rate_hz == first[0]
    assert secs <= len(clip.waveform) / 16_000 < secs + 0.2
    middle = round((first[2] + 0.1) * 16_000)
    assert_sounds_like(clip.waveform[: middle + 1_600], *first)
    assert_sounds_like(clip.waveform[middle - 3_200 :], *second)


def test_a_few_frames_of_another_rate_do_not_hide_a_song(tmp_path):
    song = without_tag(encode_mp3(44_100, 2, 4.0))
    clip = read(tmp_path, without_tag(encode_mp3(22_050, 2))[:700] + song)
    assert len(clip.waveform) / 16_000 == pytest.approx(4.0, abs=0.15)


@pytest.mark.parametrize("kind", JOINED)
@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_chained_ogg_is_read_to_its_end(tmp_path, subtype, kind):
    links = JOINED[kind]
    if subtype == "OPUS":
        links = [(48_000, *rest) for _, *rest in links]
    clip = read(tmp_path, b"".join(ogg(subtype, *link) for link in links), "x.ogg")
    assert clip.note == ""
    assert len(clip.waveform) == pytest.approx(80_000, abs=2)
    border = round(links[0][2] * 16_000)
    assert_sounds_like(clip.waveform[:border], *links[0])
    assert_sounds_like(clip.waveform[border:], *links[1])


def test_a_chain_may_change_its_codec_and_lack_its_end(tmp_path):
    vorbis, opus = ogg("VORBIS", 44_100, 2, 2.0), ogg("OPUS", 48_000, 1, 3.0)
    clip = read(tmp_path, vorbis + opus, "x.ogg")
    assert (clip.note, len(clip.waveform)) == ("", 80_000)
    clip = read(tmp_path, vorbis + opus[: len(opus) // 2], "x.ogg")
    assert "cut off" in clip.note
    clip = read(tmp_path, vorbis + opus[:60] + bytes(9_000), "x.ogg")
    assert clip.note and len(clip.waveform) == pytest.approx(32_000, abs=2)


def test_ogg_pages_are_found_across_blocks(tmp_path, monkeypatch):
    data = ogg("VORBIS", 22_050, 1, 1.0) * 3
    (path,) = written(tmp_path, {"x.ogg": data}).values()
    with open(path, "rb") as file:
        expected = ffmpeg._ogg_links(file)
        monkeypatch.setattr(ffmpeg, "_SCAN_BYTES", 7)
        assert ffmpeg._ogg_links(file) == expected
    third = len(data) // 3
    assert expected == ([0, third, 2 * third], 3)


def ape_tag(num_bytes):
    sizes = [2_000, num_bytes + 32, 1, 0xA0000000]
    head = b"".join(size.to_bytes(4, "little") for size in sizes)
    noise = np.random.default_rng(0).bytes(num_bytes)
    return b"APETAGEX" + head + bytes(8) + noise


@pytest.mark.parametrize(
    "junk",
    [
        pytest.param(bytes(70_000), id="zeros"),
        pytest.param(bytes(2**21), id="two megabytes of zeros"),
        pytest.param(ape_tag(2**20), id="APE tag"),
        pytest.param(b"ID3\x03" + bytes(6) + ape_tag(99_000), id="ID3 tag of size 0"),
    ],
)
@pytest.mark.parametrize("name", ["x.mp3", "x"])
def test_an_mp3_behind_junk_is_read(tmp_path, junk, name):
    clip = read(tmp_path, junk + encode_mp3(44_100, 2, 4.0), name)
    assert (clip.error, clip.note) == ("", "")
    assert 4.0 <= len(clip.waveform) / 16_000 < 4.15


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_each_format_is_read_whole(tmp_path, suffix):
    data = sounds.encode_with_ffmpeg(music(48_000, 2, 4.0), 48_000, suffix)
    clip = read(tmp_path, data, "x" + suffix)
    assert (clip.error, clip.note, clip.rate_hz) == ("", "", 48_000)
    assert len(clip.waveform) / 16_000 == pytest.approx(4.0, abs=0.06)
    assert_sounds_like(clip.waveform, 48_000, 2, 4.0, tolerance=0.3)


@pytest.mark.parametrize("suffix", [".alac.m4a", ".flac.ogg", ".wv", ".tta"])
def test_lossless_samples_are_those_of_a_wav(tmp_path, suffix):
    samples = np.round(music(16_000, 2) * 32_768) / np.float32(32_768)
    data = sounds.encode_with_ffmpeg(samples, 16_000, suffix)
    clip = read(tmp_path, data, "x" + suffix)
    other = read(tmp_path, encode(samples, 16_000, "WAV", "PCM_16"), "x.wav")
    np.testing.assert_allclose(clip.waveform, other.waveform, rtol=0, atol=2**-15)


# Of these a length is stated, or an end.
@pytest.mark.parametrize(
    "suffix", [".flac.ogg", ".mka", ".mp3.wav", ".spx", ".tta", ".webm", ".wma", ".wv"]
)
def test_the_beginning_of_a_file_is_read_with_a_note(tmp_path, suffix):
    data = sounds.encode_with_ffmpeg(music(48_000, 2, 6.0), 48_000, suffix)
    clip = read(tmp_path, data[: len(data) // 2], "x" + suffix)
    assert "cut off" in clip.note
    assert 1.0 < len(clip.waveform) / 16_000 < 4.0


@pytest.mark.parametrize("suffix", [".m4a", ".mka", ".mp2", ".mp3.wav", ".wma", ".wv"])
def test_damage_in_the_middle_gets_a_note_and_the_rest_is_read(tmp_path, suffix):
    data = bytearray(sounds.encode_with_ffmpeg(music(48_000, 2, 6.0), 48_000, suffix))
    middle = len(data) // 2
    data[middle : middle + 600] = np.random.default_rng(0).bytes(600)
    clip = read(tmp_path, bytes(data), "x" + suffix)
    assert "damaged" in clip.note
    assert len(clip.waveform) / 16_000 > 2.5


def test_max_secs_and_pieces_hold_for_a_stream_that_changes(tmp_path):
    data = encode_mp3(44_100, 1, 3.0) + encode_mp3(22_050, 2, 3.0)
    whole = read(tmp_path, data).waveform
    first = read(tmp_path, data, max_secs=4.0)
    assert first.note == ""
    np.testing.assert_allclose(first.waveform, whole[:64_000], rtol=0, atol=1e-5)
    pieces = decoding.read([str(tmp_path / "x.mp3")], piece_samples=20_000)
    together = np.concatenate([piece.waveform for piece in pieces])
    np.testing.assert_allclose(together, whole, rtol=0, atol=2e-6)


REMEDY = "(convert it to FLAC or MP3)"


@pytest.mark.parametrize("name", ["x.mp3", "x.aac", "x.ogg", "x.m4a", "x"])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(np.random.default_rng(1).bytes(2_000_000), id="noise"),
        pytest.param(bytes(100_000), id="zeros"),
        pytest.param(b"this is not audio\n" * 9_000, id="text"),
        pytest.param(b"OggS" + bytes(5_000), id="beginning of Ogg"),
    ],
)
def test_what_is_not_audio_is_refused_with_a_remedy(tmp_path, capfd, data, name):
    clip = read(tmp_path, data, name)
    assert clip.error.startswith("not audio") and clip.error.endswith(REMEDY)
    assert not clip.is_system_error
    assert capfd.readouterr() == ("", "")


def test_an_m4a_without_its_index_is_refused_with_a_remedy(tmp_path):
    data = sounds.encode_with_ffmpeg(music(48_000), 48_000, ".m4a")
    clip = read(tmp_path, data[: len(data) // 2], "x.m4a")
    assert "damaged" in clip.error and clip.error.endswith(REMEDY)


def test_a_video_without_sound_is_refused_with_the_reason(tmp_path):
    clip = read(tmp_path, sounds.encode_pictures(), "x.mp4")
    assert clip.error.startswith("video without sound")


def test_a_playlist_opens_nothing(tmp_path):
    calls = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            calls.append(self.path)
            self.send_error(404)

    (tmp_path / "song.mp3").write_bytes(encode_mp3(44_100))
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/x.ts"
        lists = {
            "x.m3u8": f"#EXTM3U\n#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n",
            "y.mp3": f"#EXTM3U\n#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n",
            "z.txt": f"ffconcat version 1.0\nfile '{tmp_path}/song.mp3'\n",
        }
        for name, text in lists.items():
            assert read(tmp_path, text.encode(), name).error.startswith("not audio")
        server.shutdown()
    assert not calls


def test_tags_and_names_in_any_encoding_are_no_problem(tmp_path):
    title = b"\xff\xfe\x80 caf\xe9\0"
    frame = b"TIT2" + (len(title) + 1).to_bytes(4, "big") + b"\0\0\0" + title
    tag = b"ID3\x03\0\0" + bytes([0, 0, 0, len(frame)]) + frame
    clip = read(tmp_path, tag + encode_mp3(44_100), "caf\udce9.mp3")
    assert (clip.error, clip.note) == ("", "")
