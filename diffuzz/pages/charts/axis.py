"""The axis of layers that pictures share: a place for each layer, and for what comes before and after them."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from diffuzz.pages.markup import Markup, element

# Steps between numbers that are written: the first that leaves at most this many of them.
_STEPS, _MOST = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000), 7
# No number is written in the last part of an axis, which the name of its end takes.
_END = 0.75


@attrs.frozen
class Layers:
    """The places of an axis, by name: a layer's is its number."""

    names: tuple[str, ...]

    def centre(self, place: int) -> float:
        """Where a place is, from 0 to 1."""
        return (place + 0.5) / len(self.names)

    def written(self, name: str = "layer") -> Markup:
        """The axis: the numbers of some layers, and the name of the last place."""
        count = len(self.names)
        step = next(step for step in _STEPS if count / step <= _MOST or step == _STEPS[-1])
        last = self.names[-1]
        end = _END if not last.isdigit() else 1.0
        places = [(place, text) for place, text in enumerate(self.names)
                  if text.isdigit() and int(text) % step == 0 and self.centre(place) < end]  # fmt: skip
        spans = [element("span", text, style=f"left:{100 * self.centre(place):.2f}%") for place, text in places]
        if not last.isdigit():
            spans.append(element("span", last, class_="last", style="left:100%"))
        return element("div", element("span", name, class_="name"), spans, class_="axis", aria_hidden="true")


def of(names: Sequence[str]) -> Layers:
    """The axis of places in their order."""
    return Layers(tuple(names))
