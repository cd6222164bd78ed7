"""From the scores of a file to its genres."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_TAGS = {
    "Alternative": "msd:alternative",
    "Alternative Rock": "msd:alternative rock",
    "Ambient": "ambient|msd:ambient|mtt:ambient",
    "Avant-Garde": "avant-garde",
    "Baroque": "baroque",
    "Blues": "blues|msd:blues",
    "Children's": "children's",
    "Classical": "classical|classic|mtt:classical|mtt:classic",
    "Classic Rock": "msd:classic rock",
    "Comedy/Spoken": "comedy/spoken",
    "Country": "country|msd:country|mtt:country",
    "Dance": "dance|msd:dance|mtt:dance",
    "Disco": "disco",
    "Easy Listening": "easy listening|msd:easy listening",
    "Electro": "electro|msd:electro",
    "Electronic": "electronic|msd:electronic|msd:electronica|mtt:electronic",
    "Folk": "folk|msd:folk",
    "Funk": "funk|msd:funk",
    "Hard Rock": "msd:hard rock",
    "Heavy Metal": "heavy metal|msd:heavy metal",
    "Hip Hop": "hip hop|rap|msd:hip-hop",
    "Holiday": "holiday",
    "House": "house|msd:house",
    "Indie": "msd:indie",
    "Indie Pop": "msd:indie pop",
    "Indie Rock": "msd:indie rock",
    "Jazz": "jazz|jazzy|msd:jazz",
    "Latin": "latin",
    "Medieval": "medieval",
    "Metal": "metal|msd:metal|mtt:metal",
    "New Age": "new age|mtt:new age",
    "Opera": "opera|mtt:opera",
    "Pop": "pop|msd:pop|mtt:pop",
    "Pop/Rock": "pop/rock",
    "Progressive Rock": "msd:progressive rock",
    "Punk": "punk|msd:punk",
    "R&B": "r&b|msd:rnb",
    "Reggae": "reggae",
    "Religious": "religious",
    "Rock": "rock|msd:rock|mtt:rock",
    "Soul": "msd:soul",
    "Soundtrack": "stage & screen",
    "Techno": "techno|mtt:techno",
    "Trance": "trance",
    "Vocal": "vocal",
    "World": "world|international",
}
GENRE_TAGS = {tag: name for name, tags in _TAGS.items() for tag in tags.split("|")}
"""Tags of the starter and of MagnaTagATune that are genres, and the genre's name."""

_BACKGROUND = "_background"  # what is none of the genres


def names(
    labels: Iterable[str], *, is_tagger: bool, chosen: str = ""
) -> dict[str, str]:
    """Returns the labels that are genres, each with the name of the genre.

    All labels of a classifier but `_background` are genres; of a tagger those in
    `GENRE_TAGS`.

    Args:
      labels: of the model.
      is_tagger: whether they are tags.
      chosen: labels instead of these, such as `rock,msd:punk=Punk`: separated by
        commas, each with the name to write if that differs.

    Raises:
      ValueError: if a chosen label is none of the model's, or none is a genre.
    """
    labels = list(labels)
    if chosen:
        pairs = [part.strip().rpartition("=") for part in chosen.split(",")]
        found = {(label or name).strip(): name.strip() for label, _, name in pairs}
        unknown = [label for label in found if label not in labels]
        if unknown or not all(found.values()):
            known = f"{', '.join(labels[:8])}{', ...' * (len(labels) > 8)}"
            raise ValueError(
                f"{', '.join(map(repr, unknown)) or repr(chosen)}: not a label of the "
                f"model; it has {known}. Give labels as rock,msd:punk=Punk"
            )
        return found
    if not is_tagger:
        return {label: label for label in labels if label != _BACKGROUND}
    found = {label: GENRE_TAGS[label] for label in labels if label in GENRE_TAGS}
    if not found:
        raise ValueError("none of the tagger's tags is known as a genre; name some")
    return found


def are_tags(labels: Iterable[str], rows: Iterable[Iterable[float]]) -> bool:
    """Whether scores are of a tagger: those of a classifier sum to 1 at most."""
    is_of_teacher = any(label.startswith(("msd:", "mtt:")) for label in labels)
    return is_of_teacher or any(sum(row) > 1.01 for row in rows)


def choose(
    scores: Mapping[str, float],
    genre_names: Mapping[str, str],
    *,
    min_score: float,
    max_genres: int,
) -> tuple[str, ...]:
    """Returns the genres with the highest scores, the best first.

    A genre's score is the highest of its labels. If `_background` has the highest
    score of all, there is none.

    Args:
      scores: of the labels, each from 0 to 1; others count as 0.
      genre_names: genre of each label that is one, as `names` returns.
      min_score: least score of a genre.
      max_genres: how many genres at most.
    """
    best: dict[str, float] = {}
    for label, genre in genre_names.items():
        best[genre] = max(best.get(genre, 0.0), scores.get(label, 0.0))
    if scores.get(_BACKGROUND, 0.0) > max(best.values(), default=0.0):
        return ()
    order = sorted(best, key=lambda genre: -best[genre])  # Equal scores: labels' order.
    kept = [genre for genre in order if best[genre] >= max(min_score, 1e-9)]
    return tuple(kept[:max_genres])
