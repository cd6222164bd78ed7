"""Odd audio files, and how much FFmpeg decodes: codecs, tags, joins, cuts, damage.

    PYTHONPATH=tests:. python -m support.odd_files

prints the shares of files that are read whole, with a note, or refused.
"""

import collections
import io
import itertools
import pathlib
import tempfile

import av
import numpy as np

from genre_tl import params
from genre_tl.audio import decoding, ffmpeg
from support import sounds
from support.sounds import encode, encode_mp3, encode_with_ffmpeg, music, without_tag

SECS = 6.0

_SNDFILE_KINDS = {
    ".wav": ("WAV", "PCM_16"),
    ".u8.wav": ("WAV", "PCM_U8"),
    ".s24.wav": ("WAVEX", "PCM_24"),
    ".f32.wav": ("WAV", "FLOAT"),
    ".ulaw.wav": ("WAV", "ULAW"),
    ".adpcm.wav": ("WAV", "MS_ADPCM"),
    ".ima.wav": ("WAV", "IMA_ADPCM"),
    ".rf64": ("RF64", "PCM_16"),
    ".w64": ("W64", "PCM_16"),
    ".aiff": ("AIFF", "PCM_16"),
    ".caf": ("CAF", "PCM_16"),
    ".au": ("AU", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".s24.flac": ("FLAC", "PCM_24"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}


def make() -> dict[str, bytes]:
    """Returns more than 150 files by name."""
    whole = _whole()
    files = dict(whole)
    for name, data in whole.items():
        middle, damaged = len(data) // 2, bytearray(data)
        damaged[middle : middle + 600] = np.random.default_rng(0).bytes(600)
        files |= {
            f"half{name}": data[:middle],
            f"cut{name}": data[:-7],
            f"damaged{name}": bytes(damaged),
            f"tail{name}": data + np.random.default_rng(1).bytes(5_000),
        }
    return files | _joined() | _tagged(whole)


def _whole() -> dict[str, bytes]:
    stereo, files = music(48_000, 2, SECS), {}
    for suffix in sounds.FFMPEG_KINDS:
        files[suffix] = encode_with_ffmpeg(stereo, 48_000, suffix)
    for suffix, kind in _SNDFILE_KINDS.items():
        files[suffix] = encode(stereo, 48_000, *kind)
    for rate_hz, channels in itertools.product((8_000, 22_050, 44_100), (1, 2)):
        files[f".{rate_hz}.{channels}.mp3"] = encode_mp3(rate_hz, channels, SECS)
    return files


def _joined() -> dict[str, bytes]:
    kinds = {"mp3": ("MP3", None), "vorbis": ("OGG", "VORBIS")}
    kinds |= {"opus": ("OGG", "OPUS"), "flac": ("FLAC", None), "wav": ("WAV", None)}
    formats, files = [(48_000, 1), (48_000, 2), (24_000, 2)], {}
    for name, kind in kinds.items():
        parts = [encode(music(*x, SECS), x[0], *kind) for x in formats]
        for first, second in itertools.permutations(range(3), 2):
            joined = parts[first] + parts[second]
            files[f"joined{first}{second}.{name}"] = joined
    untagged = [without_tag(encode_mp3(*x, SECS)) for x in formats]
    files["few_frames_first.mp3"] = untagged[2][:700] + untagged[1]
    files["three.mp3"] = b"".join(untagged)
    for suffix in (".aac", ".ac3", ".mp2", ".ts"):
        parts = [
            encode_with_ffmpeg(music(48_000, n, SECS), 48_000, suffix) for n in (1, 2)
        ]
        files[f"joined{suffix}"] = b"".join(parts)
    return files


def _tagged(whole: dict[str, bytes]) -> dict[str, bytes]:
    noise = np.random.default_rng(2).bytes(200_000)
    id3 = b"ID3\x03\0\0" + bytes([0, 6, 13, 32])  # 100,000 bytes, syncsafe
    plain = b"ID3\x03\0\0" + (100_000).to_bytes(4, "big")  # as some programs write it
    ape = b"APETAGEX" + (2_000).to_bytes(4, "little") + (100_000).to_bytes(4, "little")
    before = {
        "id3": id3 + noise[:100_000],
        "two_id3": 2 * (id3 + bytes(100_000)),
        "plain_size": plain + noise[:100_000],
        "size_0": b"ID3\x03" + bytes(6) + noise[:70_000],
        "ape": ape + bytes(16) + noise[:100_000],
        "zeros": bytes(150_000),
        "line_breaks": b"\r\n\r\n",
    }
    after = {"id3v1": b"TAG" + bytes(125), "lyrics": b"LYRICSBEGIN" + bytes(9_000)}
    names = (".mp3", ".flac", ".aac", ".44100.1.mp3")
    files = {f"{x}{name}": before[x] + whole[name] for x in before for name in names}
    return files | {f"{x}{n}": whole[n] + after[x] for x in after for n in names}


def secs_by_ffmpeg(data: bytes) -> float:
    """Returns the length that FFmpeg decodes, past errors; 0 if it cannot."""
    secs, failures = 0.0, 0
    try:
        with av.open(io.BytesIO(data), **ffmpeg._METADATA) as container:
            packets = container.demux(audio=0)
            while failures < 100:
                try:
                    for frame in next(packets).decode():
                        secs += frame.samples / frame.rate
                except StopIteration:
                    break
                except av.FFmpegError:
                    failures += 1
                    packets = container.demux(audio=0)
    except (av.FFmpegError, IndexError, ValueError):
        return secs
    return secs


def outcomes(files: dict[str, bytes]) -> dict[str, str]:
    """Returns the outcome of decoding each file, compared with FFmpeg's length.

    `whole`, `longer`, `note` (shorter, with a note), `silent` (shorter, without one),
    `refused`, `refused by both`, or `crashed` (an error that is no reason).
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            path = pathlib.Path(folder, name)
            path.write_bytes(data)
            (clip,) = decoding.read([str(path)])
            found[name] = _outcome(clip, secs_by_ffmpeg(data))
            path.unlink()
    return found


def _outcome(clip: decoding.Clip, secs: float) -> str:
    if clip.waveform is None:
        reasons = "not audio", "damaged", "cut off", "no audio", "samples that are NaN"
        if not any(reason in clip.error for reason in reasons):
            return f"crashed: {clip.error}"
        return "refused" if secs else "refused by both"
    ours = len(clip.waveform) / params.SAMPLE_RATE_HZ
    if abs(ours - secs) <= 0.01 * secs:
        return "whole"
    if ours > secs:
        return "longer"
    return "note" if clip.note else f"silent: {ours:.2f} s of {secs:.2f} s"


def shares(found: dict[str, str]) -> str:
    """Returns the shares of the outcomes, and the files that are wrong, as lines."""
    counts = collections.Counter(x.partition(":")[0] for x in found.values())
    lines = [f"{x}: {n} of {len(found)}" for x, n in counts.most_common()]
    odd = ("silent", "crashed", "refused")
    lines += [f"  {name}: {x}" for name, x in found.items() if x.startswith(odd)]
    return "\n".join(lines)


if __name__ == "__main__":
    print(shares(outcomes(make())))
