"""Checks that what one environment writes works in another, in both directions.

Usage: python tests/check_exchange.py PYTHON OTHER_PYTHON

Each interpreter, of an environment with a tested set, makes a folder with finished runs
of both kinds, a run that was killed, a feature store, Keras files and a SavedModel, and
what they give. The other one reads it all, compares, resumes and fine-tunes.
"""

import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOLERANCE = 1e-4
"""Largest change of an output between two builds of TensorFlow."""


def main() -> None:
    one, other = map(os.path.abspath, sys.argv[1:])
    with tempfile.TemporaryDirectory() as name:
        for number, (writer, reader) in enumerate([(one, other), (other, one)]):
            folder = pathlib.Path(name, str(number))
            folder.mkdir()
            versions = [_run(writer, "write", folder), _run(reader, "read", folder)]
            print("{} -> {}: models, runs and features work".format(*versions))


def _run(python: str, action: str, folder: pathlib.Path) -> str:
    """Runs `write` or `read` in an environment; returns its versions."""
    code = (
        f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'tests')]!r}\n"
        f"import pathlib, tools, check_exchange\n"
        f"print(check_exchange.{action}(pathlib.Path(sys.argv[1])))"
    )
    command = [python, "-c", code, str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stderr}\nerror: {python} cannot {action} (see above)")
    return done.stdout.splitlines()[-1]


def write(folder: pathlib.Path) -> str:
    """Fills a folder; returns the versions of this environment."""
    import keras
    import numpy as np
    from support import runs, small_features

    from genre_tl import features
    from genre_tl.model import networks

    runs.pretrained(folder / "pretrain")
    runs.finetuned(folder / "finetune", runs.TINY, start=folder / "pretrain")
    runs.exported(folder / "finetune", folder / "export")
    with contextlib.suppress(runs.Killed):
        runs.pretrained(folder / "killed", callbacks=runs.kill_at(2, 1))
    frontend = small_features.FRONTEND
    layer = features.LogScattering.from_params(frontend)
    waveform = keras.Input((frontend.segment_samples,))
    networks.save(keras.Model(waveform, layer(waveform)), folder / "frontend.keras")
    small_features.make(folder / "music")
    small_features.extract(folder / "music", folder / "store")
    np.savez(folder / "expected.npz", **_answers(folder))
    return _versions()


def read(folder: pathlib.Path) -> str:
    """Uses a folder that another environment filled; returns the versions of this."""
    import numpy as np
    from support import runs, small_features

    answers = _answers(folder)
    with np.load(folder / "expected.npz") as expected:
        assert set(expected) == set(answers)
        for name, values in expected.items():
            np.testing.assert_allclose(
                answers[name], values, atol=TOLERANCE, rtol=TOLERANCE, err_msg=name
            )
    summary = small_features.extract(folder / "music", folder / "store")
    assert (summary.num_computed, summary.num_unchanged) == (0, 6), summary
    runs.pretrained(folder / "killed")
    assert (folder / "killed/run.json").exists()
    record = runs.finetuned(folder / "again", runs.TINY, start=folder / "pretrain")
    assert record["metrics"]["test"]["accuracy"] > 0.8, record["metrics"]
    return _versions()


def _answers(folder: pathlib.Path) -> dict:
    """Returns what models and features in the folder give, by name."""
    import numpy as np
    from support import runs, small_features

    from genre_tl.features import pipeline
    from genre_tl.model import networks
    from genre_tl.serving import predictor
    from genre_tl.training import run_folder

    rng = np.random.default_rng(0)
    frames = rng.standard_normal([3, 40, runs.NUM_PATHS]).astype("float32")
    frontend = small_features.FRONTEND
    clips = rng.standard_normal([2, frontend.segment_samples]).astype("float32") / 10
    table = small_features.table(folder / "music")
    store, _ = pipeline.load(folder / "store", table, frontend)
    found = {
        kind: run_folder.read_model(folder / kind)(frames, training=False).numpy()
        for kind in ("pretrain", "finetune")
    }
    found["frontend"] = networks.load(folder / "frontend.keras")(clips).numpy()
    found["export"] = predictor.Predictor(folder / "export").scores(list(clips))
    found["store"] = np.concatenate(
        [store.read(clip, 0, count) for clip, count in enumerate(store.counts)]
    )
    return found


def _versions() -> str:
    import keras
    import numpy as np
    import tensorflow as tf

    python = ".".join(map(str, sys.version_info[:2]))
    return (
        f"Python {python}, TensorFlow {tf.__version__}, Keras {keras.__version__}, "
        f"NumPy {np.__version__}"
    )


if __name__ == "__main__":
    main()
