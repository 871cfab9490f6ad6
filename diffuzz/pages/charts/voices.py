"""What several say of one number: a point for each on a line of its own, and a band for what is allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping

from diffuzz.pages.figures import decades, plain, ruler, short
from diffuzz.pages.markup import Child, Markup, element

# Up to so many times what is allowed, a linear scale shows it well.
_NEAR = 8.0


def chart(exact: float, said: Mapping[str, float], allowed: float) -> Markup | None:
    """The picture, whose scale counts what is allowed, from the exact number; None without a scale."""
    if not (math.isfinite(exact) and 0 < allowed < math.inf):
        return None
    shares = {name: (number - exact) / allowed for name, number in said.items()}
    known = [share for share in shares.values() if math.isfinite(share)]
    wide = max(map(abs, known), default=0.0) > _NEAR
    # The same on both sides of what is exact.
    most = max(1.25, *map(abs, known)) if known else 1.25
    scale = decades([-most, most], 1.0) if wide else ruler([-most, most])
    low, high = (100 * scale.at(side) for side in (-1.0, 1.0))
    rows = [_row("exact", exact, 0.0, scale.at(0.0), low, high, "truth")]
    for name, share in shares.items():
        inside = abs(share) <= 1
        place = scale.at(share) if math.isfinite(share) else math.nan
        rows.append(_row(name, said[name], share, place, low, high, "inside" if inside else "beyond"))
    ticks = [element("span", text, style=f"left:{100 * place:.2f}%") for place, text in scale.ticks]
    words = "; ".join(
        f"{name} {plain(said[name])}, {short(abs(share), 3)} times what is allowed away"
        if math.isfinite(share)
        else f"{name} {plain(said[name])}"
        for name, share in shares.items()
    )
    return element(
        "div", rows,
        element("div", element("span", "× allowed"), element("div", ticks, class_="ticks"), element("span"),
                class_="voice scale", aria_hidden="true"),
        class_="voices", role="img", aria_label=f"Exact {plain(exact)}; {words}. Allowed: {short(allowed, 3)}.",
    )  # fmt: skip


def _row(name: str, number: float, share: float, place: float, low: float, high: float, kind: str) -> Markup:
    band = element("i", class_="band", style=f"left:{low:.2f}%;width:{high - low:.2f}%")
    point: Child = None
    if not math.isnan(place):
        point = element("b", class_=kind, style=f"left:{100 * place:.2f}%", title=f"{name}: {short(share, 3)}")
    return element(
        "div", element("span", name), element("div", band, point, class_="line"), element("span", plain(number)),
        class_="voice",
    )  # fmt: skip
