"""The page of ``diffuzz fingerprint``: the tree in which an implementation adds up, drawn, and the rest in words."""

from __future__ import annotations

from collections import Counter

from diffuzz.fingerprinting.tree import Tree
from diffuzz.pages.charts import tree as charts
from diffuzz.pages.document import Data, behind, document, ending, heading, section, table
from diffuzz.pages.figures import short
from diffuzz.pages.markup import Child, Markup, element

_KIND = "diffuzz fingerprint: the arithmetic of an implementation, recovered from its results"
# Precisions by the bits of their significands.
_NAMES = {53: "float64", 24: "float32", 11: "float16", 8: "bfloat16"}
# Nodes and depths of which a table is made.
_MOST_ROWS = 200


def page(data: Data) -> str:
    """The text of the file, of the object that ``fingerprint --json`` prints."""
    order, name = str(data["order"]), str(data["implementation"])
    known = data["tree"] is not None
    tree = Tree(data["n"], tuple(map(tuple, data["tree"]))) if data["tree"] else None
    verdict, tone = _verdict(data)
    answer = f"{name}: {order}" if known else f"{name} shows no order: {order.removeprefix('none: ')}"
    facts: list[tuple[str, Child]] = [
        ("operation", f"{data['target']}, {data['n']} summands"),
        ("parameters", str(data["parameters"])),
        *((key, str(text)) for key, text in data["details"].items()),
    ]
    if data["sharper"] is not None:
        facts.append(("bound of this order", _sharper(float(data["sharper"]))))
    used, of = data["rows"]
    if used < of:
        facts.append(("rows", f"{used} of the {of} rows of a call; the others have another order"))
    return document(
        f"diffuzz fingerprint: {name}, {data['target']}",
        heading(_KIND, answer, verdict, tone, facts),
        section("The order of the sum", _picture(data, tree), _depths(tree)) if tree else None,
        ending(data["command"], "diffuzz-fingerprint.json", data),
    )


def _verdict(data: Data) -> tuple[str, str]:
    verified = data["verified"]
    if verified is None:
        return "nothing was verified", "open"
    agree, of = verified["agree"], verified["of"]
    if agree == of:
        return f"verified to the bit on {of} random inputs", "good"
    return f"the bits agree on {agree} of {of} random inputs", "odd"


def _sharper(ratio: float) -> str:
    if ratio >= 1:
        return f"{short(ratio, 3)} times sharper than that of any order"
    return f"{short(1 / ratio, 3)} times that of any order"


def _picture(data: Data, tree: Tree) -> Markup:
    names = [_NAMES.get(bits, f"{bits} bits") for bits in data["bits"]]
    label = f"The tree of {data['n']} summands: {data['order']}"
    said = "Each line across is an addition, above what it adds; the scale is how many additions lie below it. "
    said += "Summands stand in the order of the tree" + (
        ", and those that are added alone have no line." if data["n"] > charts.DENSE else "."
    )
    rows = list(Counter(names).items())
    more = Counter(len(node) for node in tree.nodes)
    return element(
        "figure", element("figcaption", said), charts.chart(label, tree, names),
        behind("Numbers: additions", table("Additions by precision", ("precision", "additions"), rows),
               table("Additions by the numbers that they add", ("numbers at once", "additions"),
                     [(str(size), count) for size, count in sorted(more.items())])),
    )  # fmt: skip


def _depths(tree: Tree) -> Markup:
    """How often each summand is rounded with a sum that it is in: what the error of a sum grows with."""
    depths = Counter(tree.depths.tolist())
    rows = [(str(depth), count) for depth, count in sorted(depths.items())]
    few, many = min(depths), max(depths)
    said = f"{few} roundings" if few == many else f"{few} to {many} roundings"
    if len(rows) > _MOST_ROWS:
        rest = sum(count for _, count in rows[_MOST_ROWS:])
        rows = [*rows[:_MOST_ROWS], (f"more than {rows[_MOST_ROWS - 1][0]}", rest)]
    return element(
        "div",
        element("p", f"On its way to the result, a summand goes through {said}."),
        behind("Numbers: roundings", table("Summands by roundings", ("roundings", "summands"), rows, tall=True)),
    )
