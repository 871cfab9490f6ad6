"""The page of ``diffuzz matrix``: every pair of implementations as a heat map, and the pairs beside each other."""

from __future__ import annotations

from collections.abc import Mapping

from diffuzz.pages.document import Data, behind, document, ending, heading, section, table
from diffuzz.pages.figures import plain, real, short
from diffuzz.pages.markup import Child, Markup, element

_KIND = "diffuzz matrix: every pair of implementations of an operation"
# How a pair agrees: the colour and the sign of its cell, and what it means.
_HOW = {
    "to the bit": ("bits", "=", "every result is the same, to the bit"),
    "to rounding": ("rounding", "≈", "no more apart than rounding explains"),
    "by policy": ("policy", "≠", "apart, but each keeps its own bound: another choice of the arithmetic"),
    "not at all": ("outside", "×", "apart, and at least one is outside its bound"),
}
# Shares of what rounding explains from which a cell is darker.
_SHADES = (0.01, 0.1)
_UNKNOWN = ("unknown", "?", "not known")


def page(data: Data) -> str:
    """The text of the file, of the object that ``matrix --json`` prints."""
    cells = {tuple(map(str, cell["kernels"])): cell for cell in data["cells"]}
    names = list(dict.fromkeys(name for pair in cells for name in pair))
    outside = sum(cell["agreement"] == "not at all" for cell in data["cells"])
    answer = f"{len(names)} implementations of {data['target']}: "
    answer += (
        f"{outside} of {len(cells)} pairs do not agree"
        if outside
        else f"all {len(cells)} pairs agree or keep their bounds"
    )
    facts: list[tuple[str, Child]] = [
        ("operation", str(data["target"])),
        ("parameters", ", ".join(f"{name}={_plain(value)}" for name, value in data["params"].items())),
        ("measure", str(data["cells"][0]["measure"]) if data["cells"] else "–"),
    ]
    if data["missing"]:
        facts.append(("not here", "; ".join(map(str, data["missing"]))))
    if data["interrupted"]:
        facts.append(("interrupted", "some pairs are missing"))
    return document(
        f"diffuzz matrix: {answer}",
        heading(_KIND, answer, "every pair keeps its bounds" if not outside else f"{outside} pairs outside",
                "good" if not outside else "bad", facts),
        section("Who agrees with whom", _heat(names, cells, str(data["target"]))),
        section("Every pair", _pairs(data["cells"])),
        ending(data["command"], "diffuzz-matrix.json", data),
    )  # fmt: skip


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _heat(names: list[str], cells: Mapping[tuple[str, ...], Data], target: str) -> Markup:
    """A square: the colour of a cell says how two agree, its number how far apart they are."""
    both = {pair: cell for (a, b), cell in cells.items() for pair in ((a, b), (b, a))}
    head = [element("td"), *(element("th", element("span", name), scope="col") for name in names)]
    rows = [
        element(
            "tr", element("th", name, scope="row"), [_cell(both.get((name, other)), name == other) for other in names]
        )
        for name in names
    ]
    grid = element("table", element("thead", element("tr", head)), element("tbody", rows), class_="heat")
    seen = {cell["agreement"] for cell in cells.values()}
    legend = [
        element("li", element("i", sign, class_=kind, aria_hidden="true"), element("b", how), f": {meaning}")
        for how, (kind, sign, meaning) in _HOW.items() if how in seen
    ]  # fmt: skip
    said = (
        "How far apart two implementations are at most, as far as was seen; up to 1 it is what rounding explains. Each "
        "pair is there twice."
    )
    return element(
        "figure", element("figcaption", said),
        element("div", grid, class_="box", tabindex=0, role="region", aria_label=f"Pairs of {target}"),
        element("ul", legend, class_="signs"),
    )  # fmt: skip


def _cell(cell: Data | None, own: bool) -> Markup:
    if cell is None:
        return element("td", class_="own" if own else None)
    kind, sign, meaning = _HOW.get(str(cell["agreement"]), _UNKNOWN)
    value = real(cell["value"])
    if kind == "rounding":
        kind += f" r{sum(value >= edge for edge in _SHADES)}"
    shown = "0" if value == 0 else short(value, 2)
    a, b = cell["kernels"]
    return element("td", element("i", sign, aria_hidden="true"), " ", shown, class_=kind,
                   title=f"{a} and {b}: {short(value, 4)}, {meaning}")  # fmt: skip


def _pairs(cells: list[Data]) -> Markup:
    rows = []
    for cell in sorted(cells, key=lambda cell: -real(cell["value"])):
        kind, _, _ = _HOW.get(str(cell["agreement"]), _UNKNOWN)
        detail = cell["detail"] or {}
        said = cell["failure"] or ", ".join(
            f"{name} {plain(number, 6)}" for name, number in detail.items() if name in ("A", "B", "exact", "rounding")
        )
        rows.append(
            (" and ".join(map(str, cell["kernels"])), plain(cell["value"], 4),
             element("span", str(cell["agreement"]), class_=f"how {kind}"), said, str(cell["witness"] or ""),
             f"{cell['evaluations']:,}")
        )  # fmt: skip
    heads = ("pair", "value", "they agree", "at the worst element", "witness", "evaluations")
    return behind("Numbers: every pair", table("Every pair", heads, rows)) if len(rows) > 12 else table(
        "Every pair", heads, rows)  # fmt: skip
