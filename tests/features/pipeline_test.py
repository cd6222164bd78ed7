"""Loading features, and batches for training and evaluation."""

import itertools
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from support import small_features
from support.small_features import (
    FRONTEND,
    SEGMENT,
    extract,
    frames_of,
    load,
    noise,
    table,
    write,
)

from genre_tl.features import augmentation, framing, pipeline


@pytest.fixture
def music(tmp_path: pathlib.Path) -> pathlib.Path:
    small_features.make(tmp_path / "music")
    return tmp_path / "music"


# Loading


def test_load_skips_clips_without_features_and_says_why(music, tmp_path):
    extract(music, tmp_path / "s")
    write(music / "b/1.wav", noise(SEGMENT, 1))
    write(music / "b/new.wav", noise(SEGMENT, 11))
    everything = table(music)
    features, dataset = load(music, tmp_path / "s")
    skipped = dict(dataset.skipped)
    assert sorted(skipped) == ["a/broken.wav", "b/1.wav", "b/new.wav"]
    assert "not audio" in skipped["a/broken.wav"]
    assert "changed" in skipped["b/1.wav"]
    assert "not extracted" in skipped["b/new.wav"]
    assert dataset.paths == tuple(p for p in everything.paths if p not in skipped)
    assert len(features.digests) == len(features.counts) == len(dataset.labels) == 5


@pytest.mark.parametrize("in_memory", [True, False])
def test_load_follows_the_order_of_the_table(music, tmp_path, in_memory):
    extract(music, tmp_path / "s")
    features, dataset = load(music, tmp_path / "s")
    rows = [3, 0, 5]
    chosen, same = pipeline.load(
        tmp_path / "s", dataset.select(rows), FRONTEND, in_memory=in_memory
    )
    assert same.paths == tuple(dataset.paths[row] for row in rows)
    assert chosen.digests == tuple(features.digests[row] for row in rows)
    for position, row in enumerate(rows):
        np.testing.assert_array_equal(
            frames_of(chosen, position), frames_of(features, row)
        )


def test_load_without_any_features_says_what_to_do(music, tmp_path):
    with pytest.raises(FileNotFoundError, match="extract the features first"):
        load(music, tmp_path / "nothing")
    extract(music, tmp_path / "s")
    shutil.rmtree(tmp_path / "s/shards")
    with pytest.raises(ValueError, match="no features for 7 of 7 clips.*not extracted"):
        load(music, tmp_path / "s")


def test_features_that_do_not_fit_into_memory_stay_on_disk(
    music, tmp_path, monkeypatch
):
    extract(music, tmp_path / "s")
    monkeypatch.setattr(pipeline, "_free_bytes", lambda: 2**40)
    shutil.copytree(tmp_path / "s", tmp_path / "t")
    in_memory, _ = load(music, tmp_path / "t")
    shutil.rmtree(tmp_path / "t")
    assert len(frames_of(in_memory, 0))
    monkeypatch.setattr(pipeline, "_free_bytes", lambda: 1000)
    on_disk, _ = load(music, tmp_path / "s")
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(FileNotFoundError):
        frames_of(on_disk, 0)
    monkeypatch.undo()
    assert 2**20 < pipeline._free_bytes() <= 2**63


# Batches

LENGTH = 5
STARTS = [0, 3, 8, 20]
LABELS = np.eye(4, dtype=np.uint8)


@pytest.fixture
def features() -> pipeline.Features:
    """Clips of 3, 5, 12 (in two segments) and 8 frames; frame f holds f, -f."""
    frames = np.arange(28, dtype=np.float32)[:, np.newaxis] * [1, -1]
    segments = ((3,), (5,), (7, 5), (8,))
    return small_features.in_memory(frames.astype(np.float32), segments)


def batches_of(features, rows, *, size=2, num_frames=LENGTH, seed=1, epoch=1):
    """Returns the batches of one epoch."""
    batching = pipeline.Batching(size, (num_frames,), seed)
    batches = pipeline.training_batches(
        features, LABELS, rows, batching, first_epoch=epoch
    )
    batches = batches.take(pipeline.num_batches(rows, size)).as_numpy_iterator()
    frames, labels = zip(*batches, strict=True)
    return np.concatenate(frames), np.concatenate(labels)


def test_an_epoch_holds_every_row_once_in_full_batches(features):
    frames, labels = batches_of(features, [0, 1, 2, 3])
    assert frames.shape == (4, LENGTH, 2)
    assert frames.dtype == labels.dtype == np.float32
    assert sorted(labels.argmax(axis=1)) == [0, 1, 2, 3]


def test_excerpts_are_frames_in_a_row_of_their_clip_then_padding(features):
    for epoch in range(8):
        frames, labels = batches_of(features, [0, 1, 2, 3], epoch=epoch)
        for clip, row in zip(frames, labels.argmax(axis=1), strict=True):
            count = min(features.counts[row], LENGTH)
            offset = clip[0, 0] - STARTS[row]
            assert 0 <= offset <= features.counts[row] - count
            np.testing.assert_array_equal(
                clip[:count, 0], clip[0, 0] + np.arange(count)
            )
            np.testing.assert_array_equal(clip[:count, 1], -clip[:count, 0])
            assert np.all(clip[count:] == framing.PAD_VALUE)


def test_every_excerpt_of_a_long_clip_comes_up(features):
    frames, _ = batches_of(features, [2], size=100)
    offsets = frames[:, 0, 0] - STARTS[2]
    assert set(offsets) == set(range(12 - LENGTH + 1))


def test_batches_are_a_function_of_seed_and_epoch(features):
    def epoch_of(**changes):
        return batches_of(features, [0, 1, 2, 3], **changes)[0].tobytes()

    assert epoch_of() == epoch_of()
    assert len({epoch_of(seed=s, epoch=e) for s in range(3) for e in range(3)}) > 6


def test_the_last_batch_is_filled_up_from_the_beginning(features):
    _, labels = batches_of(features, [0, 1, 2], size=2)
    order = labels.argmax(axis=1)
    assert len(order) == 4
    assert order[3] == order[0]
    _, labels = batches_of(features, [1], size=3)
    assert list(labels.argmax(axis=1)) == [1, 1, 1]


def test_shapes_are_static_and_epochs_follow_one_another(features):
    batching = pipeline.Batching(2, (4,), seed=0)
    rows = [0, 2, 3]
    batches = pipeline.training_batches(features, LABELS, rows, batching)
    frames = tf.TensorSpec([2, 4, 2], tf.float32)
    assert batches.element_spec == (frames, tf.TensorSpec([2, 4], tf.float32))
    found = list(itertools.islice(batches.as_numpy_iterator(), 6))
    for epoch in (1, 2, 3):
        alone = batches_of(features, rows, num_frames=4, seed=0, epoch=epoch)
        of_epoch = found[2 * (epoch - 1) : 2 * epoch]
        for part in (0, 1):
            together = np.concatenate([batch[part] for batch in of_epoch])
            np.testing.assert_array_equal(together, alone[part])


def test_each_batch_has_one_of_the_lengths_drawn_by_their_number(features):
    batching = pipeline.Batching(2, (2, 9, 2, 2), seed=0)
    batches = pipeline.training_batches(features, LABELS, [2, 2], batching)
    assert batches.element_spec[0].shape.as_list() == [2, None, 2]
    frames = [frames for frames, _ in batches.take(400).as_numpy_iterator()]
    assert {batch.shape for batch in frames} == {(2, 2, 2), (2, 9, 2)}
    assert 270 < sum(batch.shape[1] == 2 for batch in frames) < 330
    for batch in frames:
        np.testing.assert_array_equal(np.diff(batch[:, :, 0]), 1)


def augmented_batches(features, dataset, first_epoch):
    """Returns 3 epochs of augmented batches, as bytes."""
    rows, targets = np.arange(len(dataset)), np.float32(dataset.labels)
    targets[::2] = np.nan
    mean, _ = pipeline.frame_statistics(features, rows)
    batches = pipeline.training_batches(
        features,
        targets,
        rows,
        pipeline.Batching(2, (4, 7, 9), seed=3),
        augmentation=augmentation.Augmentation(FRONTEND, mean),
        first_epoch=first_epoch,
    )
    steps = 3 * pipeline.num_batches(rows, 2)
    return [array.numpy().tobytes() for pair in batches.take(steps) for array in pair]


def test_augmented_batches_are_a_function_of_seed_and_epoch(music, tmp_path):
    extract(music, tmp_path / "s")
    collection = load(music, tmp_path / "s")
    first = augmented_batches(*collection, first_epoch=1)
    assert first == augmented_batches(*collection, first_epoch=1)
    resumed = augmented_batches(*collection, first_epoch=2)
    epoch = len(first) // 3
    assert resumed[: 2 * epoch] == first[epoch:]
    assert resumed[0] not in first[:epoch]


def test_batches_from_memory_and_from_disk_are_the_same_bits(music, tmp_path):
    extract(music, tmp_path / "s")
    found = []
    for in_memory in (True, False):
        features, dataset = load(music, tmp_path / "s", in_memory=in_memory)
        rows = np.arange(len(dataset))
        batching = pipeline.Batching(4, (7, 3), seed=3)
        batches = pipeline.training_batches(features, dataset.labels, rows, batching)
        arrays = [array for pair in batches.take(7) for array in pair]
        batches, _ = pipeline.evaluation_batches(
            features, rows, batch_size=4, segment_frames=9
        )
        arrays += [*batches, *pipeline.frame_statistics(features, rows)]
        arrays += augmented_batches(features, dataset, first_epoch=1)
        found.append([np.asarray(array).tobytes() for array in arrays])
    assert found[0] == found[1]


def test_excerpts_from_disk_may_span_segments(music, tmp_path):
    write(music / "b/long.wav", noise(5 * SEGMENT + 99, 8))
    extract(music, tmp_path / "s")
    features, dataset = load(music, tmp_path / "s", in_memory=False)
    clip = dataset.paths.index("b/long.wav")
    frames = frames_of(features, clip)
    for start, count in ((0, 1), (15, 2), (16, 16), (3, 40), (80, 2), (81, 1)):
        np.testing.assert_array_equal(
            features.read(clip, start, count), frames[start : start + count]
        )


def test_evaluation_goes_through_all_segments_in_order(features):
    batches, segments = pipeline.evaluation_batches(
        features, [3, 2, 0], batch_size=2, segment_frames=LENGTH
    )
    assert batches.element_spec.shape.as_list() == [None, LENGTH, 2]
    frames = np.concatenate(list(batches))
    np.testing.assert_array_equal(segments.clips, [0, 0, 1, 1, 1, 2])
    np.testing.assert_array_equal(segments.frames, [5, 3, 5, 2, 5, 3])
    np.testing.assert_array_equal(frames[:, 0, 0], [20, 25, 8, 13, 15, 0])
    for piece, count in zip(frames, segments.frames, strict=True):
        np.testing.assert_array_equal(np.diff(piece[:count, 0]), 1)
        assert np.all(piece[count:] == framing.PAD_VALUE)


def test_scores_of_a_clip_are_the_mean_weighted_by_valid_frames(features):
    _, segments = pipeline.evaluation_batches(
        features, [3, 2, 0], batch_size=2, segment_frames=LENGTH
    )
    scores = np.random.default_rng(0).uniform(size=(6, 3)).astype(np.float32)
    means = pipeline.mean_scores(scores, segments)
    expected = [
        np.average(scores[:2], axis=0, weights=[5, 3]),
        np.average(scores[2:5], axis=0, weights=[5, 2, 5]),
        scores[5],
    ]
    assert means.dtype == np.float32
    np.testing.assert_allclose(means, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="scores of 5 segments, but there are 6"):
        pipeline.mean_scores(scores[:5], segments)


def test_statistics_are_those_of_numpy_over_the_rows_alone():
    frames = np.random.default_rng(0).normal(5, 2, (30, 4)).astype(np.float32)
    frames[:, 3] = 0.1
    features = small_features.in_memory(frames, ((4, 6), (5,), (15,)))
    mean, variance = pipeline.frame_statistics(features, [0, 2])
    chosen = np.concatenate([frames[:10], frames[15:]]).astype(np.float64)
    assert mean.dtype == variance.dtype == np.float64
    np.testing.assert_allclose(mean, chosen.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(variance, chosen.var(axis=0), rtol=1e-12, atol=1e-30)


def test_no_rows_are_refused(features):
    with pytest.raises(ValueError, match="rows is empty"):
        batches_of(features, [])
    with pytest.raises(ValueError, match="rows is empty"):
        pipeline.frame_statistics(features, [])
