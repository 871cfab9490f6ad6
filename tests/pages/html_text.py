"""Reading a page: its elements, that they are closed, and its text."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

_VOID = {"meta", "link", "wbr"}


class Page(HTMLParser):
    """The elements of a page with their attributes, its text and its style. Asserts that it is well-formed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.style = "", ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # Only shapes of a picture may end as they begin.
        assert "svg" in self._open
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            self.style += data
        else:
            self.text += data + "\n"

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    def nothing_is_fetched_or_run(self) -> None:
        """Assert that there is no script, no address and no file but what the page itself holds; and that the browser
        is told so.
        """
        assert {tag for tag, _ in self.elements} & {
            "script",
            "img",
            "iframe",
            "object",
            "embed",
            "form",
            "base",
        } == set()
        for tag, attributes in self.elements:
            assert not [name for name in attributes if name.startswith("on")], tag
            for name in ("href", "src", "srcset", "data", "action", "poster"):
                assert (attributes.get(name) or "data:").startswith(("data:", "#"))
            assert "url(" not in (attributes.get("style") or "")
        assert not re.search(r"url\(|@import|expression\(", self.style)
        assert "://" not in self.source
        policies = [each["content"] for each in self.of("meta") if each.get("http-equiv") == "Content-Security-Policy"]
        assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]

    def links_resolve(self) -> None:
        """Assert that every place that is linked to, or that a label is for, is there once."""
        ids = [attributes["id"] for _, attributes in self.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        asked = [(each.get("href") or "")[1:] for each in self.of("a") if (each.get("href") or "").startswith("#")]
        assert set(asked) <= set(ids)

    def pictures_have_words(self) -> None:
        """Assert that what is drawn says what it shows to whoever cannot see it, and that boxes that scroll can be
        reached by keyboard.
        """
        for _, attributes in self.elements:
            if attributes.get("role") == "img":
                assert len(attributes["aria-label"] or "") > 12, attributes
            if attributes.get("role") == "region":
                assert attributes["tabindex"] == "0"
                assert attributes["aria-label"]
        # A picture is either part of one with words, or beside its numbers.
        assert all(attributes.get("aria-hidden") == "true" for attributes in self.of("svg"))

    def headings_are_in_order(self) -> None:
        """Assert that there is one of the first level, and that no level is left out on the way down."""
        levels = [int(tag[1]) for tag, _ in self.elements if re.fullmatch("h[1-6]", tag)]
        assert levels.count(1) == 1
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))

    @property
    def data(self) -> dict[str, Any]:
        """The object that the page holds to be downloaded."""
        found, *_ = re.findall(r"data:application/gzip;base64,([A-Za-z0-9+/=]+)", self.source)
        return json.loads(gzip.decompress(base64.b64decode(found)))
