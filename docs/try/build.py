"""Builds the page that labels songs in the browser, for any static file server.

    npm ci --prefix docs/try
    python docs/try/build.py --model=saved_models/starter --output=site
    python -m http.server --directory site

`make try` does the first two. The folder gets the page, ONNX Runtime for browsers and
the model, all that the page needs.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import sys
from typing import Any

import onnx

from genre_tl import files, params
from genre_tl.library import genres
from genre_tl.serving import versions

HERE = pathlib.Path(__file__).parent
PAGE = "index.html", "style.css", "page.js", "recording.js", "worker.js"
RUNTIME = HERE / "node_modules" / "onnxruntime-web" / "dist"
RUNTIME_FILES = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"


def build(model: pathlib.Path, output: pathlib.Path) -> None:
    """Writes the page with a model into a folder, in the place of an older page.

    Raises:
      OSError: if there is no ONNX file or no ONNX Runtime, or the folder holds anything
        else than such a page.
    """
    version = versions.newest_whole(model)
    path = version / versions.ONNX
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; export with --format=onnx")
    if not RUNTIME.is_dir():
        raise FileNotFoundError(f"{RUNTIME} is missing; run npm ci --prefix {HERE}")
    if (output / "ort").is_dir() and (output / "page.js").is_file():
        shutil.rmtree(output)
    with files.whole_folder(output) as folder:
        for name in PAGE:
            shutil.copy(HERE / name, folder)
        (folder / "ort").mkdir()
        for name in RUNTIME_FILES:
            shutil.copy(RUNTIME / name, folder / "ort")
        (folder / "model").mkdir()
        _write_model(onnx.load(path), folder / "model")


def _write_model(model: onnx.ModelProto, folder: pathlib.Path) -> None:
    """Writes a model as one file, and its metadata as JSON."""
    # ONNX Runtime for browsers takes no inputs that have default values.
    for tensor in list(model.graph.initializer):
        if tensor.name in ("starts", "padding"):
            model.graph.initializer.remove(tensor)
    onnx.save(model, folder / versions.ONNX)
    facts = {entry.key: _value(entry.value) for entry in model.metadata_props}
    facts |= {"genres": _genres(facts), "unfamiliar": params.UNFAMILIAR}
    files.write_json(folder / "facts.json", facts)


def _genres(facts: dict[str, Any]) -> dict[str, str]:
    """Returns the labels that are genres, each with the genre's name."""
    is_tagger = facts.get("training", {}).get("kind") == "pretrain"
    try:
        return genres.names(facts["labels"], is_tagger=is_tagger)
    except ValueError:
        return {label: label for label in facts["labels"]}  # none is known


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    flags = parser.parse_args()
    try:
        build(flags.model, flags.output)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    size = sum(x.stat().st_size for x in flags.output.rglob("*") if x.is_file())
    print(f"written: {flags.output}, {size / 1e6:.0f} MB; to see it:")
    print(f"  python -m http.server --directory {flags.output}")


if __name__ == "__main__":
    main()
