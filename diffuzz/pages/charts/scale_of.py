"""A value on one line with its threshold and its bound."""

from __future__ import annotations

import math

from diffuzz.pages.figures import plain, ruler
from diffuzz.pages.markup import Child, Markup, element


def chart(value: float, threshold: float, bound: float | None) -> Markup:
    """The picture: a bar as long as the value, and a mark at each of the others; what is proven never to be is grey."""
    limits = {"threshold": threshold} | ({} if bound is None or not math.isfinite(bound) else {"proven": bound})
    scale = ruler([value, *limits.values()])
    if math.isinf(value):
        scale = scale.with_infinity()
    zero, most = scale.at(0.0), scale.at(value)
    shown: list[Child] = []
    if "proven" in limits:
        shown.append(element("i", class_="never", style=f"left:{100 * scale.at(limits['proven']):.2f}%;right:0"))
    shown.append(element("i", class_="value", style=f"left:{100 * zero:.2f}%;width:{100 * (most - zero):.2f}%"))
    for name, number in limits.items():
        place = 100 * scale.at(number)
        side = f"right:{100 - place:.2f}%" if place > 50 else f"left:{place:.2f}%"
        shown += [
            element("b", class_=name, style=f"left:{place:.2f}%"),
            element("span", f"{name} {plain(number, 4)}", class_=name, style=side),
        ]
    ticks = [element("span", text, style=f"left:{100 * place:.2f}%") for place, text in scale.ticks]
    said = ", ".join(f"{name} {plain(number, 4)}" for name, number in limits.items())
    return element(
        "div", element("div", shown, class_="scale-line"), element("div", ticks, class_="ticks", aria_hidden="true"),
        class_="scale-of", role="img", aria_label=f"Value {plain(value, 7)}; {said}",
    )  # fmt: skip
