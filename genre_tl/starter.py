"""The starter: the tagger that ships with the package, as an export."""

from __future__ import annotations

import pathlib

import genre_tl


def folder() -> pathlib.Path:
    """Returns the folder of the starter's versions.

    In a clone it is `saved_models/starter`; a wheel installs it with the package.

    Raises:
      FileNotFoundError: if there is no starter.
    """
    package = pathlib.Path(genre_tl.__file__).parent
    clone = package.parent / "saved_models" / "starter"
    for place in (package / "starter_model", clone):
        if any(place.glob("[0-9]*/saved_model.pb")):
            return place
    raise FileNotFoundError(
        f"{clone}: there is no starter; make it with `make starter`, which needs its "
        "training data, or use a model of your own"
    )
