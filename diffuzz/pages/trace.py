"""The page of ``diffuzz trace``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import attrs

from diffuzz.pages import by_layer, checked
from diffuzz.pages.charts import axis, bars, lines, strips
from diffuzz.pages.charts.lines import Line
from diffuzz.pages.document import Data, behind, document, ending, facts_list, heading, section, sentence, table
from diffuzz.pages.figures import Levels, ranges, real, short
from diffuzz.pages.markup import Child, Markup, element, joined

# Tokens after which A and B differ of which it is told how often either is said.
_FLIPS = 8


def page(data: Data, command: str) -> str:
    """The text of the file, of the object that ``trace --json`` prints; ``command`` makes it again."""
    answer = sentence(data["answer"])
    sides = data["sides"]
    words, tone = _verdict(data)
    facts: list[tuple[str, Child]] = [
        ("model", f"{data['model']['file']} ({data['model']['architecture']})"),
        *((label, f"{side['run']}: {side['engine']['engine']}") for label, side in sides.items()),
        ("tokens", str(len(data["tokens"]))),
        ("taps", f"{len(data['taps'])} in both"),
    ]
    if data["only_in_one"]:
        facts.append(("not compared", f"{len(data['only_in_one'])} taps that only one run has"))
    off = [(label, side) for label, side in sides.items() if side["culprits"]]
    layers = _layers(data["taps"])
    return document(
        f"diffuzz trace: {answer}",
        heading("diffuzz trace: two runs of one model over the same tokens", answer, words, tone, facts),
        [section(f"What is off in {label}", checked.culprits(side, data["texts"])) for label, side in off],
        section("Drift by layer", _drift(data, layers), _isolated(data)),
        section("Token by token", _tokens(data, layers)),
        section("Where the drift comes from", _attribution(data)) if data["attribution"] is not None else None,
        section("Each run by itself", [_side(label, side) for label, side in sides.items()]),
        section("Arithmetic, as it was found",
                checked.arithmetics({label: side["policies"] for label, side in sides.items()})),
        ending(command, "diffuzz-trace.json", data),
    )  # fmt: skip


def _verdict(data: Data) -> tuple[str, str]:
    if data["wrong"]:
        return f"{' and '.join(data['wrong'])} {'is' if len(data['wrong']) == 1 else 'are'} wrong", "bad"
    if data["same"]:
        return "the same, bit for bit", "good"
    suspects = sum(len(side["culprits"]) for side in data["sides"].values())
    return ("nobody is wrong", "good") if not suspects else (f"nobody is wrong, {suspects} suspect", "odd")


@attrs.frozen(eq=False)
class _Layer:
    """The last tap of a layer that both runs have, or a tap outside layers: its tokens' numbers, NaN where unknown.

    Massive tokens have numbers of their own: their activations are so large that others are not seen beside them.
    """

    name: str
    tap: str
    accumulated: Sequence[float]
    floor: Sequence[float] | None
    massive: frozenset[int]

    def of_usual(self, numbers: Sequence[float] | None) -> list[float]:
        if numbers is None:
            return []
        return [each for place, each in enumerate(numbers) if place not in self.massive and not math.isnan(each)]

    @property
    def median(self) -> float:
        return _over(median, self.of_usual(self.accumulated))

    @property
    def largest(self) -> float:
        return _over(max, self.of_usual(self.accumulated))

    @property
    def noise(self) -> float:
        return _over(median, self.of_usual(self.floor))

    @property
    def of_massive(self) -> float:
        return _over(max, [self.accumulated[place] for place in sorted(self.massive)
                           if not math.isnan(self.accumulated[place])])  # fmt: skip


def _over(taken: Any, numbers: Iterable[float]) -> float:
    found = list(numbers)
    return float(taken(found)) if found else math.nan


def _layers(taps: Iterable[Data]) -> list[_Layer]:
    last: dict[str, Data] = {}
    for tap in taps:
        last[tap["op"] if tap["layer"] is None else str(tap["layer"])] = tap
    return [
        _Layer(
            name,
            tap["tap"],
            [real(each) for each in tap["accumulated"]],
            None if tap["floor"] is None else [real(each) for each in tap["floor"]],
            frozenset(tap["massive"]),
        )
        for name, tap in last.items()
    ]


def _drawn(layers: Sequence[_Layer]) -> list[_Layer]:
    """Without embeddings that are the same in both runs, which a logarithmic scale has no place for."""
    return [layer for layer in layers if layer.name != "embd" or layer.largest > 0]


def _drift(data: Data, layers: Sequence[_Layer]) -> Markup:
    """Accumulated drift beside the floor."""
    drawn = _drawn(layers)
    noisy = [label for label, side in data["sides"].items() if side["floor"]]
    every = [
        Line("floor", "floor", [layer.noise for layer in drawn], filled=True),
        Line("massive", "massive", [layer.of_massive for layer in drawn]),
        Line("largest", "largest", [layer.largest for layer in drawn]),
        Line("median", "median", [layer.median for layer in drawn]),
    ]
    shown = [line for line in every if any(not math.isnan(number) for number in line.numbers)]
    end = layers[-1]
    label = (
        f"Drift by layer: at {end.tap} the median token is {short(end.median)} apart, the farthest {short(end.largest)}"
    )
    if not math.isnan(end.noise):
        label += f", and the floor is {short(end.noise)}"
    rows = [
        (layer.name, short(layer.median), short(layer.largest), _farthest(layer),
         short(layer.of_massive) if layer.massive else "", short(layer.noise), _ratio(layer.median, layer.noise))
        for layer in layers
    ]  # fmt: skip
    heads = ("layer", "median", "largest", "at token", "massive", "floor", "median / floor")
    return element(
        "figure",
        element("figcaption", _drift_caption(noisy, layers)),
        lines.chart(f"{label}.", axis.of([layer.name for layer in drawn]), shown),
        behind("Numbers: drift by layer", table("Drift by layer", heads, rows, tall=True)),
    )


def _drift_caption(noisy: Sequence[str], layers: Sequence[_Layer]) -> str:
    said = [
        "Accumulated drift: how far B is from A after each layer, |B − A| / |A| of one token, for the median token and "
        "for the one that is farthest apart."
    ]
    if noisy:
        said.append(
            f"Grey: the noise floor, how far {' or '.join(noisy)} is from itself if its embeddings move by one unit in "
            "the last place. A drift that is not above it is no evidence of a fault."
        )
    massive = sorted({place for layer in layers for place in layer.massive})
    if massive:
        said.append(
            f"Massive: token {ranges(massive)}, with activations over ten times the median token’s at some layers, "
            "where it stands apart."
        )
    return " ".join(said)


def _farthest(layer: _Layer) -> str:
    found = [(each, -place) for place, each in enumerate(layer.accumulated)
             if place not in layer.massive and not math.isnan(each)]  # fmt: skip
    return str(-max(found)[1]) if found else ""


def _ratio(drift: float, floor: float) -> str:
    if math.isnan(drift) or math.isnan(floor):
        return ""
    return "0" if drift == 0 else "∞" if floor == 0 else short(drift / floor)


def _isolated(data: Data) -> Markup | None:
    """What each step adds by itself: the largest isolated drift of a token."""
    alone = {(tap["op"], tap["layer"]): by_layer.largest(map(real, tap["isolated"]))
             for tap in data["taps"] if tap["isolated"] is not None}  # fmt: skip
    if not alone:
        return None
    run = "B’s own engine" if data["isolated_by_engine"] else "our own pass in B’s arithmetic, and not by B itself"
    caption = (
        "Isolated drift: the same where each step has A’s inputs in B, too, so that only what the step itself does "
        f"otherwise is left. By {run}. The token that is farthest apart."
    )
    return by_layer.figure("Isolated drift", caption, alone, Levels.of(alone.values()))


def _tokens(data: Data, layers: Sequence[_Layer]) -> Markup:
    """Each token with its drift by layer, and what the two runs say next."""
    outputs = data["outputs"]
    drawn = _drawn(layers)
    levels = Levels.of(number for layer in drawn for number in layer.accumulated if not math.isnan(number))
    texts = data["texts"]
    rows = []
    for place, token in enumerate(data["tokens"]):
        strip = strips.cells([layer.accumulated[place] for layer in drawn], levels)
        text = element("td", str(token) if texts is None else texts[place], class_="token mono", title=f"token {token}")
        rows.append([str(place), text, element("td", strip, class_="wide"), *_said(outputs, place)])
    heads = ("", "token", f"drift, layer {drawn[0].name} to {drawn[-1].name}", *(
        () if outputs is None else ("A says next", "B says next", "KL", "variation")))  # fmt: skip
    return joined(
        element("p", _next(data)),
        table("Tokens", heads, rows, tall=len(rows) > 40),
        strips.legend(levels),
        None if outputs is None else element(
            "p", "KL(A || B) in nats and total variation, of the distributions of the next token. Bold: A and B say "
            "different tokens; in brackets by how much of a logit each prefers its own.", class_="small soft"),
        _noise(data),
    )  # fmt: skip


def _said(outputs: Any, place: int) -> list[Child]:
    if outputs is None:
        return []
    if place not in outputs["tokens"]:
        return ["", "", "", ""]
    at = outputs["tokens"].index(place)
    flips = outputs["top_a"][at] != outputs["top_b"][at]
    said: list[Child] = []
    for side in "ab":
        token = outputs[f"top_{side}"][at]
        texts = outputs[f"texts_{side}"]
        text: Child = element("span", str(token) if texts is None else texts[at], class_="mono", title=f"token {token}")
        margin = element("span", f" ({short(real(outputs[f'margin_{side}'][at]))})", class_="soft")
        said.append(element("td", [element("strong", text), margin] if flips else text, class_="token"))
    return [*said, short(real(outputs["kl"][at])), short(real(outputs["variation"][at]))]


def _next(data: Data) -> str:
    outputs = data["outputs"]
    if outputs is None:
        return "What the runs say next is not known: not both have logits."
    tokens = outputs["tokens"]
    flips = [token for token, a, b in zip(tokens, outputs["top_a"], outputs["top_b"], strict=True) if a != b]
    kl = [real(each) for each in outputs["kl"]]
    worst = max(range(len(kl)), key=lambda at: kl[at])
    same = f"A and B say the same next token after each of {len(tokens)} tokens" if not flips else (
        f"A and B say different next tokens after {len(flips)} of {len(tokens)} tokens")  # fmt: skip
    apart = f"The largest KL divergence is {short(kl[worst])} nats, after token {tokens[worst]}"
    return f"{same}. {apart}; after the last it is {short(kl[-1])}."


def _noise(data: Data) -> Markup | None:
    """What an arithmetic makes of the same tokens if nothing but the last place of the embeddings is other."""
    outputs = data["outputs"]
    if outputs is None or not outputs["replicates"]:
        return None
    kinds: dict[str, list[str]] = {}
    for label, runs in outputs["replicates"].items():
        kinds.setdefault(json.dumps(runs), []).append(label)
    label = "Numbers: the noise of the next token"
    heads = ("run", "largest KL", "largest variation", "another token after")
    rows = []
    said = []
    for labels in kinds.values():
        name = " and ".join(labels)
        runs = outputs["replicates"][labels[0]]
        said.append(element("p", _noise_said(name, runs), _flips_said(outputs, outputs["replicates_top"][labels[0]])))
        rows += [
            (f"{name} {number}", short(max(map(real, run["kl"]))), short(max(map(real, run["variation"]))),
             ranges(run["flips"]) or "none")
            for number, run in enumerate(runs, 1)
        ]  # fmt: skip
    return joined(said, behind(label, table(label, heads, rows)))


def _noise_said(name: str, runs: Sequence[Data]) -> str:
    flips = sum(bool(run["flips"]) for run in runs)
    most = max(real(each) for run in runs for each in run["kl"])
    says = "says" if flips == 1 else "say"
    return (
        f"The noise of {name}: of {len(runs)} runs of this arithmetic with embeddings moved by one unit in the last "
        f"place, {flips} {says} another token somewhere, and KL goes up to {short(most)} nats."
    )


def _flips_said(outputs: Data, tops: Sequence[Sequence[int]]) -> str:
    """Where A and B differ: how many of the runs of one arithmetic say what A says, and what B."""
    lines = ""
    flips = [(token, a, b) for token, a, b in zip(outputs["tokens"], outputs["top_a"], outputs["top_b"], strict=True)
             if a != b]  # fmt: skip
    for token, a, b in flips[:_FLIPS]:
        said = [top[token] for top in tops]
        like_a, like_b = said.count(a), said.count(b)
        others = len(said) - like_a - like_b
        lines += (
            f" After token {token}, of these and the one that was not moved, {like_a} say what A says, {like_b} what B "
            f"says, {others} something else."
        )
    return lines


def _attribution(data: Data) -> Markup:
    found = data["attribution"]
    if "error" in found:
        return element("p", f"Not possible: {found['error']}.")
    if not found["steps"]:
        return element("p", "There is nothing to attribute.")
    side = data["sides"][found["side"]]["run"]
    relative, again = real(found["relative"]), real(found["replicate"]["relative"])
    said = (
        f"The logits of {found['side']} ({side}) are {short(relative)} from the exact ones, relative L2 over all "
        "tokens. Of each step: the energy is how much it moves the logits, whatever the direction, and about the same "
        "in every run. The share is signed: how far it moves them along the drift. Shares add up to 1, but change from "
        "run to run like a coin. The marks, and the columns “again”, are of one more run of this arithmetic, with "
        f"embeddings moved by one unit in the last place; it is {short(again)} from exact."
    )
    return joined(element("p", said), _by_op(found), _by_layer(found))


def _rows(found: Data, key: str) -> list[tuple[str, float, float, float, float]]:
    """Name; energy, share, and both of the replicate."""
    own, again = found[key], found["replicate"][key]
    names = dict.fromkeys((*own["energy"], *again["energy"]))
    numbers = [
        [real(part.get(name, 0.0)) for name in names]
        for part in (own["energy"], again["energy"], own["share"], again["share"])
    ]
    return list(zip(names, *numbers, strict=True))


def _by_op(found: Data) -> Markup:
    rows = sorted(_rows(found, "by_op"), key=lambda row: -row[1])
    most = max((max(row[1], row[2]) for row in rows), default=0.0) or 1.0
    cells = [(name, bars.bar(energy, other, most), *_cells(energy, other, share, another))
             for name, energy, other, share, another in rows]  # fmt: skip
    sums = [sum(numbers) for numbers in list(zip(*rows, strict=True))[1:]]
    total = ("sum", "", *_cells(*sums))
    heads = ("operation", "", "energy", "again", "share", "again")
    return table("Drift of the logits by operation", heads, [*cells, total])


def _by_layer(found: Data) -> Markup:
    rows = _rows(found, "by_layer")
    names = [name.removeprefix("blk.") for name, *_ in rows]
    worst = max(rows, key=lambda row: row[1])
    label = f"Energy by layer: the most, {short(worst[1])}, comes from {worst[0]}."
    cells = [(name, *_cells(*row[1:])) for name, row in zip(names, rows, strict=True)]
    return element(
        "figure",
        element("figcaption", f"Energy by layer. The most, {short(worst[1])}, comes from {worst[0]}."),
        bars.columns(label, axis.of(names), [row[1] for row in rows], [row[2] for row in rows]),
        behind("Numbers: attribution by layer",
               table("Attribution by layer", ("layer", "energy", "again", "share", "again"), cells, tall=True)),
        behind("Numbers: attribution by step", _by_step(found)),
    )  # fmt: skip


def _by_step(found: Data) -> Markup:
    rows = [(each["tap"], _decimals(real(each["energy"])), _decimals(real(each["share"]), signed=True))
            for each in found["steps"]]  # fmt: skip
    return table("Attribution by step", ("step", "energy", "share"), rows, tall=True)


def _cells(energy: float, other: float, share: float, another: float) -> tuple[str, str, str, str]:
    return _decimals(energy), _decimals(other), _decimals(share, signed=True), _decimals(another, signed=True)


def _decimals(number: float, *, signed: bool = False) -> str:
    return f"{number:+.3f}".replace("-", "−") if signed else f"{number:.3f}"


def _side(label: str, side: Mapping[str, Any]) -> Markup:
    price = ", ".join(side["price"])
    words, tone = checked.verdict_of(side)
    facts: list[tuple[str, Child]] = [("verdict", element("span", words, class_=tone)), *checked.run_facts(side)]
    if price:
        facts.append(("its price", price))
    return joined(element("h3", f"{label}: {side['run']}"), facts_list(facts), checked.steps(side, label))
