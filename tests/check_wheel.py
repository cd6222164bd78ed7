"""Builds the wheel and tries it as a user would, away from the source tree.

The wheel goes into a fresh environment with the tested versions. Run it with the
interpreter of the development environment: `make wheel`.
"""

import configparser
import pathlib
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent

LIGHT = """
import sys, genre_tl, genre_tl.tools
heavy = {"tensorflow", "keras", "kymatio", "sklearn", "matplotlib"} & set(sys.modules)
assert not heavy, f"import genre_tl imports {heavy}"
assert "site-packages" in genre_tl.__file__, genre_tl.__file__
"""
MODULES = """
import importlib, pkgutil, genre_tl
for module in pkgutil.iter_modules(genre_tl.__path__, "genre_tl."):
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
    print(f"{wheel.name}: installs and imports; {len(commands)} commands answer --help")


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
    """Returns the commands the wheel promises."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = (n for n in names if n.endswith("/entry_points.txt"))
        table = configparser.ConfigParser()
        table.read_string(archive.read(entry_points).decode())
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"genre_tl"}, f"the wheel installs {sorted(top)}"
    packed = {name for name in names if name.endswith(".py")}
    source = {f"genre_tl/{p.name}" for p in (ROOT / "genre_tl").glob("*.py")}
    source |= {f"genre_tl/tools/{p.name}" for p in (ROOT / "tools").glob("*.py")}
    assert packed == source, f"in the wheel or the tree only: {packed ^ source}"
    return sorted(table["console_scripts"])


def _install(wheel: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    # pip comes from here, so the environment can be made without ensurepip.
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    _run(
        folder,
        *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet"),
        *("--constraint", ROOT / "constraints.txt", wheel),
    )
    return python


def _run(cwd: pathlib.Path, *command: object) -> str:
    """Returns what `command` prints; ends the program if it fails."""
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
