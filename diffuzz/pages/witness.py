"""A witness drawn: the numbers of its arrays, codes beside their steps, and where in the result the error sits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from diffuzz.pages.charts import errors, places, row, voices
from diffuzz.pages.charts.row import Row
from diffuzz.pages.document import Data, behind, table
from diffuzz.pages.figures import plain, real, ruler, short
from diffuzz.pages.markup import Child, Markup, element, joined

# Of two numbers of a report: enough to read a float32 back.
_DIGITS = 9
# The share of their size by which numbers differ that are drawn without zero.
_ALIKE = 0.05
_KINDS = {
    "activations": "activations", "logits": "logits", "gain": "a gain", "direction": "the direction of the drift",
    "positions": "positions", "tokens": "tokens", "blocks": "weights",
}  # fmt: skip


def arrays(drawn: Data) -> Markup:
    """A figure for each array of the case, and a line for each other argument."""
    scalars = drawn["scalars"]
    said = element("p", "Also: ", _listed(element("code", text) for text in scalars), ".") if scalars else None
    return joined([_array(one) for one in drawn["arrays"]], said)


def _array(one: Data) -> Markup:
    values, codes = row_of(one["values"]), one["codes"]
    size = math.prod(one["shape"])
    what = [f"{_KINDS.get(one['kind'], one['kind'])}, {_shape(one['shape'])}"]
    if one["format"]:
        what.append(f"in {one['format']}")
    if one["range"]:
        what.append(f"each from {plain(one['range'][0], 4)} to {plain(one['range'][1], 4)}")
    near = _far_from_zero(values.numbers)
    scale = ruler(values.numbers, zero=not near)
    if scale.wide:
        what.append("drawn in decades from zero")
    if near:
        what.append("not drawn from zero")
    if values.per > 1:
        what.append(f"from the least to the largest of {values.per} elements each")
    if values.size < size:
        what.append(f"the first {values.size} of {size}")
    name = one["name"]
    label = f"{name}, {', '.join(what)}: {' '.join(one['text'])[:200]}"
    kind = "drift" if one["kind"] == "direction" else "column"
    height = 5.0 if one["kind"] == "direction" else 7.0
    return element(
        "figure",
        element("figcaption", element("code", name), ": ", ", ".join(what), "."),
        row.chart(label, values, scale, height=height, kind=kind),
        element("p", [element("code", line) for line in one["text"]], class_="as-text"),
        _codes(name, codes) if codes else None,
        behind(f"Numbers: {name}", _numbers(name, values, codes)),
    )  # fmt: skip


def _far_from_zero(numbers: Sequence[float]) -> bool:
    """Whether numbers differ by so little of what they are that none would be seen to differ beside zero."""
    low, high = min(numbers, default=0.0), max(numbers, default=0.0)
    return low * high > 0 and 0 < high - low < _ALIKE * max(abs(low), abs(high))


def lines(text: Sequence[str]) -> list[Child]:
    """Lines, each of which is escaped by itself."""
    return [child for line in text for child in (line, Markup("\n"))]


def _shape(shape: Sequence[int]) -> str:
    if len(shape) == 1:
        return f"{shape[0]} element{'' if shape[0] == 1 else 's'}"
    return " × ".join(map(str, shape))


def _codes(name: str, codes: Data) -> Markup:
    """Pictures below each other: the codes, the step that each stands for, and where in it the number was."""
    fmt, count = codes["format"], len(codes["codes"])
    numbers, steps = _reals(codes["codes"]), _reals(codes["steps"])
    of = f"the first {count} of {codes['of']}" if count < codes["of"] else f"{count}"
    made = "is rounded to" if codes["places"] else "is stored in"
    alike = min(steps) == max(steps)
    said = f"{name} {made} {fmt}: a code for each number, times the step of its block of {codes['block']}"
    said += f". All steps are {plain(steps[0], 4)}." if alike else "."
    parts = [
        element("p", said, class_="small soft"),
        element("p", "Codes", class_="name"),
        row.chart(f"Codes of {name} in {fmt}, {of}: from {plain(min(numbers))} to {plain(max(numbers))}",
                  Row(count, 1, numbers, numbers), ruler(numbers), height=4.0, below=alike and not codes["places"]),
    ]  # fmt: skip
    if not alike:
        parts += [
            element("p", "Steps", class_="name"),
            row.chart(f"Steps of {name} in {fmt}: from {short(min(steps))} to {short(max(steps))}",
                      Row(count, 1, steps, steps), ruler(steps), height=3.0, kind="step", below=not codes["places"]),
        ]  # fmt: skip
    if codes["places"]:
        where = _reals(codes["places"])
        tied = places.ties(where)
        words = f"the nearest is {short(places.nearest(where))} steps from a tie"
        if tied:
            words = f"{tied} of {count} {'is' if tied == 1 else 'are'} within a thousandth of a step of a tie"
        parts += [
            element("p", "Place in its step", class_="name"),
            places.chart(f"Where in its step each number of {name} is: {words}", where),
            element("p", f"At a tie the next code is as near: {words}.", class_="small soft"),
        ]
    return element("div", parts, class_="codes")


def _numbers(name: str, values: Row, codes: Data | None) -> Markup:
    bins = values.per > 1
    heads = ["elements" if bins else "element", *(["least", "largest"] if bins else ["number"])]
    columns: list[Sequence[object]] = [values.low, *([values.high] if bins else [])]
    if codes and not bins and len(codes["codes"]) == values.size:
        for key, head in (("codes", "code"), ("steps", "step"), ("minimums", "minimum"), ("places", "place")):
            if codes[key]:
                heads.append(head)
                columns.append(codes[key])
    rows = []
    for place in range(len(values.low)):
        first = place * values.per
        index = f"{first}–{min(first + values.per, values.size) - 1}" if bins else str(first)
        rows.append((index, *(plain(column[place], _DIGITS) for column in columns)))
    return table(f"Numbers of {name}", heads, rows, tall=True)


def result(found: Data, names: Mapping[str, str]) -> Markup:
    """Where in the whole ``result`` of a drawn case the error sits, and its worst elements; ``names`` are those of the
    sides.
    """
    errors_found = row_of(found["ratio"])
    counted = f"{found['outside']} of {found['judged']} element{'' if found['judged'] == 1 else 's'}"
    verb = "is" if found["outside"] == 1 else "are"
    if found["fixed"]:
        said = f"The result is fixed to the bit: {counted} {'differs' if found['outside'] == 1 else 'differ'} from it."
        what = "Elements that differ"
    else:
        said = (
            f"Error of each element, as a share of what is allowed there. Up to 1 it is right; {counted} {verb} beyond."
        )
        what = "Error over allowance by element"
    if found["judged"] < found["elements"]:
        said += f" Grey: nothing is promised of {found['elements'] - found['judged']}."
    if errors_found.per > 1:
        said += f" A bar is the largest of {errors_found.per} elements."
    other = row_of(found["reference_ratio"]) if found["reference_ratio"] else None
    if other is not None and not any(number >= errors.LEAST for number in other.high):
        other = None
    if other is not None:
        said += " The marks are the reference’s."
    most = max((number for number in errors_found.high if not math.isnan(number)), default=math.nan)
    label = f"{what}: the largest is {short(most, 3)}; {counted} {verb} beyond what is allowed."
    if found["fixed"]:
        drawn = errors.differing(label, errors_found)
    else:
        drawn = errors.chart(label, errors_found, other, "reference")
    return element(
        "figure", element("figcaption", said), drawn, behind("Numbers: the worst elements", _worst(found, names))
    )


def _worst(found: Data, names: Mapping[str, str]) -> Markup:
    sides = list(found["worst"][0]["sides"]) if found["worst"] else []
    heads = ["where", *(["exact"] if found["exact"] else []), *(names.get(side, side) for side in sides)]
    heads += [] if found["fixed"] else ["allowed", "share"]
    rows = []
    for one in found["worst"]:
        numbers = [one["exact"]] if found["exact"] else []
        numbers += list(one["sides"].values())
        cells = [one["place"], *(plain(number, _DIGITS) for number in numbers)]
        rows.append(cells + ([] if found["fixed"] else [plain(one["allowed"], 3), short(real(one["ratio"]), 3)]))
    return table("The worst elements", heads, rows, tall=True)


def three_ways(detail: Mapping[str, Any], sides: Mapping[str, str], where: str) -> Markup | None:
    """Exact result, and what each side gave, at the worst element; None where there is nothing to compare."""
    said = {name: real(detail[key]) for key, name in sides.items() if key in detail}
    if not said:
        return None
    exact = real(detail["exact"]) if "exact" in detail else math.nan
    allowed = real(detail.get("allowance", detail.get("rounding")))
    drawn = voices.chart(exact, said, allowed)
    words = f"At {where}."
    if drawn is not None:
        words += f" The band is what is allowed, {short(allowed, 3)} on either side; the scale counts how often."
    listed = None
    if drawn is None:
        rows: list[tuple[str, Child]] = [(name, plain(number)) for name, number in said.items()]
        rows = ([("exact", plain(exact))] if "exact" in detail else []) + rows
        rows += [("allowed", plain(allowed, 3))] if not math.isnan(allowed) else []
        listed = table(f"At {where}", ("who", "result"), rows)
    return element("figure", element("figcaption", words), drawn, listed)


def row_of(series: Data) -> Row:
    """A series of the object, as a row to draw."""
    low = _reals(series["low"])
    return Row(series["size"], series["per"], low, low if series["high"] is None else _reals(series["high"]),
               series["row"])  # fmt: skip


def _reals(numbers: Sequence[Any]) -> list[float]:
    return [real(number) for number in numbers]


def _listed(children: Any) -> list[Child]:
    found: list[Child] = []
    for child in children:
        found += [", ", child] if found else [child]
    return found
