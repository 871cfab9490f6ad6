"""The page of several results: a table with filters, and each result below it.

The filters are rules of style, so the page has no script; a browser that does not know such rules shows everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from diffuzz.pages import found as one
from diffuzz.pages.document import Data, document, facts_list, footer, heading, section
from diffuzz.pages.figures import plain
from diffuzz.pages.markup import Child, Markup, element, joined

_KIND = "diffuzz report: what was found"
# What a filter asks for, and what it is called.
_FILTERS = (("target", "target"), ("verdict", "verdict"), ("kind", "kind"))
# Results that are drawn; the table has all.
MOST = 200
# Letters of parameters in the table.
_LONGEST = 80
_TONES = {"error": "bad", "warning": "odd", "note": "odd", "none": "good"}


def page(data: Data) -> str:
    """The text of the file. ``results`` of ``data`` are objects with ``level``, ``message``, ``subject``, ``target``,
    ``verdict``, ``kind``, ``status`` and
    ``place`` of each, and ``found``: the result as diffuzz.pages.found has it, or None.
    """
    results = data["results"]
    problems = data["problems"]
    answer = f"{len(results)} results, {problems or 'no'} problem{'' if problems == 1 else 's'}"
    choices = {name: list(dict.fromkeys(str(each[name]) for each in results)) for name, _ in _FILTERS}
    filters = [(name, label) for name, label in _FILTERS if len(choices[name]) > 1]
    verdicts = ", ".join(f"{count} {name}" for name, count in _counted(results, "verdict"))
    return document(
        f"diffuzz: {answer}",
        heading(_KIND, answer, "nothing to do" if not problems else f"{problems} to look at",
                "bad" if problems else "good", [("verdicts", verdicts)]),
        section("All results", _choosers(filters, choices) if filters else None, _table(results, choices)),
        _drawn(results, choices),
        footer("diffuzz-report.json", data),
        rules=_rules(filters, choices),
    )  # fmt: skip


def _counted(results: Iterable[Data], name: str) -> list[tuple[str, int]]:
    found: dict[str, int] = {}
    for each in results:
        found[str(each[name])] = found.get(str(each[name]), 0) + 1
    return list(found.items())


def _choosers(filters: Iterable[tuple[str, str]], choices: Mapping[str, list[str]]) -> Markup:
    """A choice for each filter, of which the first is all."""
    return element(
        "p",
        [
            element(
                "label", f"{label} ",
                element("select", element("option", "all"), [element("option", text) for text in choices[name]],
                        id=f"by-{name}", autocomplete="off"),
            )
            for name, label in filters
        ],
        class_="filters",
    )  # fmt: skip


def _rules(filters: Iterable[tuple[str, str]], choices: Mapping[str, list[str]]) -> Markup:
    """Rules that hide what was not chosen. Nothing in them is text of others."""
    return Markup("".join(
        f"body:has(#by-{name} option:nth-child({place + 2}):checked) .result:not(.{name}-{place}) {{display:none}}\n"
        for name, _ in filters for place in range(len(choices[name]))
    ))  # fmt: skip


def _classes(each: Data, choices: Mapping[str, list[str]]) -> str:
    return " ".join(("result", *(f"{name}-{choices[name].index(str(each[name]))}" for name, _ in _FILTERS)))


def _table(results: list[Data], choices: Mapping[str, list[str]]) -> Markup:
    heads = ("what", "target", "verdict", "value", "threshold", "kind", "now")
    rows = [_row(number, each, choices, heads) for number, each in enumerate(results, 1)]
    numeric = {"value", "threshold"}
    head = element("tr", [element("th", name, scope="col", class_="n" if name in numeric else None) for name in heads])
    grid = element("table", element("thead", head), element("tbody", rows), class_="stack")
    box = element("div", grid, class_="box", tabindex=0, role="region", aria_label="All results")
    return element("div", box, element("p", f" of {len(results)} shown", class_="count small soft"), class_="counted")


def _row(number: int, each: Data, choices: Mapping[str, list[str]], heads: tuple[str, ...]) -> Markup:
    result = each["found"]
    numbers = (plain(result["value"], 4), plain(result["threshold"], 4)) if result else ("", "")
    title = one.answer_of(result) if result else each["subject"]
    name: Child = [
        element("a", title, href=f"#r{number}") if number <= MOST else title,
        element("div", _which(each), class_="small soft", title=each["place"]),
    ]
    tone = one.verdict_of(result)[1] if result else _TONES.get(each["level"], "odd")
    cells: tuple[Child, ...] = (
        each["target"], element("span", each["verdict"], class_=tone), *numbers, each["kind"],
        element("span", each["status"], class_=_TONES.get(each["level"], "odd")),
    )  # fmt: skip
    drawn = [
        element("td", cell, class_="n" if head in ("value", "threshold") else None, data_label=head)
        for head, cell in zip(heads[1:], cells, strict=True)
    ]
    return element("tr", element("th", name, scope="row"), drawn, class_=_classes(each, choices))


def _which(each: Data) -> str:
    """What tells a result from others of its kind."""
    name = str(each["place"]).replace("\\", "/").rpartition("/")[2].removesuffix(".json")
    params = str((each["found"] or {}).get("parameters") or "")
    params = params if len(params) <= _LONGEST else params[:_LONGEST] + " …"
    return ": ".join(filter(None, (name, params)))


def _drawn(results: list[Data], choices: Mapping[str, list[str]]) -> Markup:
    """Each result, to be opened; a link to it opens it, too."""
    shown = []
    for number, each in enumerate(results[:MOST], 1):
        found: Any = each["found"]
        if not found:
            shown.append(
                element("div", element("h3", each["subject"]), element("p", each["message"]),
                        id=f"r{number}", class_=f"card {_TONES.get(each['level'], 'odd')} {_classes(each, choices)}")
            )  # fmt: skip
            continue
        words, tone = one.verdict_of(found)
        top = element("summary", element("h3", one.answer_of(found)), element("span", words, class_=f"verdict {tone}"))
        rest = element("div", facts_list(one.facts(found)), one.parts(found, level=4), id=f"r{number}")
        shown.append(element("details", top, rest, class_=f"entry {_classes(each, choices)}"))
    return section("One by one", joined(shown)) if shown else joined()
