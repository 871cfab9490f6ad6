"""The page of ``diffuzz claims``: what was published, what was found, and what is proven."""

from __future__ import annotations

import math

from diffuzz.pages import found
from diffuzz.pages.document import Data, document, ending, heading, section
from diffuzz.pages.figures import plain, real
from diffuzz.pages.markup import Child, Markup, element

_KIND = "diffuzz claims: published claims, reproduced, searched and judged"
_DIGITS = 5


def page(data: Data) -> str:
    """The text of the file, of the object that ``claims --json`` prints."""
    claims = data["claims"]
    counts: dict[str, int] = {}
    for one in claims:
        verdict = str(one["verdict"]).partition(":")[0]
        counts[verdict] = counts.get(verdict, 0) + 1
    answer = f"{len(claims)} published claims: " + ", ".join(f"{count} {name}" for name, count in counts.items())
    facts: list[tuple[str, Child]] = [("seed", str(data["seed"])), ("time", f"{data['budget_s']:g} s for each claim")]
    if model := data.get("model"):
        facts.append(("model", f"{model['path']} ({model['architecture']})"))
    if data["interrupted"]:
        facts.append(("interrupted", "some claims are missing"))
    return document(
        f"diffuzz claims: {answer}",
        heading(_KIND, answer, "interrupted" if data["interrupted"] else "all settled",
                "odd" if data["interrupted"] else "good", facts),
        section("Published", _table("Published claims", claims)),
        section("The same operations, asked otherwise", _table("Other questions", data["variants"]))
        if data["variants"] else None,
        ending(data["command"], "diffuzz-claims.json", data),
    )  # fmt: skip


def _table(label: str, rows: list[Data]) -> Markup:
    heads = ("claim", "published", "reproduced", "largest found", "proven bound", "verdict")
    head = [element("th", name, scope="col", class_="n" if name in ("largest found", "proven bound") else None)
            for name in heads]  # fmt: skip
    grid = element("table", element("thead", element("tr", head)), element("tbody", [_row(one, heads) for one in rows]),
                   class_="stack claims")  # fmt: skip
    return element("div", grid, class_="box", tabindex=0, role="region", aria_label=label)


def _row(one: Data, heads: tuple[str, ...]) -> Markup:
    again: list[Child] = [
        element("div", element("span", name, class_="soft"), " ", _figure(value))
        for name, value in one["reproduced"].items()
    ]
    verdict = str(one["verdict"])
    shown: list[Child] = [element("b", verdict, class_=found.TONES.get(verdict.partition(":")[0], "open"))]
    if one["witness"]:
        shown.append(element("div", element("code", str(one["witness"])), class_="small soft"))
    cells: tuple[tuple[Child, str | None], ...] = (
        (str(one["published"]), None),
        (again or "–", None),
        (_found(one), "n"),
        (plain(one["bound"], _DIGITS), "n"),
        (shown, None),
    )
    name: list[Child] = [element("span", str(one["id"]), class_="small soft"), " ", str(one["claim"])]
    return element(
        "tr",
        element("th", name, scope="row", title=None if one["measure"] is None else str(one["measure"])),
        [
            element("td", said, class_=kind, data_label=head)
            for (said, kind), head in zip(cells, heads[1:], strict=True)
        ],
    )


def _found(one: Data) -> list[Child]:
    """The value, and a bar for its share of the bound."""
    value, bound = real(one["found"]), real(one["bound"])
    said: list[Child] = [plain(one["found"], _DIGITS)]
    if math.isfinite(value) and math.isfinite(bound) and bound > 0:
        share = min(max(value / bound, 0.0), 1.0)
        said.append(element("div", element("i", style=f"width:{100 * share:.1f}%"), class_="bar share",
                            title=f"{100 * share:.4g} % of the bound", aria_hidden="true"))  # fmt: skip
    return said


def _figure(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) or value in ("inf", "-inf", "nan"):
        return plain(value, _DIGITS)
    return str(value)
