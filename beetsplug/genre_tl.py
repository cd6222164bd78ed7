"""A beets plugin: sets genres that a model of genre_tl predicts.

`beet genre_tl [QUERY]` sets them for the tracks and albums of a library, and an import
does. docs/organize.md describes the configuration.
"""

from __future__ import annotations

import collections
import functools
import logging
import optparse
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from beets import library, plugins, ui

from genre_tl import starter
from genre_tl.library import genres

if TYPE_CHECKING:
    from genre_tl.serving import predictor

# Since version 2.7, beets keeps several genres.
_HAS_LISTS = "genres" in library.Item._fields
_FIELD = "genres" if _HAS_LISTS else "genre"

Genres = Sequence[str]


class GenreTlPlugin(plugins.BeetsPlugin):
    """Sets the genres of tracks, and from them those of their albums."""

    def __init__(self) -> None:
        super().__init__()
        self.config.add(
            {
                "auto": True,
                "force": False,
                "pretend": False,
                "model": "",
                "count": 1,
                "min_score": 0.5,
                "genres": "",
                "separator": ", ",
            }
        )
        if self.config["auto"].get(bool):
            self.import_stages = [self._imported]
            self.register_listener("import_task_files", self._write_as_is)
        self._imported_ids: set[int] = set()

    def commands(self) -> list[ui.Subcommand]:
        """Returns `beet genre_tl`."""
        command = ui.Subcommand("genre_tl", help="set genres by a model of genre_tl")
        for letter, name, text in (
            ("-f", "force", "replace genres that are there"),
            ("-p", "pretend", "show the genres, but change nothing"),
        ):
            command.parser.add_option(
                letter, f"--{name}", action="store_true", help=text
            )
        command.func = self._run
        return [command]

    def _run(
        self, lib: library.Library, options: optparse.Values, args: list[str]
    ) -> None:
        self.config.set_args(vars(options))
        self._set(list(lib.items(args)), write=ui.should_write())

    def _imported(self, session: Any, task: Any) -> None:
        # The importer copies and writes the files after its stages.
        self._imported_ids |= self._set(task.imported_items(), write=False)

    def _write_as_is(self, session: Any, task: Any) -> None:
        """Writes genres into files whose other tags an import leaves as they are."""
        if ui.should_write() and not task.apply:
            for item in task.imported_items():
                if item.id in self._imported_ids:
                    item.try_write()

    def _set(self, items: Sequence[library.Item], write: bool) -> set[int]:
        """Sets genres of tracks and their albums; returns the tracks that got some."""
        chosen = [item for item in items if self._is_wanted(item)]
        is_shown_only = self.config["pretend"].get(bool)
        done, albums = set(), {}
        for item, found in self._predicted(chosen):
            self._log.info("{}: {}", item, "; ".join(found) or "no genre")
            if found and not is_shown_only:
                self._store(item, found)
                item.try_sync(write=write, move=False)
                done.add(item.id)
                if album := item.get_album():
                    albums[album.id] = album
        for album in albums.values():
            self._set_album(album)
        return done

    def _set_album(self, album: library.Album) -> None:
        """Gives an album the genres that most of its tracks have."""
        if self._is_wanted(album):
            counts = collections.Counter(
                genre for item in album.items() for genre in self._present(item)
            )
            count = self.config["count"].get(int)
            self._store(album, [genre for genre, _ in counts.most_common(count)])
            album.store(inherit=False)

    def _predicted(
        self, items: Sequence[library.Item]
    ) -> Iterator[tuple[library.Item, Genres]]:
        """Yields tracks with their genres; warns of files that cannot be read."""
        if not items:
            return
        model, names = self._model
        from genre_tl.serving import predictor

        paths = [os.fsdecode(item.path) for item in items]
        for item, result in zip(items, predictor.predict(model, paths), strict=True):
            if result.error:
                self._log.warning("{}: {}", result.path, result.error)
            elif (
                result.scores is not None
                and result.has_sound
                and not result.is_unfamiliar
            ):
                scores = zip(model.labels, map(float, result.scores), strict=True)
                yield (
                    item,
                    genres.choose(
                        dict(scores),
                        names,
                        min_score=self.config["min_score"].get(float),
                        max_genres=self.config["count"].get(int),
                    ),
                )
            else:
                yield item, ()

    @functools.cached_property
    def _model(self) -> tuple[predictor.Predictor, dict[str, str]]:
        """The model, loaded when it is first needed, and its labels that are genres."""
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        # Else TensorFlow adds a handler, which repeats all lines of beets.
        logging.root.addHandler(logging.NullHandler())
        from genre_tl.serving import predictor

        chosen = self.config["genres"].as_str()
        try:
            folder = self.config["model"].as_str()
            path = os.path.expanduser(folder) if folder else starter.folder()
            model = predictor.Predictor(path)
            kinds = {"is_tagger": model.is_tagger, "chosen": chosen}
            return model, genres.names(model.labels, **kinds)
        except (OSError, ValueError) as error:
            raise ui.UserError(f"genre_tl: {error}") from error

    def _is_wanted(self, entry: library.LibModel) -> bool:
        return self.config["force"].get(bool) or not self._present(entry)

    def _present(self, entry: library.LibModel) -> list[str]:
        """Returns the genres of a track or an album in the library."""
        is_item = isinstance(entry, library.Item)
        value = entry.get(_FIELD, **({"with_album": False} if is_item else {})) or []
        if isinstance(value, str):
            value = value.split(self.config["separator"].as_str())
        return [genre for genre in value if genre.strip()]

    def _store(self, entry: library.LibModel, found: Genres) -> None:
        separator = self.config["separator"].as_str()
        entry[_FIELD] = list(found) if _HAS_LISTS else separator.join(found)
