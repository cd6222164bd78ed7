"""Draws what the scattering layer makes of a recording, and how exact it is.

    python -m tools.draw_scattering --output_dir=pictures song.mp3

Writes scaleogram.png: the wave, the first order as a picture of time and frequency,
and the second as one of modulation. With --error also scattering_error.png: the
difference from kymatio's transform in double precision without inner subsampling,
path by path, of the first 8 seconds; it takes a minute and 2 GB.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from absl import app, flags

from . import command

if TYPE_CHECKING:
    import numpy as np

FLAGS = flags.FLAGS

flags.DEFINE_string("output_dir", ".", "Folder of the pictures.")
flags.DEFINE_float("max_secs", 30, "Draw the beginning of the file.", lower_bound=1)
flags.DEFINE_boolean("error", False, "Compare with the exact transform.")

_J, _Q = 13, 8
# Finer than the model's frames: 16 ms in a picture of the first order.
_PICTURE_SAMPLES = 256


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise app.UsageError("name one recording")
    from genre_tl.audio import decoding

    [clip] = decoding.read(argv[1:], max_secs=FLAGS.max_secs)
    if clip.waveform is None:
        raise ValueError(f"{clip.path}: {clip.error}")
    os.makedirs(FLAGS.output_dir, exist_ok=True)
    _draw_scaleogram(clip.waveform, os.path.join(FLAGS.output_dir, "scaleogram.png"))
    if FLAGS.error:
        path = os.path.join(FLAGS.output_dir, "scattering_error.png")
        _draw_error(clip.waveform, path)


def _draw_scaleogram(waveform: np.ndarray, path: str) -> None:
    from genre_tl import scattering

    from . import drawings

    fine = scattering.Scattering1D(_J, _Q, T=_PICTURE_SAMPLES, max_order=1)
    first = fine(waveform[None])[0, 1:].numpy()
    layer = scattering.Scattering1D(_J, _Q)
    meta = layer.meta()
    drawings.scaleogram(
        waveform,
        first,
        layer(waveform[None])[0].numpy(),
        {name: meta[name] for name in ("order", "n", "xi")},
        path,
        title=f"Scattering transform, J={_J}, Q={_Q}",
    )
    print(path)


def _draw_error(waveform: np.ndarray, path: str) -> None:
    import numpy as np
    from kymatio.numpy import Scattering1D

    from genre_tl import params, scattering

    from . import drawings

    waveform = waveform[: 8 * params.SAMPLE_RATE_HZ]
    exact = Scattering1D(J=_J, Q=_Q, shape=len(waveform), oversampling=_J)
    expected = exact(waveform.astype(np.float64))[:, :: 2**_J]
    norms = np.linalg.norm(expected, axis=1)
    errors = {}
    for precision, dtype in (("standard", "float32"), ("high", "float64")):
        layer = scattering.Scattering1D(_J, _Q, precision=precision, dtype=dtype)
        actual = layer(waveform[None].astype(dtype))[0].numpy()
        difference = actual - expected[:, : actual.shape[1]]
        errors[precision] = np.linalg.norm(difference, axis=1) / norms
        median, largest = np.median(errors[precision]), errors[precision].max()
        print(f"{precision}: median {median:.1e}, largest {largest:.1e}")
    meta = exact.meta()
    # A path is known by the wavelet that makes its last modulus.
    last = np.nan_to_num(meta["xi"])[np.arange(len(norms)), meta["order"] - 1]
    drawings.path_errors(
        errors,
        meta["order"],
        last * params.SAMPLE_RATE_HZ,
        path,
        title="Relative error by path, against the exact transform",
    )
    print(path)


def cli() -> None:
    command.run(main, positional=True)


if __name__ == "__main__":
    cli()
