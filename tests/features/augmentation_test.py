import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from genre_tl import params, scattering
from genre_tl.features import augmentation, framing, log_scattering

FRONTEND = params.PRESETS["tiny"].frontend
META = scattering.Scattering1D(FRONTEND.J, FRONTEND.Q).meta()
NUM_FIRST = int(np.sum(META["order"] == 1))
PATHS = META["n"][1:]  # filters of each path; the second is NaN in the first order
PARENTS = PATHS[NUM_FIRST:, 0].astype(int)
FILTERS = PATHS[:, 0].astype(int)
MEAN = np.linspace(-3, -2, len(PATHS)).astype(np.float32)
SHARES = "EQUALIZED LOW_PASSED SHIFTED NOISY MIXED BAND_MASKED FRAMES_MASKED".split()
COUNTS = [12, 12, 7, 4, 1, 12]  # valid frames of each clip


@pytest.fixture
def shares(monkeypatch):
    """Function that sets the shares of clips that are changed, 0 by default."""

    def set_shares(**given):
        for name in SHARES:
            monkeypatch.setattr(augmentation, name, given.get(name, 0.0))

    return set_shares


def batch(counts=COUNTS, seed=0):
    """Returns coefficients of clips whose level is 1: `[clips, 12, paths]`."""
    generator = np.random.default_rng(seed)
    values = generator.exponential(size=(len(counts), 12, len(PATHS)))
    values *= np.where(np.arange(len(PATHS)) < NUM_FIRST, 1, 0.1)
    for clip, count in zip(values, counts, strict=True):
        clip[count:] = 0
    return without_level(values, counts)


def without_level(values, counts=COUNTS):
    levels = [
        np.sqrt(np.mean(clip[:count, :NUM_FIRST] ** 2))
        for clip, count in zip(values, counts, strict=True)
    ]
    return values / np.array(levels)[:, np.newaxis, np.newaxis]


def logs_of(values, counts=COUNTS):
    logs = log_scattering.logarithms(values, PARENTS, FRONTEND.log_floor).numpy()
    for clip, count in zip(logs, counts, strict=True):
        clip[count:] = framing.PAD_VALUE
    return logs.astype(np.float32)


def augment(frames, targets=None, seed=1, frontend=FRONTEND, mean=MEAN):
    targets = np.eye(len(frames), dtype=np.float32) if targets is None else targets
    frames, targets = augmentation.Augmentation(frontend, mean)(
        tf.constant(frames), tf.constant(targets), tf.constant([7, seed], tf.int64)
    )
    return frames.numpy(), targets.numpy()


def varied(values, counts=COUNTS, **kwargs):
    """Returns the coefficients of the augmented clips."""
    frames, _ = augment(logs_of(values, counts), **kwargs)
    return log_scattering.coefficients(frames, PARENTS, FRONTEND.log_floor).numpy()


def gains(before, after, counts=COUNTS):
    """Returns log gains `[clips, paths]`, after checking that frames share them."""
    found = []
    for old, new, count in zip(before, after, counts, strict=True):
        of_frames = np.log(np.maximum(new[:count] / old[:count], 1e-3))
        np.testing.assert_allclose(of_frames, of_frames[:1].repeat(count, 0), atol=0.02)
        found.append(np.median(of_frames, axis=0))
    return np.array(found)


def test_padding_stays_and_all_else_is_finite():
    for seed in range(20):
        values = batch(seed=seed)
        frames, _ = augment(logs_of(values), seed=seed)
        assert np.all(np.isfinite(frames))
        for clip, count in zip(frames, COUNTS, strict=True):
            assert np.all(clip[count:] == framing.PAD_VALUE)
            assert np.all(np.abs(clip[:count]) < 50)


def test_augmentation_is_a_function_of_the_seed():
    frames = logs_of(batch())
    first, again, other = (augment(frames, seed=seed) for seed in (1, 1, 2))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


def test_augmentation_in_a_dataset_of_unknown_length_equals_that_in_eager_mode():
    batches = tf.data.Dataset.from_generator(
        lambda: [(logs_of(batch()), np.eye(6, dtype=np.float32), (7, 1))],
        output_signature=(
            tf.TensorSpec([6, None, len(PATHS)]),
            tf.TensorSpec([6, 6]),
            tf.TensorSpec([2], tf.int64),
        ),
    ).map(augmentation.Augmentation(FRONTEND, MEAN))
    assert batches.element_spec[0].shape.as_list() == [6, None, len(PATHS)]
    found, expected = next(batches.as_numpy_iterator()), augment(logs_of(batch()))
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-6)


def test_the_level_of_the_result_is_one(shares):
    shares(EQUALIZED=1, LOW_PASSED=1, SHIFTED=1, NOISY=1, MIXED=1)
    values = varied(batch())
    np.testing.assert_allclose(values, without_level(values), rtol=2e-3)


def test_the_level_of_an_excerpt_has_no_effect():
    values = batch()
    for gain in (0.1, 5):
        soft, _ = augment(logs_of(gain * values))
        np.testing.assert_allclose(soft, augment(logs_of(values))[0], atol=1e-3)


def test_nothing_changes_if_no_clip_is_chosen(shares):
    shares()
    frames, targets = augment(logs_of(batch()))
    np.testing.assert_allclose(frames, logs_of(batch()), atol=1e-3)
    np.testing.assert_array_equal(targets, np.eye(6))


def test_the_equalizer_gives_the_second_order_the_gain_of_its_parent(shares):
    shares(EQUALIZED=1)
    found = gains(batch() + 1e-2, varied(batch() + 1e-2))
    np.testing.assert_allclose(found, found[:, FILTERS], atol=0.02)
    first = found[:, :NUM_FIRST]
    assert np.all(np.ptp(first, axis=1) > 0.2)
    # 5 knots: straight lines in between.
    assert np.all(np.sum(np.abs(np.diff(first, 2)) > 0.02, axis=1) <= 6)


def test_the_low_pass_weakens_the_high_frequencies(shares):
    shares(LOW_PASSED=1)
    for seed in range(5):
        values = batch(seed=seed)
        found = gains(values + 0.5, varied(values + 0.5, seed=seed))[:, :NUM_FIRST]
        assert np.all(np.diff(found) > -0.02)
        assert np.all(found[:, -1] - found[:, 0] > 0.3)
        np.testing.assert_allclose(np.diff(found[:, NUM_FIRST // 3 :]), 0, atol=0.02)


def moved(shift):
    """Returns the path `shift` filters further, for each path, by their numbers."""
    places = {tuple(key): path for path, key in enumerate(np.nan_to_num(PATHS, nan=-1))}
    found = []
    for first, second in places:
        while (first + shift, second) not in places:
            first -= np.sign(shift)
        found.append(places[first + shift, second])
    return found


def test_a_shift_moves_paths_and_repeats_the_last(shares):
    shares(SHIFTED=1)
    values, seen = batch() + 0.01, set()
    expected = {shift: without_level(values[..., moved(shift)]) for shift in (-1, 0, 1)}
    assert list(np.array(moved(1))[[0, 1, NUM_FIRST - 1]]) == [1, 2, NUM_FIRST - 1]
    for seed in range(5):
        for clip, new in enumerate(varied(values, seed=seed)):
            count = COUNTS[clip]
            errors = {
                shift: np.max(np.abs(new[:count] - old[clip, :count]))
                for shift, old in expected.items()
            }
            best = min(errors, key=errors.get)
            assert errors[best] < 1e-3
            seen.add(best)
    assert seen == {-1, 0, 1}


def test_noise_lies_15_to_50_decibels_below_the_level(shares):
    shares(NOISY=1)
    counts, decibels = [12] * 40, []
    values = batch(counts)
    values[:, 6:] = 0
    for clip in varied(values, counts):
        noise = clip[6:]
        np.testing.assert_allclose(noise, noise[:1].repeat(6, 0), rtol=1e-4, atol=1e-6)
        level = np.sqrt(np.mean(noise[:, :NUM_FIRST] ** 2))
        decibels.append(20 * np.log10(level))
        np.testing.assert_allclose(
            noise[:, NUM_FIRST:], 0.06 * noise[:, PARENTS], atol=1e-5
        )
    assert -50.5 < min(decibels) < -40
    assert -25 < max(decibels) < -14.5


def test_targets_are_mixed_as_the_power_is_and_unknown_ones_stay_unknown(shares):
    shares(MIXED=1)
    values, targets = batch(), np.eye(6, 7, dtype=np.float32)
    targets[0, 6] = np.nan
    frames, mixed = augment(logs_of(values), targets)
    np.testing.assert_allclose(mixed[:, :6].sum(axis=1), 1, atol=1e-6)
    assert np.all(mixed[:, :6].diagonal() >= 0.5)
    np.testing.assert_array_equal(np.isnan(mixed[:, 6]), mixed[:, 0] > 0)
    power, expected = values**2, []
    for clip, weights in enumerate(mixed[:, :6]):
        new = power[clip].copy()
        other = COUNTS[np.argmax(np.where(np.arange(6) == clip, 0, weights))]
        new[:other] = np.tensordot(weights, power[:, :other], 1)
        expected.append(np.sqrt(new))
    assert np.count_nonzero(mixed[:, :6]) >= 9
    expected = logs_of(without_level(np.array(expected)))
    np.testing.assert_allclose(frames, expected, atol=1e-3)


def test_some_clips_are_not_mixed_and_keep_what_only_they_know():
    targets = np.eye(64, 65, dtype=np.float32)
    targets[32:, 64] = np.nan
    counts = [12] * 64
    _, mixed = augment(logs_of(batch(counts), counts), targets)
    alone = mixed.max(axis=1, initial=0, where=~np.isnan(mixed)) == 1
    assert 15 < alone.sum() < 40
    assert not np.any(np.isnan(mixed[:32][alone[:32]]))
    assert np.any(np.isnan(mixed[:32]))


def test_masks_set_a_band_or_frames_to_the_mean(shares):
    counts, share = [12] * 40, []
    frames = logs_of(batch(counts), counts)
    shares(BAND_MASKED=1)
    for clip in augment(frames)[0] == MEAN:
        np.testing.assert_array_equal(clip, clip[:1].repeat(12, 0))
        np.testing.assert_array_equal(clip[0], clip[0][FILTERS])  # like the parent
        first = np.flatnonzero(clip[0, :NUM_FIRST])
        assert len(first) <= 5
        assert np.all(np.diff(first) == 1)
        share.append(len(first))
    assert {1, 2, 3} <= set(share)
    shares(FRAMES_MASKED=0.5)
    is_masked = augment(frames)[0] == MEAN
    np.testing.assert_array_equal(is_masked.all(axis=2), is_masked.any(axis=2))
    assert 0.1 < np.mean(is_masked) < 0.4
    shares(FRAMES_MASKED=1)
    is_masked = np.any(augment(logs_of(batch()))[0] == MEAN, axis=(1, 2))
    np.testing.assert_array_equal(is_masked[3:5], False)  # shorter than 5 frames
    assert np.any(is_masked)


@pytest.mark.parametrize("max_order", [1, 2])
@pytest.mark.parametrize("arguments", [(9, 2), (7, 1), (12, 8)])
def test_silence_and_every_front_end_give_finite_frames(arguments, max_order):
    frontend = params.Frontend(*arguments, max_order=max_order)
    layer = log_scattering.LogScattering.from_params(frontend)
    clips = np.zeros([2, 8 * frontend.hop_samples], np.float32)
    clips[1] = np.random.default_rng(0).normal(size=clips.shape[1])
    frames = layer(clips).numpy()
    mean = np.zeros(frames.shape[2])
    for seed in range(4):
        found, _ = augment(frames, seed=seed, frontend=frontend, mean=mean)
        assert np.all(np.isfinite(found))
        np.testing.assert_array_equal(found == -1000, frames == -1000)


def test_frames_that_keep_their_level_are_refused():
    frontend = dataclasses.replace(FRONTEND, remove_level=False)
    with pytest.raises(ValueError, match="augment=False"):
        augmentation.Augmentation(frontend, MEAN)
