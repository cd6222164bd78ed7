"""Sounds, and files of them in many formats."""

import io

import av
import numpy as np
import soundfile

FFMPEG_KINDS = {
    ".aac": ("adts", "aac"),
    ".ac3": ("ac3", "ac3"),
    ".alac.m4a": ("ipod", "alac"),
    ".avi": ("avi", "libmp3lame"),
    ".flac.ogg": ("ogg", "flac"),
    ".m4a": ("ipod", "aac"),
    ".mka": ("matroska", "aac"),
    ".mp2": ("mp2", "mp2"),
    ".mp3.wav": ("wav", "libmp3lame"),
    ".mp4": ("mp4", "aac"),
    ".spx": ("ogg", "libopus"),
    ".ts": ("mpegts", "aac"),
    ".tta": ("tta", "tta"),
    ".webm": ("webm", "libopus"),
    ".wma": ("asf", "wmav2"),
    ".wv": ("wv", "wavpack"),
}
"""Containers and encoders of `encode_with_ffmpeg`, by suffix."""


def music(rate_hz, num_channels=1, secs=2.5):
    """Decaying harmonics below 6 kHz, faded in and out, one tune a channel."""
    times = np.arange(round(rate_hz * secs)) / rate_hz
    fade = np.sin(np.pi * times / secs) ** 2
    channels = []
    for channel in range(num_channels):
        tones = [
            np.sin(2 * np.pi * f * times + k) / (k + 1)
            for k, f in enumerate(np.arange(220 + 55 * channel, 6_000, 440))
        ]
        channels.append(0.2 * fade * np.sum(tones, axis=0))
    return np.stack(channels, axis=1).astype(np.float32)


def encode(samples, rate_hz, container, subtype=None, **how):
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=container, subtype=subtype, **how)
    return file.getvalue()


def encode_mp3(rate_hz, num_channels=1, secs=2.5):
    return encode(music(rate_hz, num_channels, secs), rate_hz, "MP3")


def without_tag(data):
    """Cuts the first frame of an MP3, the one with the Xing tag, off."""
    return data[data.index(data[:2], 2) :]


def encode_with_ffmpeg(samples, rate_hz, suffix):
    """Encodes float32 `[samples, channels]` as FFmpeg's kind of file for a suffix."""
    container, codec = FFMPEG_KINDS[suffix]
    layout = "stereo" if samples.shape[1] == 2 else "mono"
    file, fifo = io.BytesIO(), av.AudioFifo()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate_hz, layout=layout)
        planes = np.ascontiguousarray(samples.T, np.float32)
        frame = av.AudioFrame.from_ndarray(planes, "fltp", layout)
        frame.rate = rate_hz
        stream.bit_rate = 128_000
        kinds = [kind.name for kind in stream.codec_context.codec.audio_formats]
        stream.format = kind = next(kind for kind in kinds if kind[:2] != "u8")
        for converted in av.AudioResampler(kind, layout, rate_hz).resample(frame):
            converted.pts = None
            fifo.write(converted)
        stream.codec_context.open(strict=False)
        size, pts = stream.codec_context.frame_size or 1024, 0
        while chunk := fifo.read(size, partial=True):
            chunk.pts, pts = pts, pts + chunk.samples
            output.mux(stream.encode(chunk))
        output.mux(stream.encode(None))
    return file.getvalue()


def encode_pictures():
    """Encodes a video without sound."""
    file, rng = io.BytesIO(), np.random.default_rng(0)
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        for _ in range(25):
            picture = rng.integers(0, 255, (64, 64, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def written(folder, files):
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name: str(folder / name) for name in files}
