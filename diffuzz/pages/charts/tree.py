"""The tree of a sum: summands at the bottom, and each addition above what it adds, up to the sum at the top."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from diffuzz.pages.charts import plot
from diffuzz.pages.charts.plot import SIZE, y
from diffuzz.pages.figures import Ruler
from diffuzz.pages.markup import Markup, element

_HEIGHT = 18.0  # rem
# Heights from which on the scale is logarithmic, and summands up to which each has its number below it.
_TALL, _NUMBERED = 24, 32
# Summands from which on they have no lines of their own, which would be an area.
DENSE = 256
# Kinds of style.css, one for each precision; those after the third look alike.
_KINDS = ("node", "node other", "node third")


def chart(label: str, n: int, nodes: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    """The picture of a tree: node n + k adds up ``nodes[k]``, leaves below ``n`` or earlier nodes, in the precision
    ``names[k]``; ``label`` says what it shows to whoever cannot see it.
    """
    order = _order(n, nodes)
    places = {leaf: (place + 0.5) / n * SIZE for place, leaf in enumerate(order)}
    heights = dict.fromkeys(range(n), 0)
    kinds = {name: _KINDS[min(place, len(_KINDS) - 1)] for place, name in enumerate(dict.fromkeys(names))}
    paths: dict[str, list[str]] = {kind: [] for kind in kinds.values()}
    tallest = _tallest(n, nodes)
    scale = _scale(tallest)
    for k, node in enumerate(nodes):
        own = n + k
        heights[own] = 1 + max(heights[child] for child in node)
        ends = [places[child] for child in node]
        places[own] = (min(ends) + max(ends)) / 2
        at = y(scale.at(heights[own]))
        drawn_up = [child for child in node if child >= n or n <= DENSE]
        pieces = "".join(f"M{places[child]:.2f} {y(scale.at(heights[child]))}V{at}" for child in drawn_up)
        paths[kinds[names[k]]].append(f"{pieces}M{min(ends):.2f} {at}H{max(ends):.2f}")
    drawn = [element("path", class_=kind, d="".join(found)) for kind, found in paths.items() if found]
    numbered = [((place + 0.5) / n, str(leaf)) for place, leaf in enumerate(order)] if n <= _NUMBERED else []
    return element(
        "div", plot.plot(label, scale, _HEIGHT, drawn),
        plot.below("summand" if numbered else "summands", numbered),
        _legend(kinds) if len(kinds) > 1 else None,
    )  # fmt: skip


def _order(n: int, nodes: Sequence[Sequence[int]]) -> list[int]:
    """The leaves from left to right, so that no lines cross: parts of a node by their first summand."""
    first = list(range(n))
    for node in nodes:
        first.append(min(first[child] for child in node))
    order: list[int] = []
    stack = [n + len(nodes) - 1]
    while stack:
        one = stack.pop()
        if one < n:
            order.append(one)
        else:
            stack += sorted(nodes[one - n], key=lambda child: -first[child])
    return order


def _tallest(n: int, nodes: Sequence[Sequence[int]]) -> int:
    heights = [0] * n
    for node in nodes:
        heights.append(1 + max(heights[child] for child in node))
    return heights[-1]


def _scale(tallest: int) -> Ruler:
    """Additions on the longest way up from a summand; logarithmic where these are many."""
    wide = tallest > _TALL
    top = math.log2(1 + tallest) if wide else float(max(tallest, 1))

    def of(height: float) -> float:
        return (math.log2(1 + height) if wide else height) / top

    marks = {0, tallest} | {mark for mark in (1, 4, 16, 64, 256, 1024, 4096, 16384) if wide and 2 * mark < tallest}
    marks |= set(range(0, tallest, max(1, tallest // 4))) if not wide else set()
    near = {mark for mark in marks if mark != tallest and of(tallest) - of(mark) < 0.06}
    return Ruler(tuple((of(mark), str(mark)) for mark in sorted(marks - near)), wide, of)


def _legend(kinds: Mapping[str, str]) -> Markup:
    def line(kind: str) -> Markup:
        return element("svg", element("path", class_=kind, d="M0 .5h1"), viewBox="0 0 1 1", aria_hidden="true")

    return element("ul", [element("li", line(kind), name) for name, kind in kinds.items()], class_="legend")
