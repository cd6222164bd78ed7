"""Music files of all formats that have genre tags, with and without tags."""

import contextlib
import hashlib
import pathlib
import struct

import av
from mutagen import flac, id3, mp3, mp4, oggvorbis

from support import sounds

NAMES = "mp3 flac ogg opus wav aiff m4a alac.m4a flac.ogg spx".split()
PICTURE = bytes(range(256)) * 80


def audio(name: str) -> bytes:
    """Returns a second of music in a format: a suffix."""
    rate = 48_000 if name in ("opus", "spx") else 44_100
    samples = sounds.music(rate, 2, secs=1.0)
    kinds = {"mp3": ("MP3",), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS")}
    kinds |= {"opus": ("OGG", "OPUS"), "wav": ("WAV", "PCM_16")}
    kinds |= {"aiff": ("AIFF", "PCM_16")}
    if name in kinds:
        return sounds.encode(samples, rate, *kinds[name])
    return sounds.encode_with_ffmpeg(samples, rate, f".{name}")


def write(folder: pathlib.Path, names=NAMES) -> list[pathlib.Path]:
    """Writes a file without tags of each format; returns their paths."""
    paths = [folder / f"{number}.{name}" for number, name in enumerate(names)]
    for path, name in zip(paths, names, strict=True):
        path.write_bytes(audio(name))
    return paths


def write_tagged(folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes files with tags but no genre: pictures, old versions, odd places."""
    folder.mkdir(exist_ok=True)
    paths = []
    for version in (3, 4):
        paths.append(folder / f"v2.{version}.mp3")
        paths[-1].write_bytes(audio("mp3"))
        tags = id3.ID3()
        tags.add(id3.TIT2(encoding=1, text=["Title"]))
        tags.add(id3.TPE1(encoding=1, text=["One", "Two/Three"]))
        tags.add(id3.APIC(encoding=0, mime="image/png", type=3, data=PICTURE))
        if version == 3:
            tags.add(id3.TYER(encoding=0, text=["1999"]))
            tags.add(id3.TDAT(encoding=0, text=["0102"]))
        tags.save(paths[-1], v1=2, v2_version=version, v23_sep=None)
    paths.append(folder / "v2.2.mp3")
    title = b"TT2" + struct.pack(">I", 6)[1:] + b"\0Title"
    header = b"ID3\2\0\0" + bytes([0, 0, 0, len(title)])
    paths[-1].write_bytes(header + title + audio("mp3"))
    paths.append(folder / "v1.mp3")
    tag = b"TAG" + b"Title".ljust(30, b"\0") + bytes(94) + b"\xff"
    paths[-1].write_bytes(audio("mp3") + tag)
    paths.append(folder / "picture.flac")
    paths[-1].write_bytes(audio("flac"))
    file = flac.FLAC(paths[-1])
    picture = flac.Picture()
    picture.data, picture.mime = PICTURE, "image/png"
    file.add_picture(picture)
    file["title"] = "Title"
    file.save(padding=lambda info: 0)
    paths.append(folder / "long.ogg")  # its comments end in a page of their own
    paths[-1].write_bytes(audio("ogg"))
    vorbis = oggvorbis.OggVorbis(paths[-1])
    vorbis["title"], vorbis["comment"] = "Title", "x" * 66_000
    vorbis.save()
    paths.append(folder / "front.m4a")
    paths[-1].write_bytes(audio("m4a"))
    m4a = mp4.MP4(paths[-1])
    m4a["\xa9nam"], m4a["covr"] = ["Title"], [mp4.MP4Cover(PICTURE)]
    m4a.save(padding=lambda info: 0)
    return paths


def with_unknown_version(path: pathlib.Path) -> pathlib.Path:
    """Writes an MP3 with tags of version 2.5, which there is not."""
    path.write_bytes(b"ID3\5\0\0\0\0\0\x0a" + bytes(10) + audio("mp3"))
    return path


def packets(path: pathlib.Path) -> str:
    """Returns a digest of the audio packets, by FFmpeg's demuxer."""
    digest = hashlib.sha256()
    # Errors are the end of a damaged file.
    with av.open(str(path)) as container, contextlib.suppress(av.FFmpegError):
        for packet in container.demux(container.streams.audio[0]):
            digest.update(bytes(packet))
    return digest.hexdigest()


def frames(path: pathlib.Path) -> dict[str, str]:
    """Returns the ID3 frames of a file, untranslated, by their names."""
    tags = mp3.MP3(path, translate=False).tags
    return {name: repr(frame) for name, frame in tags.items()}


def digests(folder: pathlib.Path) -> dict[str, object]:
    """Returns content, mode and time of all files below a folder, and its folders."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        kind = (stat.st_mode, stat.st_mtime_ns if path.is_file() else 0)
        found[str(path.relative_to(folder))] = (hashlib.sha256(content).digest(), kind)
    return found
