"""A source tree with a tiny starter, the model that ships."""

import functools
import pathlib

from genre_tl.model import networks
from genre_tl.serving import export, model_card, onnx_export, saved_model
from support import tiny_export

TAGS = ("calm", "msd:rock", "mtt:guitar", "mtt:no vocals", "pop/rock", "sad", "tense")
ROOT = pathlib.Path(__file__).parents[2]
BUILT = (
    *("genre_tl", "tools", "beetsplug"),
    *("setup.cfg", "pyproject.toml", "README.md", "LICENSE"),
)
METRICS = {"num_tags": 7, "min_positives": 5} | {
    f"{average}_{metric}": 0.5
    for average in ("macro", "micro")
    for metric in ("auc_roc", "pr_auc")
}
RECORD = tiny_export.RECORD | {
    "kind": "pretrain",
    "start": None,
    "vocabulary": list(TAGS),
    "data": tiny_export.data(train=[], valid=[]),
    "metrics": {"valid": METRICS},
}


def make(tree: pathlib.Path) -> pathlib.Path:
    """Links the sources into a folder, exports a tagger there; returns its folder."""
    for name in BUILT:
        (tree / name).symlink_to(ROOT / name)
    preset, size = tiny_export.PRESET, tiny_export.num_paths()
    network = networks.tagger(preset.model, size, len(TAGS), seed=3)
    network = networks.to_half(tiny_export.sensitive(network))
    trained = saved_model.TrainedModel(network, preset.frontend, TAGS, half=True)
    base = tree / "saved_models" / "starter"
    card = model_card.from_run(RECORD, "starter", "0" * 64)
    write = functools.partial(onnx_export.write_with_saved_model, card=card)
    export.export(trained, base, card=card, write=write)
    return base
