"""HTML elements. Text is escaped here and nowhere else: what is not ``Markup`` is text, whoever wrote it.

element("td", "a < b", class_="name")     <td class="name">a &lt; b</td>
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TypeAlias

import attrs

from diffuzz.escaping import escaped

# Elements that have no end, and shapes of pictures, which may end as they begin.
_VOID, _SHAPES = frozenset({"meta", "link", "wbr"}), frozenset({"path", "rect"})


@attrs.frozen
class Markup:
    """Text that is HTML already."""

    text: str


Child: TypeAlias = "Markup | str | int | Iterable[Child] | None"
Attribute: TypeAlias = str | float | bool | None


def element(name: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """An element. Of an attribute's name the last underscore is left out and others are hyphens; one that is None or
    False is left out, and one that is True has no value.
    """
    given = "".join(
        f" {_attribute(key)}" if value is True else f' {_attribute(key)}="{_text(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Markup(f"<{name}{given}>")
    if name in _SHAPES and not children:
        return Markup(f"<{name}{given}/>")
    return Markup(f"<{name}{given}>{joined(*children).text}</{name}>")


def joined(*children: Child) -> Markup:
    """Children one after another; None is nothing."""
    return Markup("".join(_of(child) for child in children))


def _of(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child.text
    if isinstance(child, str | int):
        return _text(str(child))
    return joined(*child).text


def _attribute(key: str) -> str:
    return key.removesuffix("_").replace("_", "-")


def _text(text: str) -> str:
    return html.escape(escaped(text))
