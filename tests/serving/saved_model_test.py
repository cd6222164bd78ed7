"""Signatures of an exported classifier, compared with the Keras model."""

import collections
import io
import os
import pathlib
import re
import shutil
import subprocess
import types

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from support.tiny_export import (
    CLIPS,
    FRONTEND,
    HOP,
    LABELS,
    SEGMENT,
    answer,
    frames_of,
    keras_scores,
    music,
    scores_of,
)
from tensorflow.core.protobuf import saved_model_pb2

from genre_tl.audio import resampling
from genre_tl.model import networks
from genre_tl.serving import runtimes, warmup


@pytest.mark.parametrize("number", range(len(CLIPS)))
def test_scores_equal_those_of_the_keras_model(exported, number):
    scores = scores_of(exported, CLIPS[number][np.newaxis])
    expected = keras_scores(exported.network, CLIPS[number])
    np.testing.assert_allclose(scores, [expected], atol=1e-5)


def test_the_reference_clips_of_these_tests_get_different_scores(exported):
    scores = exported.predictor.scores(CLIPS)
    assert np.ptp(scores, axis=0).max() > 0.1


@pytest.mark.parametrize("padding", [0, 1, SEGMENT + 5])
def test_scores_depend_neither_on_the_batch_nor_on_padding(exported, padding):
    batch = np.zeros([len(CLIPS), max(map(len, CLIPS)) + padding], np.float32)
    for row, clip in zip(batch, CLIPS, strict=True):
        row[: len(clip)] = clip
    alone = [scores_of(exported, clip[np.newaxis])[0] for clip in CLIPS]
    np.testing.assert_allclose(scores_of(exported, batch), alone, atol=1e-6)


def test_more_segments_than_a_chunk_are_averaged_alike(exported):
    clip = music((runtimes.CHUNK_SEGMENTS + 2) * SEGMENT + 77, 8)
    np.testing.assert_allclose(
        scores_of(exported, clip[np.newaxis])[0],
        keras_scores(exported.network, clip),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "value", [0.0, np.nan, np.inf, -np.inf, 3e38, -3e38, 1e9, 1e-38, 1e-45]
)
def test_whatever_the_samples_scores_are_finite_and_neighbours_untouched(
    exported, value
):
    batch = np.stack([np.full(SEGMENT, value, np.float32), CLIPS[0]])
    scores = scores_of(exported, batch)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(scores[1], scores_of(exported, batch[1:])[0], atol=1e-6)


def test_a_clip_without_samples_is_a_silent_one(exported):
    silent = scores_of(exported, np.zeros([1, 5 * SEGMENT]))
    np.testing.assert_allclose(
        scores_of(exported, np.zeros([2, 0])), np.repeat(silent, 2, 0), atol=1e-6
    )


def test_no_clips_give_no_scores(exported):
    assert scores_of(exported, np.zeros([0, 100])).shape == (0, len(LABELS))


@pytest.mark.parametrize("shape", [(33, 0), (10**6, 0), (33, 1), (0, 2**26 + 1)])
@pytest.mark.parametrize("name", ["serving_default", "embedding", "taggram"])
def test_a_batch_that_would_exhaust_a_server_is_refused(exported, name, shape):
    waveform = tf.zeros(shape)
    with pytest.raises(tf.errors.InvalidArgumentError, match="waveform: .* at most"):
        exported.model.signatures[name](waveform=waveform)


def test_short_clips_beside_a_long_one_are_refused_before_they_are_padded(exported):
    tiny = warmup.wav_bytes(np.ones(1, np.float32))
    long = warmup.wav_bytes(np.ones(140_000, np.float32), 1_000)
    for files in ([tiny] * 335 + [long], [tiny] * 31 + [long]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="at most: send fewer"):
            answer(exported, "audio_bytes", *files)
        examples = [example(audio=file) for file in files]
        with pytest.raises(tf.errors.InvalidArgumentError, match="at most: send fewer"):
            answer(exported, "classify", *examples)
    # Samples beside a file are padded too.
    examples = [example(waveform=[0.5])] * 31 + [example(audio=long)]
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most: send fewer"):
        answer(exported, "classify", *examples)


def test_every_output_has_the_batch_first(exported):
    waveform = tf.zeros([4, 100])
    serve = exported.model.signatures["serving_default"](waveform=waveform)
    assert {k: v.shape.as_list() for k, v in serve.items()} == {
        "scores": [4, len(LABELS)],
        "classes": [4, len(LABELS)],
    }
    for row in serve["classes"].numpy():
        assert [label.decode() for label in row] == LABELS
    embed = exported.model.signatures["embedding"](waveform=waveform)
    assert embed["embedding"].shape == [4, exported.network.layers[-1].input.shape[1]]


def test_the_embedding_is_that_of_the_keras_model(exported):
    clip = tf.constant(CLIPS[0][np.newaxis])
    vector = exported.model.signatures["embedding"](waveform=clip)["embedding"]
    expected = networks.embedder(exported.network)(frames_of()(clip))
    np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_the_embedding_of_a_clip_of_segments_is_their_mean(exported):
    vectors = exported.model.signatures["embedding"](waveform=tf.constant([CLIPS[2]]))
    parts = [CLIPS[2][at : at + SEGMENT] for at in range(0, len(CLIPS[2]), SEGMENT)]
    sizes = [-(-len(part) // HOP) for part in parts]
    found = answer(
        exported, "embedding", *(np.pad(x, [0, SEGMENT - len(x)]) for x in parts)
    )
    expected = np.average(found["embedding"], axis=0, weights=sizes)
    np.testing.assert_allclose(vectors["embedding"][0], expected, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.25, -1.0])
def test_what_a_server_pads_with_changes_no_score(exported, value):
    clip = CLIPS[1].copy()
    clip[0] = value
    padded = np.concatenate([clip, np.full(SEGMENT, value, np.float32)])
    np.testing.assert_allclose(
        scores_of(exported, padded[np.newaxis]),
        scores_of(exported, clip[np.newaxis]),
        atol=1e-6,
    )


def test_encoded_files_get_the_scores_of_what_they_hold(exported):
    rate = 22_050
    sound = resampling.resample(CLIPS[0], 16_000, rate).numpy()
    expected = resampling.resample(sound, rate, 16_000).numpy()
    files = [warmup.wav_bytes(sound, rate), warmup.wav_bytes(CLIPS[1])]
    found = answer(exported, "audio_bytes", *files)
    np.testing.assert_allclose(
        found["scores"], exported.predictor.scores([expected, CLIPS[1]]), atol=1e-6
    )
    assert [x.decode() for x in found["classes"][1]] == LABELS
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"audio_bytes\[1\]: fmt chunk too short"
    ):
        answer(exported, "audio_bytes", files[0], files[1][:21])


def example(**features) -> bytes:
    made = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        if isinstance(value, bytes)
        else tf.train.Feature(float_list=tf.train.FloatList(value=value))
        for name, value in features.items()
    }
    features = tf.train.Features(feature=made)
    return tf.train.Example(features=features).SerializeToString()


def test_examples_hold_samples_or_a_file(exported):
    batch = [
        example(waveform=CLIPS[1]),
        example(audio=warmup.wav_bytes(CLIPS[0]), other=b"x"),
        example(waveform=CLIPS[3]),
    ]
    found = answer(exported, "classify", *batch)
    assert set(found) == {"classes", "scores"}
    clips = [CLIPS[1], CLIPS[0], CLIPS[3]]
    np.testing.assert_allclose(
        found["scores"], exported.predictor.scores(clips), atol=1e-6
    )
    np.testing.assert_allclose(
        answer(exported, "classify", batch[0])["scores"], found["scores"][:1], atol=1e-6
    )


@pytest.mark.parametrize(
    "bad, reason",
    [
        (example(), r"inputs\[2\]: the Example has neither"),
        (example(audio=b"RIFF"), r"inputs\[2\]: no RIFF"),
        (b"no example", "Could not parse example"),
    ],
)
def test_a_bad_example_is_refused_by_its_number(exported, bad, reason):
    fine = example(waveform=CLIPS[1])
    with pytest.raises(tf.errors.InvalidArgumentError, match=reason):
        answer(exported, "classify", fine, fine, bad)


def test_the_classify_signature_is_one_to_a_server(exported):
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((exported.folder / "saved_model.pb").read_bytes())
    definitions = dict(saved.meta_graphs[0].signature_def)
    assert set(definitions) >= set(warmup.requests())
    classify = definitions["classify"]
    assert classify.method_name == "tensorflow/serving/classify"
    assert set(classify.inputs) == {"inputs"}
    assert set(classify.outputs) == {"classes", "scores"}
    for name, definition in definitions.items():
        if name in warmup.requests():
            tensors = [*definition.inputs.values(), *definition.outputs.values()]
            assert all(t.tensor_shape.dim[0].size == -1 for t in tensors), name


def test_a_taggram_has_a_row_for_every_frame_with_sound(exported):
    found = answer(exported, "taggram", np.pad(CLIPS[4], [0, 300]))
    num_frames = -(-900 // HOP)
    times, scores = found["times"][0], found["scores"][0]
    per_segment = times.reshape(-1, FRONTEND.segment_frames)
    expected = np.arange(times.size).reshape(per_segment.shape) * HOP / 16_000
    # Sound for 900 samples, two segments of silence, sound for 5000 samples.
    is_frame = np.zeros(per_segment.shape, bool)
    is_frame[0, :num_frames] = True
    start, end = 900 + 2 * SEGMENT, 900 + 2 * SEGMENT + 5000
    assert start // SEGMENT == 2 and end // SEGMENT == 2
    is_frame[2, : -(-(end - 2 * SEGMENT) // HOP)] = True
    np.testing.assert_allclose(per_segment[is_frame], expected[is_frame], atol=1e-6)
    assert (per_segment[~is_frame] == runtimes.NO_TIME).all()
    assert not scores[times == runtimes.NO_TIME].any()
    np.testing.assert_allclose(scores[times >= 0].sum(axis=1), 1, atol=1e-5)


def test_a_taggram_of_one_window_is_the_score_of_the_clip(exported):
    # A window is longer than a segment of this front end.
    times, scores = exported.predictor.taggram(CLIPS[1])
    assert len(times) == -(-len(CLIPS[1]) // HOP)
    expected = exported.predictor.scores([CLIPS[1]])
    np.testing.assert_allclose(scores, np.repeat(expected, len(times), 0), atol=1e-5)


def test_taggrams_of_a_batch_are_those_of_its_clips(exported):
    batch = np.zeros([len(CLIPS), max(map(len, CLIPS))], np.float32)
    for row, clip in zip(batch, CLIPS, strict=True):
        row[: len(clip)] = clip
    found = answer(exported, "taggram", *batch)
    for clip, times, scores in zip(CLIPS, found["times"], found["scores"], strict=True):
        alone = exported.predictor.taggram(clip)
        is_frame = times >= 0
        np.testing.assert_allclose(times[is_frame], alone[0], atol=1e-6)
        np.testing.assert_allclose(scores[is_frame], alone[1], atol=1e-5)


def tensor_names(run: types.SimpleNamespace, name: str) -> list[str]:
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((run.folder / "saved_model.pb").read_bytes())
    definition = saved.meta_graphs[0].signature_def[name]
    (given,) = definition.inputs.values()
    return [given.name, definition.outputs["scores"].name]


def test_a_program_in_c_gets_the_same_scores(exported, tmp_path):
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("NOT RUN: there is no C compiler")
    libraries = pathlib.Path(tf.sysconfig.get_lib())
    if not (libraries / "libtensorflow_cc.so.2").is_file():
        pytest.skip(f"NOT RUN: there is no libtensorflow_cc.so.2 in {libraries}")
    program = tmp_path / "serve"
    subprocess.run(
        [
            *(compiler, "-O1", "-Wall", "-Werror", "-std=c11", "-o", str(program)),
            str(pathlib.Path(__file__).with_name("serve.c")),
            f"-I{tf.sysconfig.get_include()}",
            *("-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"),
            *(f"-L{libraries}", f"-Wl,-rpath,{libraries}"),
        ],
        check=True,
    )
    CLIPS[0].tofile(tmp_path / "clip.raw")
    (tmp_path / "clip.wav").write_bytes(warmup.wav_bytes(CLIPS[0], 22_050))
    done = subprocess.run(
        [
            *(program, exported.folder, tmp_path / "clip.raw", tmp_path / "clip.wav"),
            *tensor_names(exported, "serving_default"),
            *tensor_names(exported, "audio_bytes"),
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found = [[float(x) for x in line.split()] for line in done.stdout.splitlines()]
    resampled = resampling.resample(CLIPS[0], 22_050, 16_000).numpy()
    expected = exported.predictor.scores([CLIPS[0], resampled])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def fuzzed(generator: np.random.Generator) -> bytes:
    """Returns a WAV file, or what is left of one after a few accidents."""
    rate = int(generator.choice([8_000, 16_000, 22_050, 44_100]))
    file = io.BytesIO()
    samples = generator.uniform(-1, 1, [generator.integers(0, 400), 2])
    subtype = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]
    kind = str(generator.choice(["WAV", "WAVEX"]))
    soundfile.write(file, samples, rate, str(generator.choice(subtype)), format=kind)
    data = bytearray(file.getvalue())
    for _ in range(generator.integers(0, 4)):
        at = int(generator.integers(0, min(len(data), 90) + 1))
        end = at + int(generator.integers(0, 9))
        extreme = generator.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, len(data)])
        accident = generator.integers(0, 7)
        if accident == 0:
            data[at : at + 1] = generator.bytes(1)
        elif accident == 1:
            data[at : at + 4] = int(extreme).to_bytes(4, "little")
        elif accident == 2:
            data[at:end] = b""
        elif accident == 3:
            data[at:at] = generator.bytes(end - at)
        elif accident == 4:
            data = data[: generator.integers(0, len(data) + 1)]
        elif accident == 5:
            data[at:at] = data[at:end]
        else:
            data = bytearray(generator.bytes(end))
    return bytes(data)


def resident_bytes() -> int:
    num_pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return num_pages * os.sysconf("SC_PAGE_SIZE")


def test_whatever_the_bytes_there_are_scores_or_a_reason(exported):
    # GENRE_TL_FUZZ=10000 makes it thorough.
    count = int(os.environ.get("GENRE_TL_FUZZ", "300"))
    serve = exported.model.signatures["audio_bytes"]
    outcomes, resident = collections.Counter(), []
    for number in range(count):
        data = fuzzed(np.random.default_rng([7, number]))
        try:
            scores = serve(tf.constant([data]))["scores"].numpy()
            assert scores.shape == (1, len(LABELS)) and np.isfinite(scores).all()
            outcomes["scores"] += 1
        except tf.errors.InvalidArgumentError as error:
            found = re.search(r"audio_bytes\[0\]: ([^\]0-9]+)", error.message)
            assert found, (number, error.message)
            outcomes[found[1].strip()] += 1
        resident.append(resident_bytes())
    print(outcomes, [round(each / 1e6) for each in resident[:: count // 10]])
    assert len(outcomes) > 8 and outcomes["scores"] > count / 10
    # A rate that has no divisor in common with 16 kHz takes 200 MB for a moment.
    assert resident[-1] - max(resident[: count // 3]) < 100e6
