"""The tree of a sum: summands at the bottom, and each addition above what it adds, up to the sum at the top."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from diffuzz.fingerprinting.tree import Tree
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


def chart(label: str, tree: Tree, names: Sequence[str]) -> Markup:
    """The picture of a tree, of whose nodes ``names`` say in which precision each adds; ``label`` says what it shows to
    whoever cannot see it.
    """
    n, order, heights = tree.n, _order(tree), tree.heights
    places = {leaf: (place + 0.5) / n * SIZE for place, leaf in enumerate(order)}
    kinds = {name: _KINDS[min(place, len(_KINDS) - 1)] for place, name in enumerate(dict.fromkeys(names))}
    paths: dict[str, list[str]] = {kind: [] for kind in kinds.values()}
    scale = _scale(int(heights[-1]))
    for own, (node, name) in enumerate(zip(tree.nodes, names, strict=True), n):
        ends = [places[child] for child in node]
        places[own] = (min(ends) + max(ends)) / 2
        at = y(scale.at(heights[own]))
        drawn_up = [child for child in node if child >= n or n <= DENSE]
        pieces = "".join(f"M{places[child]:.2f} {y(scale.at(heights[child]))}V{at}" for child in drawn_up)
        paths[kinds[name]].append(f"{pieces}M{min(ends):.2f} {at}H{max(ends):.2f}")
    drawn = [element("path", class_=kind, d="".join(found)) for kind, found in paths.items() if found]
    numbered = [((place + 0.5) / n, str(leaf)) for place, leaf in enumerate(order)] if n <= _NUMBERED else []
    return element(
        "div", plot.plot(label, scale, _HEIGHT, drawn),
        plot.below("summand" if numbered else "summands", numbered),
        _legend(kinds) if len(kinds) > 1 else None,
    )  # fmt: skip


def _order(tree: Tree) -> list[int]:
    """The leaves from left to right, so that no lines cross: parts of a node by their first summand."""
    order: list[int] = []
    stack = [tree.root]
    while stack:
        one = stack.pop()
        if one < tree.n:
            order.append(one)
        else:
            stack += sorted(tree.children(one), key=lambda child: -int(tree.first[child]))
    return order


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
