"""Presets: derived values, JSON, and what is refused."""

import json

import pytest

from genre_tl import params


@pytest.mark.parametrize("preset", params.PRESETS.values(), ids=params.PRESETS)
def test_a_preset_comes_back_from_json(preset):
    values = json.loads(json.dumps(preset.to_dict()))
    assert params.Preset.from_dict(values) == preset


def test_an_unknown_setting_is_refused():
    values = params.Preset().to_dict()
    values["model"]["heads"] = 8
    with pytest.raises(TypeError, match="heads"):
        params.Preset.from_dict(values)


@pytest.mark.parametrize(
    ("name", "frame_secs", "segment_secs"),
    [("default", 0.256, 30.208), ("paper", 0.512, 30.208)],
)
def test_a_segment_lasts_about_half_a_minute(name, frame_secs, segment_secs):
    frontend = params.PRESETS[name].frontend
    assert frontend.hop_samples / params.SAMPLE_RATE_HZ == frame_secs
    assert frontend.segment_secs == segment_secs
    assert frontend.num_frames(frontend.segment_samples) == frontend.segment_frames
    assert frontend.num_frames(frontend.hop_samples + 1) == 2


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        (params.Model, "cell", "rnn"),
        (params.Model, "readout", "max"),
        (params.Training, "schedule", "linear"),
        (params.FineTuning, "schedule", "linear"),
        (params.FineTuning, "method", "forest"),
    ],
)
def test_an_unknown_choice_is_refused_with_those_there_are(part, name, value):
    with pytest.raises(ValueError, match=f"{name}='{value}': choose one of .*, "):
        part(**{name: value})


def test_a_preset_with_augmentation_removes_the_level():
    for preset in params.PRESETS.values():
        for training in (preset.pretrain, preset.finetune):
            assert preset.frontend.remove_level or not training.augment


def test_the_paper_trains_the_whole_network_from_a_random_head():
    recipe = params.PRESETS["paper"].finetune
    assert (recipe.method, recipe.fit_head) == ("finetune", False)
    assert recipe.schedule == "constant" and not recipe.weight_decay
