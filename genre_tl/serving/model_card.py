"""The model card of an export: its facts as JSON and as Markdown, and digests."""

from __future__ import annotations

import json
import pathlib
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from genre_tl import files

PATH = pathlib.PurePath("assets.extra", "model_card.json")
"""Place of the card in an export; the Markdown file lies beside it."""

SUMS = PATH.with_name("sha256sums.txt")
"""Place of the digests of all other files, the card too."""

_USES = {
    "finetune": "Predicts the genre of a music recording: one score per genre, summing "
    "to 1.",
    "pretrain": "Tags a music recording: an independent score from 0 to 1 per tag. Its "
    "embedding describes a recording to other programs.",
}
_LICENCES = {
    "magnatagatune": "MagnaTagATune: CC BY-NC-SA 3.0 (annotations and clips of "
    "Magnatune): attribution, no commercial use, share alike.",
    "gtzan": "GTZAN: excerpts of published recordings without a licence; use in "
    "research is customary.",
    "demo": "Demo corpus, synthesised by this program: no rights of others.",
}
_UNKNOWN_LICENCE = "That of the collection, unknown to this program."
_LIMITS = (
    "Scores of tags are not calibrated. Those of genres are, if this card names a "
    "calibration, for music like that of training; other recordings get scores too.",
    "It knows only the genres or tags of its training collection, as labelled there.",
    "It uses frequencies below 8 kHz, mixed down to one channel.",
    "A long recording gets the mean of its segments: changes within it average out.",
    "Metrics on random folds are optimistic where recordings of one artist or album "
    "are in both parts.",
)


def from_run(record: Mapping[str, Any], name: str, fingerprint: str) -> dict[str, Any]:
    """Returns the card of the export `name` of a run.

    `record` is from `run_folder.read_run`, `fingerprint` the SHA-256 of the model file.
    """
    start = record.get("start")
    names = [part["name"] for part in (record["data"], start) if part]
    facts = "seed epochs best_epoch started revision".split()
    return {
        "name": name,
        "intended_use": _USES[record["kind"]],
        "limits": list(_LIMITS),
        "data": _data(record["data"]),
        "licence_of_the_data": [_LICENCES.get(x, _UNKNOWN_LICENCE) for x in names],
        "metrics": record["metrics"],
        "training": {
            "kind": record["kind"],
            "start": start,
            "command": _command(record["command"]),
            "configuration": record["preset"],
            **{fact: record[fact] for fact in facts if fact in record},
        },
        "versions": record["versions"],
        "model_sha256": fingerprint,
    }


def _command(command: str) -> str:
    """Returns a command line without folders outside the working folder."""
    program, *args = shlex.split(command)
    tool = re.search(r"(?:^|/)tools/(\w+)\.py$", program)
    begin = f"python -m tools.{tool[1]}" if tool else _without_folders(program)
    return " ".join([begin, *(shlex.quote(_without_folders(arg)) for arg in args)])


def _without_folders(argument: str) -> str:
    """Returns an argument or flag with the name alone of a path that leads outside."""
    value = re.sub(r"^(-[^=]*=)*", "", argument)
    flag = argument.removesuffix(value)
    path = pathlib.PurePath(value)
    leads_out = path.is_absolute() or ".." in path.parts
    return flag + (path.name or value if leads_out else value)


def _data(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the number of clips in place of their list; names digests as such."""
    digests = {x: f"{x}_sha256" for x in ("labels", "audio")}
    counts = ((x, len(y) if isinstance(y, list) else y) for x, y in facts.items())
    return {digests.get(x, x): y for x, y in counts}


def write(folder: pathlib.Path, card: Mapping[str, Any]) -> None:
    """Writes a JSON-serializable card and the digests, last, into an export."""
    path = folder / PATH
    path.parent.mkdir(exist_ok=True)
    files.write_json(path, {**card, "sha256": files.digests(folder)})
    lines = [f"# {card.get('name', 'Model card')}"]
    for name, value in card.items():
        if name != "name" and value:
            lines += ["", f"## {_title(name)}", "", *_lines(value)]
    files.write_text(path.with_suffix(".md"), "\n".join([*lines, ""]))
    files.write_sums(folder, SUMS)


def check(folder: files.PathLike) -> None:
    """Raises `ValueError` if a file of an export is not as it was written."""
    try:
        files.check_sums(folder, SUMS)
    except ValueError as error:
        raise ValueError(f"{error}; export the run again") from error


def read(folder: files.PathLike) -> dict[str, Any]:
    """Returns the card of an exported version; empty if it has none."""
    path = pathlib.Path(folder) / PATH
    try:
        return json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path}: damaged: {error}") from error


def _lines(value: Any, indent: str = "") -> Iterator[str]:
    """Yields the lines of a value in Markdown: a nested list, or text."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            is_table = isinstance(part, list) and any(isinstance(x, list) for x in part)
            is_nested = isinstance(part, Mapping) or is_table
            yield f"{indent}- {_title(name)}:{'' if is_nested else ' ' + _text(part)}"
            if is_table:  # a confusion matrix: a line for each true genre
                yield from ("", *(f"{indent}      {_row(x)}" for x in part), "")
            elif is_nested:
                yield from _lines(part, f"{indent}  ")
    elif isinstance(value, list) and any(" " in str(part) for part in value):
        yield from (f"{indent}- {part}" for part in value)
    else:
        yield indent + _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _row(numbers: list[Any]) -> str:
    return " ".join(f"{number:5}" for number in numbers)


def _title(name: str) -> str:
    return (name[:1].upper() + name[1:]).replace("_", " ")
