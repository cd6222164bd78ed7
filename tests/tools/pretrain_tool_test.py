"""`tools.pretrain` on joined tables of real tags, soft tags and target vectors."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

NUM_CLIPS, RATE_HZ = 60, 8_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Clips with three real tags, of which one is rare; soft tags and vectors."""
    folder = tmp_path_factory.mktemp("pretrain")
    rng = np.random.default_rng(0)
    tags, soft = ["path,labels"], ["path,msd:loud,msd:soft"]
    for index in range(NUM_CLIPS):
        is_loud = index % 2
        noise = rng.uniform(-0.3, 0.3, RATE_HZ)
        soundfile.write(folder / f"{index}.wav", noise, RATE_HZ)
        names = ["loud" if is_loud else "soft", *["rare"] * (index < 3)]
        tags.append(f"{index}.wav,{';'.join(names)}")
        chance = 0.5 * is_loud + rng.uniform(0, 0.5)
        soft.append(f"{index}.wav,{chance:.3f},{1 - chance:.3f}")
    (folder / "tags.csv").write_text("\n".join(tags[:-3]))
    (folder / "soft.csv").write_text("\n".join([soft[0], *soft[4:]]))
    paths = [f"{index}.wav" for index in range(NUM_CLIPS)]
    np.savez(folder / "v.npz", paths=paths, v=rng.normal(size=[NUM_CLIPS, 4]))
    return folder


def pretrain(folder, root, *flags):
    flags = "--preset=tiny", "--max_epochs=2", "--min_positives=1", *flags
    return subprocess.run(
        [sys.executable, "-m", "tools.pretrain", *flags],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )


def test_joined_tables_are_learned_with_their_soft_tags_and_vectors(folder, root):
    tables = "--table=tags.csv", "--table=soft.csv"
    done = pretrain(folder, root, *tables, "--target_vectors=v.npz")
    assert done.returncode == 0, done.stderr
    assert (
        "training on 54 clips, 6 for validation, 4 tags (2 soft), target vectors of 4 "
        "dimensions for 60 clips" in done.stdout
    )
    assert "2 soft tags: AUC-ROC" in done.stdout
    assert "correlation with the soft tags" in done.stdout
    assert "correlation with the target vectors" in done.stdout
    assert (folder / "features/tags+soft/index.npz").is_file()
    record = json.loads((folder / "runs/pretrain/run.json").read_text())
    assert record["vocabulary"] == ["loud", "soft", "msd:loud", "msd:soft"]
    header = (folder / "runs/pretrain/history.csv").read_text().split("\n")[0]
    for name in ("binary_macro_auc_roc", "soft_correlation", "vectors_r"):
        assert f"val_{name}" in header.split(",")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--min_clips=40",), "0 of 3 tags have 40 clips"),
        (("--target_vectors=absent.npz",), "absent.npz: No such file"),
        (("--num_tags=2",), "--num_tags needs MagnaTagATune in --data_dir"),
    ],
)
def test_what_cannot_be_used_is_said_before_features_are_computed(
    folder, root, flags, message
):
    features = "--features_dir=none"
    done = pretrain(folder, root, "--table=tags.csv", features, *flags)
    assert done.returncode and message in done.stderr
    assert not (folder / "none").exists()
