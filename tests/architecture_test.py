"""Rules of structure: import order, sizes, packaging, requirements."""

import ast
import configparser
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from packaging import requirements, utils

import genre_tl

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Packages and top modules in the order of the docstring of `genre_tl`: each may import
# those before it, directly or indirectly.
ORDER = re.findall(r"^  (\w+)  +\w", genre_tl.__doc__, re.MULTILINE)
# Modules of each package: each may import those before it.
INSIDE = {
    "data": "audio_files datasets joining tables genre_folders gtzan magnatagatune "
    "collection splits",
    "audio": "sound ffmpeg mp3 libsndfile tensorflow_io_decoder streaming decoding "
    "resampling wav_graph",
    "scattering": "wavelets planning operations layers",
    "features": "framing log_scattering augmentation columns feature_store "
    "shard_job extraction pipeline waveforms",
    "model": "gru networks transfer familiarity exported",
    "evaluation": "intervals metrics calibration text_chart plots",
    "training": "run_folder heads replicas fitting pretrain finetune fold_plan "
    "cross_validation confidence report",
    "serving": "model_card versions runtimes predictor dividing network_graph "
    "saved_model warmup checks export run_export tflite_and_keras onnx_builder "
    "onnx_scattering onnx_frontend onnx_network onnx_model onnx_weights onnx_export "
    "recording_analysis",
    "library": "genres tags delta journal changes playlists organizing neighbours "
    "music_map records database catalogue",
}
TOP = {"params", "storage", "files", "workers", "starter", "backend"}
WITHOUT_TENSORFLOW = ("params", "data", "evaluation", "library")
MODULE_LINES, FUNCTION_LINES, PARAMETERS = 400, 45, 6
HEAVY = {"tensorflow", "tensorflow_io", "keras", "kymatio", "sklearn", "matplotlib"}
TENSORFLOW = {"tensorflow", "tensorflow_io", "keras"}


def module_name(path: pathlib.Path) -> str:
    """Returns `audio.decoding` for `genre_tl/audio/decoding.py`."""
    return ".".join(path.relative_to(ROOT / "genre_tl").with_suffix("").parts)


LIBRARY = {
    module_name(path): path for path in sorted((ROOT / "genre_tl").rglob("*.py"))
}
MODULES = [name for name in LIBRARY if not name.endswith("__init__")]
TOOLS = {path.stem: path for path in sorted((ROOT / "tools").glob("*.py"))}
PROGRAMS = [name for name, path in TOOLS.items() if "\ndef cli(" in path.read_text()]
SOURCES = [*LIBRARY.values(), *sorted((ROOT / "tools").rglob("*.py"))]

Function = (ast.FunctionDef, ast.AsyncFunctionDef)


def name_of(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf8"))


def imports(node: ast.AST) -> Iterator[str]:
    """Yields the full name of everything imported anywhere inside `node`."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            package = "." * child.level + (child.module or "")
            yield from (f"{package}.{alias.name}" for alias in child.names)


def internal(name: str) -> str | None:
    """Returns `audio.decoding` for `genre_tl.audio.decoding.read`, else None."""
    parts = name.split(".")
    if parts[0] != "genre_tl":
        return None
    for end in (3, 2):
        if ".".join(parts[1:end]) in (*LIBRARY, *INSIDE):
            return ".".join(parts[1:end])
    return None


def imported(name: str) -> set[str]:
    """Returns the modules of genre_tl that a module imports directly."""
    names = {module for x in imports(tree(LIBRARY[name])) if (module := internal(x))}
    # A package stands for what its __init__ imports.
    packages = {x for x in names if x in INSIDE}
    return (names - packages) | {
        y for x in packages for y in imported(f"{x}.__init__") if y in MODULES
    }


def reached(name: str) -> set[str]:
    """Returns the modules that importing a module loads, and itself."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting += imported(each)
    return found


def place(name: str) -> tuple[int, int]:
    """Returns the position of a module: that of its package, and that inside."""
    package, _, module = name.partition(".")
    inside = INSIDE[package].split().index(module) if module else 0
    return ORDER.index(package), inside


def setup_cfg() -> configparser.ConfigParser:
    table = configparser.ConfigParser()
    table.read(ROOT / "setup.cfg", encoding="utf8")
    return table


def lines_of(text: str) -> list[str]:
    return [x for x in text.splitlines() if x.strip() and not x.strip().startswith("#")]


def required(without: set[str]) -> Iterator[requirements.Requirement]:
    """Yields the requirements of the package and of its extras but these."""
    table = setup_cfg()
    texts = [table["options"]["install_requires"]]
    extras = table["options.extras_require"]
    texts += [text for name, text in extras.items() if name not in without]
    for text in texts:
        yield from map(requirements.Requirement, lines_of(text))


def test_every_package_and_module_is_in_the_order():
    listed = {f"{package}.{x}" for package, xs in INSIDE.items() for x in xs.split()}
    assert listed | TOP == set(MODULES)
    assert set(ORDER) == {*TOP, *INSIDE}


@pytest.mark.parametrize("name", MODULES)
def test_direct_and_indirect_imports_follow_the_order(name):
    assert all(place(other) <= place(name) for other in reached(name))
    assert name not in imported(name)
    assert not [x for x in imports(tree(LIBRARY[name])) if x.startswith((".", "tools"))]


def test_tools_import_each_other_relatively_since_the_wheel_renames_their_package():
    paths = (ROOT / "tools").rglob("*.py")
    absolute = {name_of(x) for x in paths for y in imports(tree(x)) if y[:5] == "tools"}
    assert not absolute


@pytest.mark.parametrize(
    "name", [x for x in MODULES if x.split(".")[0] in WITHOUT_TENSORFLOW]
)
def test_packages_without_tensorflow_do_not_import_tensorflow_even_indirectly(name):
    for other in reached(name):
        used = {x.split(".")[0] for x in imports(tree(LIBRARY[other]))}
        assert not used & TENSORFLOW, other


def test_wavelets_is_the_only_module_of_the_library_that_imports_kymatio():
    users = {
        name_of(path)
        for path in SOURCES
        if any(x.split(".")[0] == "kymatio" for x in imports(tree(path)))
    }
    tools = {path for path in users if path.startswith("tools/")}
    assert users - tools == {"genre_tl/scattering/wavelets.py"}


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_the_library_reads_no_flags_and_prints_nothing(name):
    module = tree(LIBRARY[name])
    assert not {"absl.flags", "absl.app", "argparse"} & set(imports(module))
    calls = [node.func for node in ast.walk(module) if isinstance(node, ast.Call)]
    assert not [x for x in calls if isinstance(x, ast.Name) and x.id == "print"]


def num_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Returns the number of parameters of a function, without self or cls."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args]
    is_method = bool(named) and named[0].arg in ("self", "cls")
    return len(named) + len(arguments.kwonlyargs) - is_method


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_modules_functions_and_parameter_lists_are_short(path):
    assert len(path.read_text(encoding="utf8").splitlines()) <= MODULE_LINES
    functions = [node for node in ast.walk(tree(path)) if isinstance(node, Function)]
    lines = [(x.end_lineno - x.lineno + 1, x.name) for x in functions]
    assert not [x for x in lines if x[0] > FUNCTION_LINES]
    counts = [(num_parameters(x), x.name) for x in functions]
    assert not [x for x in counts if x[0] > PARAMETERS]


def loaded_by(module: str) -> set[str]:
    """Returns what is loaded once `module` is imported in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    assert not HEAVY & loaded_by("genre_tl")


def test_predictions_load_nothing_heavy_until_an_export_needs_it():
    assert not HEAVY & loaded_by("genre_tl.serving")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_tool_answers_help_without_loading_tensorflow(name):
    # That takes seconds; --help and a mistyped flag are answered at once.
    assert not TENSORFLOW & loaded_by(f"tools.{name}")


def test_every_tool_has_a_console_script_and_every_script_a_tool():
    scripts = lines_of(setup_cfg()["options.entry_points"]["console_scripts"])
    expected = {
        f"genre-tl-{name.replace('_', '-')} = genre_tl.tools.{name}:cli"
        for name in PROGRAMS
    }
    assert set(scripts) == expected


def test_every_package_folder_is_listed_in_setup_cfg():
    folders = {path.parent for path in SOURCES}
    names = {str(path.relative_to(ROOT)).replace("/", ".") for path in folders}
    tools = {f"genre_tl.{name}" for name in names if name.startswith("tools")}
    packages = {name for name in names if name.startswith("genre_tl")} | tools
    packages |= {"genre_tl.starter_model", "beetsplug"}  # no packages of the tree
    assert set(lines_of(setup_cfg()["options"]["packages"])) == packages


def test_the_changelog_begins_with_the_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf8")
    assert re.search(r"^## (\S+)", text, re.MULTILINE)[1] == genre_tl.__version__


@pytest.mark.parametrize("name, python", [("oldest", "3.10"), ("newest", "3.13")])
def test_every_requirement_is_pinned_within_its_range(name, python):
    text = (ROOT / "constraints" / f"{name}.txt").read_text()
    pins = dict(x.split("==") for x in lines_of(text))
    pins = {utils.canonicalize_name(name): version for name, version in pins.items()}
    environment = {"python_version": python, "platform_machine": "x86_64"}
    extras = {"oldest": {"litert"}, "newest": {"tfio"}}[name]  # only in the other set
    for requirement in required(without=extras):
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        version = pins[utils.canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement
