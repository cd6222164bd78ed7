"""What is known about an exported model, for people who were not there.

A card is facts fit for JSON. It lies in an export as JSON and as Markdown.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from genre_tl import files

PATH = pathlib.PurePath("assets.extra", "model_card.json")
"""Where the card lies in an export; the same as Markdown beside it."""

_USES = {
    "finetune": "Names the genre of a music recording: one score a genre; the scores "
    "of a clip add up to 1.",
    "pretrain": "Tags a music recording: an independent score from 0 to 1 a tag. Its "
    "embedding describes a recording to other programs.",
}
_LICENCES = {
    "magnatagatune": "MagnaTagATune: CC BY-NC-SA 3.0 (annotations and clips of "
    "Magnatune): attribution, no commercial use, share alike.",
    "gtzan": "GTZAN: no licence was ever given for its excerpts of published "
    "recordings; use in research is customary.",
}
_UNKNOWN_LICENCE = "That of the collection, which this program cannot know."
_SPREAD = (
    "An interval is Wilson's at 95 %: what chance alone explains with so many clips."
)
_LIMITS = (
    "Scores are not calibrated probabilities, and none says that a recording is "
    "something other than music.",
    "It knows the genres or tags of its training collection as that collection "
    "understands them, and no others.",
    "It hears what lies below 8 kHz, mixed down to one channel.",
    "A long recording gets the mean of its segments: changes within it average out.",
    "Figures on random folds flatter where recordings of one artist or album lie on "
    "both sides of the division.",
)


def from_run(record: Mapping[str, Any], name: str, fingerprint: str) -> dict[str, Any]:
    """Returns what is known about the model of a run.

    Args:
      record: what `runs.read_run` returns.
      name: what the export is called.
      fingerprint: of the model file.
    """
    start = record.get("start") or {}
    parts = [record["data"], start["data"]] if start else [record["data"]]
    training = {
        "kind": record["kind"],
        "start": _data(start["data"]) | {"metrics": start["metrics"]} if start else "",
        "command": _command(record["command"]),
        "configuration": record["preset"],
    }
    training |= {
        name: record[name]
        for name in ("seed", "epochs", "best_epoch", "started", "revision")
        if name in record
    }
    return {
        "name": name,
        "intended_use": _USES[record["kind"]],
        "limits": list(_LIMITS),
        "data": _data(record["data"]),
        "licence_of_the_data": [
            _LICENCES.get(part["name"], _UNKNOWN_LICENCE) for part in parts
        ],
        "metrics": record["metrics"],
        "spread": _SPREAD if "_interval" in json.dumps(record["metrics"]) else "",
        "training": training,
        "versions": record["versions"],
        "model_sha256": fingerprint,
    }


def _command(command: str) -> str:
    """Returns a command line without the folders of the machine it was given on."""
    try:
        program, *args = shlex.split(command)
    except ValueError:  # Of a run from when nothing was quoted.
        program, *args = command.split()
    tool = re.search(r"(?:^|/)tools/(\w+)\.py$", program)
    begin = f"python -m tools.{tool[1]}" if tool else _without_folders(program)
    return " ".join([begin, *(shlex.quote(_without_folders(arg)) for arg in args)])


def _without_folders(argument: str) -> str:
    """Returns an argument or a flag; a path that leads out of the tree is its name."""
    value = re.sub(r"^(-[^=]*=)*", "", argument)
    path = pathlib.PurePath(value)
    leads_out = path.is_absolute() or ".." in path.parts
    flag = argument.removesuffix(value)
    return flag + (path.name or value if leads_out else value)


def _data(facts: Mapping[str, Any]) -> dict[str, Any]:
    # The clips themselves are listed in the run folder; here their numbers do.
    return {
        name: len(value) if isinstance(value, list) else value
        for name, value in facts.items()
    }


def write(folder: pathlib.Path, card: Mapping[str, Any]) -> None:
    """Puts a card into an export that is not yet published.

    Args:
      folder: the SavedModel.
      card: facts fit for JSON.
    """
    path = folder / PATH
    path.parent.mkdir(exist_ok=True)
    text = json.dumps(card, indent=1, ensure_ascii=False)
    files.write_text(path, f"{text}\n")
    files.write_text(path.with_suffix(".md"), _markdown(card))


def read(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the card of an exported version; empty if it has none.

    Raises:
      ValueError: if it is damaged.
    """
    path = pathlib.Path(folder) / PATH
    try:
        return json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path}: damaged: {error}") from error


def _markdown(card: Mapping[str, Any]) -> str:
    lines = [f"# {card.get('name', 'Model card')}"]
    for name, value in card.items():
        if name != "name" and value not in (None, "", [], {}):
            lines += ["", f"## {_title(name)}", "", *_paragraphs(value)]
    return "\n".join([*lines, ""])


def _paragraphs(value: Any, indent: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            below = isinstance(part, Mapping)
            text = "" if below else " " + "; ".join(_paragraphs(part))
            yield f"{indent}- {_title(name)}:{text}"
            if below:
                yield from _paragraphs(part, f"{indent}  ")
    elif isinstance(value, (list, tuple)) and indent == "" and _is_prose(value):
        yield from (f"- {each}" for each in value)
    elif isinstance(value, (list, tuple)):
        yield ", ".join(text for each in value for text in _paragraphs(each))
    else:
        yield f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_prose(values: Sequence[Any]) -> bool:
    return any(isinstance(value, str) and " " in value for value in values)


def _title(name: str) -> str:
    return (name[:1].upper() + name[1:]).replace("_", " ")
