"""An error beside what is allowed, on a logarithmic scale: up to the allowance in one colour, beyond it in another."""

from __future__ import annotations

import math

from diffuzz.pages.figures import short, times
from diffuzz.pages.markup import Markup, element

# The scale begins at this share of what is allowed.
_BEGIN = 0.1


def chart(error: float, allowed: float) -> Markup | None:
    """The picture; None where there is no finite error beyond an allowance."""
    if not 0 < allowed < error < math.inf:
        return None
    inside = 100 / (1 + math.log10(error / allowed) / -math.log10(_BEGIN))
    said = f"error {short(error)}, {times(error / allowed)} the allowed {short(allowed)}"
    return element(
        "div",
        element("i", class_="inside", style=f"width:{inside:.2f}%"),
        element("i", class_="beyond", style=f"left:{inside:.2f}%;right:0"),
        element("span", "logarithmic", class_="scale"),
        element("span", f"error {short(error)}", class_="error"),
        # Centred below where the colours meet, but inside.
        element("span", f"allowed {short(allowed)}", class_="allowed",
                style=f"left:max(0px, min({inside:.2f}% - 3rem, 100% - 8rem))"),
        class_="span",
        role="img",
        aria_label=f"On a logarithmic scale: {said}",
    )  # fmt: skip
