"""Trees of sums: which number is added to which, whatever the numbers are.

    tree = of(((0, 1), (2, 3)))             pairwise
    tree = of((((0, 1), 2), 3))             in sequence
    tree = of((0, 1, 2, 3))                 all at once: added exactly, or in an order that no result shows

Leaves are the summands 0 to n - 1. Node n + k adds up the nodes ``nodes[k]``, each of them a leaf or an earlier node;
the last node is the root. The order of the two summands of an addition is no part of a tree, as it does not change the
sum.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import attrs
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int64

Nested: TypeAlias = "int | Sequence[Nested]"
# Bits of the number that stands for a set of leaves: two sets among millions have the same one by a chance of 2^-80.
_BITS = 128


@attrs.frozen
class Tree:
    """The tree of a sum of ``n`` numbers; see the module's docstring. Raises ValueError where the nodes are no tree."""

    n: int
    nodes: tuple[tuple[int, ...], ...]

    def __attrs_post_init__(self) -> None:
        used = sorted(child for node in self.nodes for child in node)
        if self.n < 1 or used != list(range(self.n + len(self.nodes) - 1)):
            raise ValueError(f"{self.n} leaves and {len(self.nodes)} nodes: each but the root is in one other node")
        if any(len(node) < 2 or max(node) >= self.n + k for k, node in enumerate(self.nodes)):
            raise ValueError("a node of a tree adds up at least two others, which come before it")

    def __eq__(self, other: object) -> bool:
        """Whether they add up in the same way, however their nodes are numbered."""
        return isinstance(other, Tree) and self.n == other.n and self._clades == other._clades

    def __hash__(self) -> int:
        return hash((self.n, self._clades))

    @property
    def root(self) -> int:
        """The number of the last node; 0 where there is one leaf only."""
        return self.n + len(self.nodes) - 1

    def children(self, node: int) -> tuple[int, ...]:
        """What a node adds up; nothing for a leaf."""
        return () if node < self.n else self.nodes[node - self.n]

    @cached_property
    def _clades(self) -> frozenset[int]:
        """A number for the set of leaves of each node."""
        draw = random.Random(0)
        sums = [draw.getrandbits(_BITS) for _ in range(self.n)]
        for node in self.nodes:
            sums.append(sum(sums[child] for child in node) % 2**_BITS)
        return frozenset(sums[self.n :])

    @cached_property
    def parents(self) -> Int64[np.ndarray, " nodes"]:
        """The node that each leaf and node is added in; -1 for the root."""
        found = np.full(self.root + 1, -1)
        for k, node in enumerate(self.nodes):
            found[list(node)] = self.n + k
        return found

    @cached_property
    def sizes(self) -> Int64[np.ndarray, " nodes"]:
        """The number of leaves below each leaf (1) and node."""
        found = [1] * self.n
        for node in self.nodes:
            found.append(sum(found[child] for child in node))
        return np.array(found)

    @cached_property
    def first(self) -> Int64[np.ndarray, " nodes"]:
        """The least leaf of each leaf and node."""
        found = list(range(self.n))
        for node in self.nodes:
            found.append(min(found[child] for child in node))
        return np.array(found)

    @cached_property
    def heights(self) -> Int64[np.ndarray, " nodes"]:
        """The longest way from each leaf (0) and node down to a leaf."""
        found = [0] * self.n
        for node in self.nodes:
            found.append(1 + max(found[child] for child in node))
        return np.array(found)

    @cached_property
    def depths(self) -> Int64[np.ndarray, " n"]:
        """How often each summand, or a sum that it is in, is rounded: its nodes up to the root."""
        found = np.zeros(self.root + 1, int)
        for k in reversed(range(len(self.nodes))):
            found[list(self.nodes[k])] = found[self.n + k] + 1
        return found[: self.n]

    def is_binary(self) -> bool:
        """Whether each node adds two."""
        return all(len(node) == 2 for node in self.nodes)

    def text(self, start: int | None = None) -> str:
        """The tree in parentheses: ``((0+1)+(2+3))``; of the nodes below ``start``, if it is given."""
        pieces: list[str] = []
        stack: list[int | str] = [self.root if start is None else start]
        while stack:
            one = stack.pop()
            if isinstance(one, str) or one < self.n:
                pieces.append(str(one))
                continue
            children = sorted(self.children(one), key=lambda child: int(self.first[child]))
            stack.append(")")
            for place, child in enumerate(reversed(children)):
                stack += [child] if place == len(children) - 1 else [child, "+"]
            stack.append("(")
        return "".join(pieces)


def of(nested: Nested) -> Tree:
    """The tree of nested sequences of the leaves 0 to n - 1. Raises ValueError where these are not the leaves."""
    # Without recursion: a sum in sequence is as deep as it is long. Each open node is its children still to come, and
    # the numbers of those that are done.
    if isinstance(nested, int):
        nested = (nested,)
    order: list[tuple[Sequence[Nested], int]] = []
    stack: list[tuple[Sequence[Nested], int]] = [(nested, -1)]
    while stack:
        node, parent = stack.pop()
        order.append((node, parent))
        stack += [(child, len(order) - 1) for child in node if not isinstance(child, int)]
    leaves = [child for node, _ in order for child in node if isinstance(child, int)]
    n = len(leaves)
    if sorted(leaves) != list(range(n)):
        raise ValueError(f"leaves {sorted(leaves)[:8]}: 0 to n - 1, each once, are needed")
    if n == 1:
        return Tree(1, ())
    made: list[list[int]] = [[child for child in node if isinstance(child, int)] for node, _ in order]
    nodes: list[tuple[int, ...]] = []
    for place in reversed(range(len(order))):
        children, parent = made[place], order[place][1]
        if len(children) > 1:
            nodes.append(tuple(children))
        number = n + len(nodes) - 1 if len(children) > 1 else children[0]
        if parent >= 0:
            made[parent].append(number)
    return Tree(n, tuple(nodes))


def sequence(leaves: Iterable[Nested]) -> Nested:
    """Nested pairs that add up one after the other."""
    found: Nested | None = None
    for leaf in leaves:
        found = leaf if found is None else (found, leaf)
    if found is None:
        raise ValueError("a sum of nothing has no tree")
    return found


def pairwise(leaves: Sequence[Nested]) -> Nested:
    """Nested pairs that add up the two halves, each in the same way."""
    if len(leaves) == 1:
        return leaves[0]
    half = len(leaves) // 2
    return (pairwise(leaves[:half]), pairwise(leaves[half:]))


def by_halves(leaves: Sequence[Nested]) -> Nested:
    """Nested pairs of a power of two of leaves: leaf i and leaf i + n/2 first, and so on with what comes of it."""
    parts = list(leaves)
    if len(parts) & (len(parts) - 1):
        raise ValueError(f"{len(parts)} leaves: a power of two is needed")
    while len(parts) > 1:
        half = len(parts) // 2
        parts = [(parts[place], parts[place + half]) for place in range(half)]
    return parts[0]
