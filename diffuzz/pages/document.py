"""The frame of a page, and the parts that all pages are made of."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from diffuzz.pages.markup import Child, Markup, element, joined

# What the command prints with --json.
Data = Mapping[str, Any]


def document(title: str, *body: Child, rules: Markup | None = None) -> str:
    """The text of a whole file, with more ``rules`` of style, if any. Nothing in it may be fetched: the policy says so
    to the browser, too.
    """
    style = files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("title", title),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element(
            "meta", http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'; img-src data:",
        ),
        # Otherwise a browser asks the host of the page for an icon.
        element("link", rel="icon", href="data:,"),
        element("style", Markup(style), rules),
    )  # fmt: skip
    return f"<!doctype html>\n{element('html', head, element('body', *body), lang='en').text}\n"


def heading(kind: str, answer: str, verdict: str, tone: str, facts: Iterable[tuple[str, Child]]) -> Markup:
    """The top of a page: what it is about, the answer, the verdict in colour and in words, and what was looked at."""
    return element(
        "header",
        element("p", kind, class_="kind"),
        element("h1", answer),
        element("p", element("span", verdict, class_=f"verdict {tone}")),
        facts_list(facts),
    )


def sentence(text: str) -> str:
    """An answer with a capital, unless it begins with the name of a tap."""
    return text[:1].upper() + text[1:] if text.partition(" ")[0] in ("all", "both") else text


def facts_list(facts: Iterable[tuple[str, Child]]) -> Markup:
    """Names and what is to be said of them."""
    return element("dl", [(element("dt", name), element("dd", said)) for name, said in facts])


def section(title: str, *body: Child, level: int = 2) -> Markup:
    """A part of a page under its heading."""
    return element("section", element(f"h{level}", title), *body)


def table(label: str, headings: Sequence[str], rows: Iterable[Sequence[Child]], *, tall: bool = False) -> Markup:
    """A table that scrolls in a box of its own where the screen is narrower. The first cell of a row is its heading.

    Cells that are numbers, as text, are justified to the right; what is an element already is taken as it is.
    """
    lines = [list(row) for row in rows]
    numeric = [all(_is_number(line[place]) for line in lines) for place in range(len(headings))]

    def cell(place: int, said: Child) -> Markup:
        if isinstance(said, Markup) and said.text.startswith("<td"):
            return said
        return element("th" if place == 0 else "td", said, class_="n" if numeric[place] and place else None,
                       scope="row" if place == 0 else None)  # fmt: skip

    head = [element("th", name, scope="col", class_="n" if numeric[place] and place else None)
            for place, name in enumerate(headings)]  # fmt: skip
    body = [element("tr", [cell(place, said) for place, said in enumerate(line)]) for line in lines]
    grid = element("table", element("thead", element("tr", head)), element("tbody", body))
    return element("div", grid, class_="box tall" if tall else "box", tabindex=0, role="region", aria_label=label)


def _is_number(said: Child) -> bool:
    return isinstance(said, int) or (isinstance(said, str) and (not said or said[0] in "0123456789−–∞+"))


def behind(summary: str, *body: Child) -> Markup:
    """What is shown when it is asked for: the numbers behind a picture."""
    return element("details", element("summary", summary), *body)


def download(name: str, data: Data) -> Markup:
    """A link to the object that the page is made of; the page holds it, compressed."""
    text = json.dumps(data, allow_nan=False).encode()
    packed = base64.b64encode(gzip.compress(text, mtime=0)).decode()
    return element("a", f"{name}.gz", download=f"{name}.gz", href=f"data:application/gzip;base64,{packed}")


def kept(name: str, text: str) -> Markup:
    """A link to a file that the page holds."""
    packed = base64.b64encode(text.encode()).decode()
    return element("a", name, download=name, href=f"data:application/octet-stream;base64,{packed}")


def ending(command: str, name: str, data: Data) -> Markup:
    """How the page was made, where, and all its numbers."""
    return joined(section("Run it again", element("pre", command)), footer(name, data))


def footer(name: str, data: Data) -> Markup:
    """Where the numbers of a page were made, and all of them."""
    about = data["environment"]
    return element(
        "footer",
        element("p", "Made by diffuzz ", about["diffuzz"], ": ",
                "; ".join(f"{key} {value}" for key, value in about.items() if key != "diffuzz"), "."),
        element("p", "All numbers, unrounded, as --json prints them: ", download(name, data), class_="screen"),
    )  # fmt: skip
