import dataclasses

import numpy as np
import pytest
from support import kymatio_reference as reference

from genre_tl import features, params, scattering
from genre_tl.features import log_scattering

TINY = params.PRESETS["tiny"].frontend


def _frames(waveform, **changes):
    frontend = dataclasses.replace(TINY, **changes)
    return features.LogScattering.from_params(frontend)(waveform).numpy()


def test_padding_is_masked_and_changes_nothing():
    clip = reference.music(TINY.segment_samples)
    clip[:, 10_000:] = 0
    # Of the padded clip the level is measured on fewer frames.
    frames = _frames(clip, remove_level=False)
    num_frames = TINY.num_frames(10_000)
    assert np.all(frames[:, num_frames:] == features.PAD_VALUE)
    # The same as reflecting the clip at its last sample.
    mirrored = clip.copy()
    mirrored[:, 10_000:19_999] = clip[:, 9_998::-1]
    mirrored[:, 19_999:29_997] = clip[:, 1:9_999]
    mirrored[:, 29_997:] = clip[:, 9_998 : 9_998 - (mirrored.shape[1] - 29_997) : -1]
    expected = _frames(mirrored, remove_level=False)
    np.testing.assert_allclose(
        frames[:, :num_frames], expected[:, :num_frames], atol=1e-4
    )


def test_silence_is_one_frame_of_finite_values():
    frames = _frames(np.zeros([1, TINY.segment_samples], "float32"))
    assert np.all(np.isfinite(frames))
    np.testing.assert_array_equal(
        np.all(frames[0] == features.PAD_VALUE, axis=1),
        [False] + [True] * (TINY.segment_frames - 1),
    )


def test_frames_are_logarithms_of_the_coefficients():
    clip = reference.music(TINY.segment_samples)
    coefficients = scattering.Scattering1D(TINY.J, TINY.Q)(clip).numpy()[0]
    meta = scattering.Scattering1D(TINY.J, TINY.Q).meta()
    num_first = np.sum(meta["order"] == 1)
    level = np.sqrt(np.mean(coefficients[1 : 1 + num_first] ** 2))
    logs = np.log(coefficients / level + TINY.log_floor)
    frames = _frames(clip)[0].T
    np.testing.assert_allclose(frames[:num_first], logs[1 : 1 + num_first], atol=1e-4)
    parents = logs[1 + meta["n"][1 + num_first :, 0].astype(int)]
    np.testing.assert_allclose(
        frames[num_first:], logs[1 + num_first :] - parents, atol=1e-4
    )


@pytest.mark.parametrize("parents", [np.array([0, 2, 2]), np.array([], int)])
def test_coefficients_are_the_inverse_of_logarithms(parents):
    values = np.random.default_rng(0).exponential(size=(2, 5, 3 + len(parents)))
    values[0, 1] = 0
    logs = log_scattering.logarithms(values, parents, 1e-4)
    again = log_scattering.coefficients(logs, parents, 1e-4)
    np.testing.assert_allclose(again, values, atol=1e-12)


def test_loudness_has_no_effect():
    clip = reference.music(TINY.segment_samples)
    clip[:, 20_000:] = 0  # Padding must not count.
    for gain in (10, 1e-2):
        np.testing.assert_allclose(_frames(clip), _frames(gain * clip), atol=1e-3)


def test_without_removal_of_the_level_the_second_order_is_independent_of_loudness():
    clip = reference.music(TINY.segment_samples)
    meta = scattering.Scattering1D(TINY.J, TINY.Q).meta()
    second = meta["order"][1:] == 2
    loud, soft = (
        _frames(gain * clip, remove_level=False)[..., second] for gain in (1000, 100)
    )
    np.testing.assert_allclose(loud, soft, atol=2e-2)


def test_config_restores_the_layer():
    layer = features.LogScattering(J=7, Q=3, max_order=1, log_floor=1e-3)
    again = features.LogScattering.from_config(layer.get_config())
    np.testing.assert_array_equal(
        again(reference.music(4096)), layer(reference.music(4096))
    )


@pytest.mark.parametrize("T", [2**7, 200, 2**10])
def test_another_average_changes_the_distance_of_frames(T):
    frontend = dataclasses.replace(TINY, T=T, segment_frames=24)
    clip = reference.music(frontend.segment_samples)
    clip[:, 10 * frontend.hop_samples + 1 :] = 0
    layer = features.LogScattering.from_params(frontend)
    frames = layer(clip).numpy()
    assert frames.shape[1] == 24
    assert (frames[0] != features.PAD_VALUE).all(axis=1).sum() == 11
    again = features.LogScattering.from_config(layer.get_config())
    np.testing.assert_array_equal(again(clip), frames)
