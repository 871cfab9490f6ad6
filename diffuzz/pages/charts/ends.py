"""Names at the ends of lines, moved apart where they would overlap."""

from __future__ import annotations

from collections.abc import Iterable

from diffuzz.pages.markup import Markup, element

# Names keep this distance, in rem.
_APART = 1.275


def names(found: Iterable[tuple[float, str, str]], height: float) -> list[Markup]:
    """The names beside a plot of this ``height`` in rem: of each its place, from 0 at the bottom to 1, its text, and a
    kind of style.css.
    """
    ends = sorted(((1 - place, text, kind) for place, text, kind in found), key=lambda end: end[0])
    apart = _APART / height
    places = [place for place, _, _ in ends]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + apart)
    # The lowest stays inside, and those above it make room.
    for i in range(len(places) - 1, -1, -1):
        places[i] = min(places[i], 1 - apart * (len(places) - 1 - i))
    return [element("span", text, class_=f"end {kind}", style=f"top:{100 * place:.2f}%")
            for place, (_, text, kind) in zip(places, ends, strict=True)]  # fmt: skip
