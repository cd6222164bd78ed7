"""Builds the wheel, installs it into a new environment and runs its commands there.

The environment gets the tested set of its Python. `make wheel` runs this program with
the interpreter of the development environment.
"""

import configparser
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import wave
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent

STARTER = ROOT / "saved_models" / "starter"

PREDICT = """
import sys
sys.modules.update(tensorflow=None, keras=None)
from genre_tl.tools import predict
predict.cli()
"""
LIGHT = """
import sys, genre_tl, genre_tl.tools
heavy = {"tensorflow", "keras", "kymatio", "sklearn", "matplotlib"} & set(sys.modules)
assert not heavy, f"import genre_tl imports {heavy}"
assert "site-packages" in genre_tl.__file__, genre_tl.__file__
"""
MODULES = """
import importlib, pkgutil, genre_tl
for module in pkgutil.walk_packages(genre_tl.__path__, "genre_tl."):
    # --help imports the tools; ONNX exports need an extra.
    if not module.name.startswith(("genre_tl.tools.", "genre_tl.serving.onnx_")):
        importlib.import_module(module.name)
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        wheel = _build(folder)
        commands = _inspect(wheel)
        python = _install(wheel, folder / "venv")
        _run(folder, python, "-c", LIGHT)
        _run(folder, python, "-c", MODULES)
        for command in commands:
            text = _run(folder, python.parent / command, "--help")
            assert "Flags:" in text, f"{command} --help prints {text!r}"
        starter = _predict(folder, python)
    print(f"{wheel.name}: installs and imports; {len(commands)} commands answer --help")
    print(starter)


def _build(folder: pathlib.Path) -> pathlib.Path:
    # setuptools would pack whatever an earlier build left there.
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    _run(
        ROOT,
        *(sys.executable, "-m", "build", "--wheel", "--no-isolation"),
        *("--outdir", folder),
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def _inspect(wheel: pathlib.Path) -> list[str]:
    """Returns the console scripts of the wheel, once its files are checked."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = (n for n in names if n.endswith("/entry_points.txt"))
        table = configparser.ConfigParser()
        table.read_string(archive.read(entry_points).decode())
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"genre_tl", "beetsplug"}, f"the wheel installs {sorted(top)}"
    packed = {name for name in names if name.endswith(".py")}
    library = (ROOT / "genre_tl").rglob("*.py")
    source = {str(path.relative_to(ROOT)) for path in library}
    tools = (ROOT / "tools").rglob("*.py")
    source |= {f"genre_tl/{path.relative_to(ROOT)}" for path in tools}
    source |= {f"beetsplug/{path.name}" for path in (ROOT / "beetsplug").glob("*.py")}
    assert packed == source, f"in the wheel or the tree only: {packed ^ source}"
    packed = {name for name in names if "/starter_model/" in name}
    versions = (path for path in STARTER.glob("[0-9]*/**/*") if path.is_file())
    source = {
        f"genre_tl/starter_model/{path.relative_to(STARTER)}" for path in versions
    }
    assert packed == source, f"in the wheel or the starter only: {packed ^ source}"
    packed = {name for name in names if "/explore_page/" in name}
    page = (ROOT / "tools" / "explore_page").iterdir()
    source = {f"genre_tl/tools/explore_page/{path.name}" for path in page}
    assert packed == source, f"in the wheel or the page only: {packed ^ source}"
    return sorted(table["console_scripts"])


def _predict(folder: pathlib.Path, python: pathlib.Path) -> str:
    """Predicts a file with the starter, as a new user does; returns a line on it."""
    if not any(STARTER.glob("*/saved_model.pb")):
        return f"NOT CHECKED: predictions, since there is no starter in {STARTER}"
    with wave.open(str(folder / "song.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(random.Random(0).randbytes(320_000))
    text = _run(folder, python.parent / "genre-tl-predict", "song.wav")
    assert "using the starter" in text and "site-packages" in text, text
    assert re.search(r"^song\.wav  \S.* \d+ %, ", text, re.MULTILINE), text
    light = _run(folder, python, "-c", PREDICT, "song.wav")
    assert light == text, f"without TensorFlow: {light}"
    return text


def _install(wheel: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    # With this environment's pip, since Debian's Python may lack ensurepip.
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    constraints = ROOT / _run(ROOT, sys.executable, ".ci/tested_set").strip()
    pip = (sys.executable, "-m", "pip", "--python", python)
    _run(folder, *pip, "install", "--quiet", "--constraint", constraints, wheel)
    _run(folder, *pip, "check")
    return python


def _run(cwd: pathlib.Path, *command: object) -> str:
    """Returns the output of a command; exits if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        shown = " ".join(str(part) for part in command)
        sys.exit(f"{done.stdout}\nerror: exit code {done.returncode} from: {shown}")
    return done.stdout


if __name__ == "__main__":
    main()
