"""Training, exports and prediction frame every waveform in the same way."""

import functools
import types
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from genre_tl import features, params
from genre_tl.audio import sound
from genre_tl.features import framing, shard_job
from genre_tl.serving import network_graph, saved_model

FRONTEND = params.Frontend(J=6, Q=1, max_order=1, segment_frames=16)
SEGMENT, HOP = FRONTEND.segment_samples, FRONTEND.hop_samples
LSB = 1 / 2**15


def part(kind, length, seed):
    """Returns a piece of a waveform, float32 `[length]`."""
    generator = np.random.default_rng(seed)
    values = {
        "noise": lambda: generator.uniform(-0.5, 0.5, length),
        "music": lambda: 0.3 * np.sin(np.arange(length) * generator.uniform(0.01, 1)),
        "16-bit": lambda: generator.integers(-9, 9, length) * LSB,
        "silence": lambda: np.zeros(length),
        "dither": lambda: generator.integers(-1, 2, length) * LSB,
        "one LSB": lambda: np.full(length, -LSB),
        "denormals": lambda: np.full(length, 1e-41),
        "offset": lambda: np.full(length, 0.25),
        "not finite": lambda: generator.choice([np.nan, np.inf, 1e38], length),
    }
    return values[kind]().astype(np.float32)


KINDS = "noise music 16-bit silence dither denormals offset".split()
LENGTHS = st.sampled_from([1, 2, 63, 64, 65, HOP + 1, 300, SEGMENT, 2 * SEGMENT + 70])
PARTS = st.builds(
    part, st.sampled_from([*KINDS, "one LSB", "not finite"]), LENGTHS, st.integers(0, 9)
)
WAVEFORMS = st.lists(PARTS, min_size=1, max_size=4).map(np.concatenate)


class MeanFrame:
    """A network whose embedding is the mean over the valid frames."""

    num_labels = 1

    def __init__(self, num_units, half):
        self.num_units = num_units

    def states(self, frames):
        return frames

    def read_out(self, states, weights):
        is_valid = tf.sequence_mask(weights, states.shape[1], tf.float32)
        total = tf.reduce_sum(states * is_valid[:, :, tf.newaxis], 1)
        return total / weights[:, tf.newaxis]

    def scores(self, vectors):
        return vectors[:, :1], vectors


@functools.cache
def exported():
    layer = features.LogScattering.from_params(FRONTEND)
    *_, num_paths = layer.compute_output_shape((None, SEGMENT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_graph, "Network", MeanFrame)
        trained = types.SimpleNamespace(
            network=num_paths, labels=(), frontend=FRONTEND, half=False, known=None
        )
        return saved_model.Answers(trained)


def served(waveform):
    """Returns what the exported graph computes: number of frames, their mean."""
    batch = tf.constant(waveform[np.newaxis])
    places = framing.starts(batch), framing.padding(batch)
    _, vectors, num_frames = exported().score_and_embed(batch, *places)
    return max(int(num_frames[0]), 1), vectors[0].numpy()


def stored(waveform, size=10**9):
    """Returns the frames that training would store; the file is read in pieces."""
    parts = [waveform[at : at + size] for at in range(0, len(waveform), size)]
    pieces = sound.pieces(parts, shard_job._PIECE_SEGMENTS * SEGMENT)
    transform = shard_job._transform(FRONTEND)
    with futures.ThreadPoolExecutor(1) as pool:
        tasks = [
            pool.submit(transform, piece.waveform[np.newaxis], [piece.padding])
            for piece in pieces
        ]
    return np.concatenate(shard_job._valid_frames(tasks))


def check_alike(waveform, frames):
    num_frames, mean = served(waveform)
    assert num_frames == len(frames)
    np.testing.assert_allclose(mean, frames.mean(axis=0), rtol=1e-4, atol=1e-4)


@settings(max_examples=150)
@given(WAVEFORMS)
def test_an_export_computes_the_frames_that_training_stores(waveform):
    check_alike(waveform, stored(waveform))


@settings(max_examples=100)
@given(WAVEFORMS, st.integers(1, 3 * SEGMENT), st.integers(1, 200))
def test_padding_of_a_batch_changes_nothing(waveform, num_first, num_zeros):
    frames = stored(waveform)
    first = np.full(num_first, waveform[0], np.float32)
    zeros = np.zeros(num_zeros, np.float32)
    for padding in ([first], [zeros], [zeros, first], [first, zeros]):
        check_alike(np.concatenate([waveform, *padding]), frames)


@settings(max_examples=100)
@given(WAVEFORMS, st.sampled_from([SEGMENT, 2 * SEGMENT]))
def test_a_file_in_pieces_has_the_frames_of_the_whole(waveform, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_job, "_PIECE_SEGMENTS", size // SEGMENT)
        in_pieces = stored(waveform, size)
    np.testing.assert_allclose(in_pieces, stored(waveform), rtol=1e-4, atol=1e-4)


@settings(max_examples=100)
@given(WAVEFORMS)
def test_segments_are_those_of_the_definition(waveform):
    loud = np.abs(waveform)
    is_loud = (loud > sound.SILENCE) & (loud <= sound.LOUDEST)
    is_sound = is_loud & (waveform != waveform[0])
    is_head = len(waveform) >= 64 and (waveform[:64] == waveform[0]).all()
    start = (is_sound if is_head else is_loud).argmax()
    expected = []
    for at in range(start, len(waveform), SEGMENT):
        (places,) = np.nonzero(is_sound[at : at + SEGMENT])
        expected += [(at, places[-1] + 1)] if len(places) else []
    batch = tf.constant(waveform[np.newaxis])
    places = framing.starts(batch), framing.padding(batch)
    found = framing.segments(batch, FRONTEND, *places)
    rows = framing.cut(batch, found, FRONTEND).numpy()
    assert len(rows) == max(len(expected), 1)
    usable = np.where(loud <= sound.LOUDEST, waveform, 0)
    for number, (at, length) in enumerate(expected or [(0, 0)]):
        assert (found.starts[number], found.lengths[number]) == (at, length)
        samples = usable[at : at + length] if length else np.zeros(1)
        mirrored = np.pad(samples, [0, SEGMENT - len(samples)], mode="reflect")
        np.testing.assert_array_equal(rows[number], mirrored)


def test_a_quiet_tail_of_one_lsb_is_silence_in_training_and_export():
    waveform = np.concatenate([part("noise", 2500, 0), part("one LSB", 2500, 0)])
    frames = stored(waveform)
    assert len(frames) == -(-2500 // HOP)
    check_alike(waveform, frames)


@pytest.mark.parametrize("kind", ["silence", "dither", "denormals", "one LSB"])
def test_silence_in_front_changes_nothing(kind):
    noise = part("noise", 3000, 1)
    for length in (1, 64, 5000, 3 * framing._SEARCH_SAMPLES):
        waveform = np.concatenate([part(kind, length, 2), noise])
        np.testing.assert_allclose(stored(waveform), stored(noise), atol=1e-5)
        check_alike(waveform, stored(noise))


@pytest.mark.parametrize("kind", ["silence", "dither", "offset", "not finite"])
def test_a_clip_without_sound_is_one_frame_of_zeros(kind):
    expected = stored(np.zeros(1, np.float32))
    assert len(expected) == 1
    for length in (1, 64, 5000):
        np.testing.assert_array_equal(stored(part(kind, length, 0)), expected)
    batch = tf.zeros([2, 0])
    found = framing.segments(batch, FRONTEND, framing.starts(batch), tf.zeros(2))
    assert found.lengths.numpy().tolist() == [0, 0]
    assert found.frames_per_clip(2).numpy().tolist() == [0, 0]


@settings(max_examples=50)
@given(WAVEFORMS)
def test_the_layer_extends_rows_as_exports_extend_segments(waveform):
    rows = tf.constant(np.resize(waveform, [1, SEGMENT]))
    lengths = framing.valid_samples(rows)
    zero = tf.zeros(1, tf.int32)
    segments = framing.Segments(zero, zero, lengths, tf.ones(1))
    np.testing.assert_array_equal(
        framing.mirrored(rows, lengths), framing.cut(rows, segments, FRONTEND)
    )


def test_clips_of_a_batch_have_the_segments_they_have_alone():
    clips = [part("noise", n, n) for n in (10, SEGMENT, 2500)]
    clips += [np.pad(part("noise", 3000, 5), [700, 0]), np.zeros(3, np.float32)]
    batch = np.stack([np.pad(clip, [0, 4000 - len(clip)]) for clip in clips])
    batch = tf.constant(batch)
    places = framing.starts(batch), framing.padding(batch)
    found = framing.segments(batch, FRONTEND, *places)
    assert found.clips.numpy().tolist() == [0, 1, 2, 2, 2, 3, 3, 3, 4]
    rows = framing.cut(batch, found, FRONTEND).numpy()
    for number, clip in enumerate(clips):
        alone = tf.constant(clip[np.newaxis])
        places = framing.starts(alone), framing.padding(alone)
        segments = framing.segments(alone, FRONTEND, *places)
        np.testing.assert_array_equal(
            rows[found.clips == number], framing.cut(alone, segments, FRONTEND)
        )


def test_mirroring_and_counting_compile_with_xla():
    rows = tf.constant(np.stack([np.pad(part("noise", 700, 1), [0, SEGMENT - 700])]))
    compiled = tf.function(
        lambda rows: framing.mirrored(rows, framing.valid_samples(rows)),
        jit_compile=True,
    )
    expected = framing.mirrored(rows, framing.valid_samples(rows))
    np.testing.assert_array_equal(compiled(rows), expected)
