"""Trees in words, so that a sum of thousands of numbers is one line.

    4096 summands: 8 lanes with stride 8, each 512 in sequence; lanes combined as ((0+4)+(2+6))+((1+5)+(3+7))

Subtrees that are alike but for their place are described once. Two chains of single summands with the same stride are
alike, whatever their lengths: of a sum whose length is no multiple of its lanes, some lanes have one more.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import TypeAlias

import attrs

from diffuzz.fingerprinting import tree as trees
from diffuzz.fingerprinting.tree import Nested, Tree

# A kind of subtree: equal for subtrees that are alike but for their place.
Kind: TypeAlias = int
# As many children or lanes are written out; more are summarised.
_FEW = 8
_MOST_TEXT = 700
_IRREGULAR = "in no regular order"


def words(tree: Tree) -> str:
    """How a sum is added up, in one line."""
    if tree.n == 1:
        return "one summand"
    if len(tree.nodes) == 1 and tree.n > 2:
        return f"{tree.n} summands, all at once"
    text = _Described(tree).of(tree.root)
    if len(text) > _MOST_TEXT:
        text = f"{_IRREGULAR}: one is rounded {tree.depths.min()} times, another {tree.depths.max()}"
    return f"{tree.n} summands, {text}"


def kinds(tree: Tree) -> list[Kind]:
    """The kind of each leaf and node: the same for those that are alike but for their place, and for sums of single
    summands in sequence, whatever their lengths.
    """
    return _Described(tree).kinds


@attrs.frozen
class _Described:
    """A tree whose nodes are put into words."""

    tree: Tree

    @cached_property
    def chains(self) -> dict[int, tuple[int, int]]:
        """Nodes that add up single summands one after the other at equal distances: (first summand, distance)."""
        found: dict[int, tuple[int, int]] = {}
        last: dict[int, int] = {}
        for k, node in enumerate(self.tree.nodes):
            if len(node) != 2:
                continue
            a, b = sorted(node)
            number = self.tree.n + k
            if b < self.tree.n:
                # Of a pair, the step is that of what follows, if anything does: below, it may be turned round.
                found[number], last[number] = (a, b - a), b
            elif a < self.tree.n and b in found:
                first, step = found[b]
                if self.tree.sizes[b] == 2 and a - first == first - last[b]:
                    first, step, last[b] = last[b], -step, first
                if a - last[b] == step:
                    found[number], last[number] = (first, step), a
        return found

    @cached_property
    def kinds(self) -> list[Kind]:
        """The kind of each leaf and node."""
        known: dict[object, Kind] = {}
        found = [0] * self.tree.n
        for k, node in enumerate(self.tree.nodes):
            number = self.tree.n + k
            key: object
            if number in self.chains:
                key = ("chain", abs(self.chains[number][1]), self.chains[number][1] > 0)
            else:
                least = self.tree.first[number]
                key = tuple(sorted((found[child], int(self.tree.first[child] - least)) for child in node))
            found.append(known.setdefault(key, len(known) + 1))
        return found

    def of(self, node: int) -> str:
        """A subtree in words."""
        if node < self.tree.n:
            return f"summand {node}"
        if node in self.chains:
            return self._chain(node)
        children = self._children(node)
        if len(children) > 2:
            return self._at_once(children)
        if self._alike(children):
            return self._folded(node)
        return self._spine(node)

    def _children(self, node: int) -> list[int]:
        return sorted(self.tree.children(node), key=lambda child: int(self.tree.first[child]))

    def _alike(self, nodes: list[int]) -> bool:
        return len({self.kinds[node] for node in nodes}) == 1

    def _chain(self, node: int) -> str:
        first, step = self.chains[node]
        count = int(self.tree.sizes[node])
        if count == 2:
            return f"{first}+{first + step}"
        backwards = " backwards" if step < 0 else ""
        far = "" if abs(step) == 1 else f" with stride {abs(step)}"
        return f"in sequence{backwards}{far}" + ("" if count == self.tree.n else f" from {first}")

    def _at_once(self, children: list[int]) -> str:
        if all(child < self.tree.n for child in children):
            return f"{len(children)}{self._progress(children)} at once"
        if self._alike(children):
            return f"{len(children)} parts{self._progress(children)} at once, each {self._unit(children)}"
        return f"{len(children)} parts at once, {self._listed(children)}"

    def _progress(self, nodes: list[int]) -> str:
        """The stride of nodes at equal distances."""
        first = [int(self.tree.first[node]) for node in nodes]
        steps = {b - a for a, b in pairwise(first)}
        if len(steps) != 1:
            return ""
        step = steps.pop()
        return "" if step == 1 else f" with stride {step}"

    def _unit(self, nodes: list[int]) -> str:
        """What each of several nodes that are alike is: of lanes, with their lengths."""
        sizes = sorted({int(self.tree.sizes[node]) for node in nodes})
        one = min(nodes, key=lambda node: int(self.tree.first[node]))
        if one in self.chains:
            step = self.chains[one][1]
            many = " or ".join(map(str, sizes)) if len(sizes) < 3 else f"{sizes[0]} to {sizes[-1]}"
            backwards = " backwards" if step < 0 else ""
            stride = f" with stride {abs(step)}" if abs(step) != 1 else ""
            return f"{many} in sequence{backwards}{stride}"
        return f"of {sizes[0]}: {self.of(one)}" if len(sizes) == 1 else self.of(one)

    def _folded(self, node: int) -> str:
        """A sum of subtrees that are alike, added up two by two: lanes, blocks."""
        nested: Nested
        nodes = [node]
        while True:
            children = [child for one in nodes for child in self._children(one)]
            if any(len(self._children(one)) != 2 for one in nodes) or not self._alike(children):
                break
            if len({self._interleaved(one) for one in nodes} | {self._interleaved(node)}) > 1:
                break
            if any(one in self.chains and self.tree.sizes[one] > 2 for one in nodes):
                break
            nodes = children
        order = sorted(nodes, key=lambda one: int(self.tree.first[one]))
        number = {one: place for place, one in enumerate(order)}
        nested = self._nested(node, number)
        how = _combined(trees.of(nested))
        if all(one < self.tree.n for one in order):
            return f"{how}{self._progress(order)}"
        first = [int(self.tree.first[one]) for one in order]
        step = first[1] - first[0]
        if self._interleaved(node):
            what = f"{len(order)} lanes" + ("" if step == 1 else f" {step} apart")
        else:
            what = f"{len(order)} blocks"
        return f"{what}, each {self._unit(order)}, combined {how}"

    def _interleaved(self, node: int) -> bool:
        """Whether the summands of two children lie among each other."""
        a, b = self._children(node)
        return bool(self.tree.first[b] < self.last[a])

    @cached_property
    def last(self) -> list[int]:
        """The greatest leaf of each leaf and node."""
        found = list(range(self.tree.n))
        for node in self.tree.nodes:
            found.append(max(found[child] for child in node))
        return found

    def _nested(self, node: int, number: dict[int, int]) -> Nested:
        if node in number:
            return number[node]
        return tuple(self._nested(child, number) for child in self._children(node))

    def _spine(self, node: int) -> str:
        """A sum to which others are added one by one: from the last of them inwards, in runs that are alike."""
        items: list[int] = []
        base = node
        while base >= self.tree.n and base not in self.chains:
            if items and self.kinds[base] == self.kinds[items[-1]]:
                break
            children = self._children(base)
            if len(children) != 2 or (self._alike(children) and not self._repeats(base, items)):
                break
            heights = [int(self.tree.heights[child]) for child in children]
            inner = children[0] if heights[0] >= heights[1] else children[1]
            items.append(children[1] if inner == children[0] else children[0])
            base = inner
        items.reverse()
        if items and self.kinds[base] == self.kinds[items[0]] and base >= self.tree.n:
            items.insert(0, base)
            return self._runs(items, "")
        return self._runs(items, self.of(base) if base not in self.chains else self._base_chain(base))

    def _base_chain(self, base: int) -> str:
        return f"{int(self.tree.sizes[base])} {self._chain(base)}" if self.tree.sizes[base] > 2 else self._chain(base)

    def _repeats(self, base: int, items: list[int]) -> bool:
        """Whether the two halves of a node are of the kind that has been added last."""
        return bool(items) and self.kinds[self._children(base)[0]] == self.kinds[items[-1]]

    def _runs(self, items: list[int], text: str) -> str:
        parts = [text] if text else []
        runs: list[list[int]] = []
        for item in items:
            if runs and self.kinds[runs[-1][-1]] == self.kinds[item] and self._goes_on(runs[-1], item):
                runs[-1].append(item)
            else:
                runs.append([item])
        if len(runs) > _FEW:
            return "; ".join([*parts, f"then {len(items)} more {_IRREGULAR}"]) if parts else _IRREGULAR
        for run in runs:
            parts.append(self._run(run, first=not parts))
        return "; ".join(parts)

    def _goes_on(self, run: list[int], item: int) -> bool:
        if len(run) < 2:
            return True
        first = [int(self.tree.first[one]) for one in (run[-2], run[-1], item)]
        return first[2] - first[1] == first[1] - first[0]

    def _run(self, run: list[int], *, first: bool) -> str:
        then = "" if first else "then "
        start = int(self.tree.first[run[0]])
        if len(run) == 1:
            return f"{then}{self._part(run[0])}"
        step = int(self.tree.first[run[1]]) - start
        backwards = " backwards" if step < 0 else ""
        if run[0] < self.tree.n:
            far = "" if abs(step) == 1 else f" with stride {abs(step)}"
            return f"{then}summands {start} to {int(self.tree.first[run[-1]])} in sequence{far}"
        return f"{then}{len(run)} blocks in sequence{backwards}, each {self._unit(run)}"

    def _part(self, node: int) -> str:
        if node < self.tree.n:
            return f"summand {node}"
        return f"({self.of(node)})"

    def _listed(self, nodes: list[int]) -> str:
        texts = [self._part(node) for node in nodes]
        return ", ".join(texts) if len(texts) <= _FEW else _IRREGULAR


def _combined(tree: Tree) -> str:
    """How a few numbers are added up, in words where there are such."""
    n = tree.n
    if n == 2:
        return "0+1"
    if n & (n - 1) == 0:
        if tree == trees.of(trees.pairwise(range(n))):
            name = "neighbours first"
        elif tree == trees.of(trees.by_halves(range(n))):
            name = "halves first"
        else:
            name = ""
        text = tree.text()[1:-1]
        if n <= _FEW:
            return f"as {text}" + (f" ({name})" if name else "")
        if name:
            return f"pairwise ({name})"
    text = tree.text()[1:-1]
    return f"as {text}" if len(text) <= _MOST_TEXT else _IRREGULAR
