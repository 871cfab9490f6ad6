"""The tree of a sum, from results alone.

**Of sums with both signs.** Among ones stand M and -M, so large that ones which are added to them are lost. The result
counts the ones that are added where M and -M have cancelled, outside the smallest sum that has both; so n minus the
result is the number of summands of that sum. This is the idea of FPRev (Xie and others, Revealing floating-point
accumulation orders in software/hardware implementations, USENIX ATC 2025). Here, the place of M is drawn at random in
each part of the tree, which takes about n log2(n) results for any tree, and those of all parts come from a few calls.

**Of sums of positive numbers**, such as squares or exponentials, nothing cancels. But two numbers of a little less than
half an ULP of 1 are lost if they are added to 1 one after the other, and are not if they have been added to each other
before. So for any three summands results tell which two come together first, and a tree follows as sorting follows from
comparisons: two summands divide the others into those that come to one of them first, and those that come later.

Sums of more than two numbers that are rounded once, as by units for products of matrices, and sums in a precision in
which no order shows, are nodes with more than two children.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.fingerprinting import tree as trees
from diffuzz.fingerprinting.tree import Nested, Tree

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64

# sizes(i, j): the number of summands of the smallest sum that has both i and j.
Sizes = Callable[["Int64[np.ndarray, ' q']", "Int64[np.ndarray, ' q']"], "Int64[np.ndarray, ' q']"]
# meets(i, j, k): whether j and k come together before they come to i.
Meets = Callable[
    ["Int64[np.ndarray, ' q']", "Int64[np.ndarray, ' q']", "Int64[np.ndarray, ' q']"], "Bool[np.ndarray, ' q']"
]
_SEED = 0
# Leaves of a part whose children are looked for all at once.
_MANY = 32
# Sums of so few are not looked at in advance; of others, so many threes are.
_FEW, _MOST = 64, 4096


class NoTreeError(ValueError):
    """Results that are those of no tree; one line."""


@attrs.define
class _Part:
    """Leaves that are to be divided: a subtree, or what is left of the children of a node of ``size`` leaves."""

    leaves: list[int]
    parent: list[Nested]
    size: int = 0


def from_sizes(n: int, sizes: Sizes) -> Tree:
    """The tree of a sum of ``n`` numbers. Raises NoTreeError where the sizes are those of no tree."""
    rng = np.random.default_rng(_SEED)
    top: list[Nested] = []
    parts = [_Part(list(range(n)), top)]
    while parts:
        pivots = [part.leaves[int(rng.integers(len(part.leaves)))] for part in parts]
        others = [[leaf for leaf in part.leaves if leaf != pivot] for part, pivot in zip(parts, pivots, strict=True)]
        counts = list(map(len, others))
        i, j = np.repeat(np.array(pivots), counts), np.concatenate([np.array(one, int) for one in others])
        found = np.split(sizes(i, j) if len(i) else np.zeros(0, int), np.cumsum(counts)[:-1])
        following: list[_Part] = []
        for part, pivot, rest, size in zip(parts, pivots, others, found, strict=True):
            following += _divided(part, pivot, rest, size)
        parts = following
    return trees.of(top[0])


def _divided(part: _Part, pivot: int, others: list[int], sizes: Int64[np.ndarray, " q"]) -> list[_Part]:
    """The parts that follow: those beside the way from the pivot up."""
    leaves = np.array(others, int)
    apart = sizes == part.size if part.size else np.zeros(len(leaves), bool)
    following = [_Part(leaves[apart].tolist(), part.parent, part.size)] if apart.any() else []
    leaves, sizes = leaves[~apart], sizes[~apart]
    found: Nested = pivot
    below = 1
    for size in np.unique(sizes):
        group = leaves[sizes == size].tolist()
        below += len(group)
        if below != size:
            raise NoTreeError(
                f"the smallest sum of summand {pivot} and summand {group[0]} seems to have {size} summands, and those "
                f"that are added to summand {pivot} by then are {below}"
            )
        node: list[Nested] = [found]
        if len(group) == 1:
            node += group
        else:
            following.append(_Part(group, node, int(size)))
        found = node
    part.parent.append(found)
    return following


@attrs.define
class _Open:
    """Leaves of a subtree that are to be divided; ``place`` is the list that the subtree is put into, and each of
    ``stands`` the subtree that one of the leaves stands for.

    With a ``witness``, a leaf of another child of the same node, they may be several children of that node, too.
    """

    leaves: list[int]
    place: list[Nested]
    stands: dict[int, list[Nested]] = attrs.field(factory=dict)
    witness: int | None = None

    def subtree(self, leaf: int) -> Nested:
        """What a leaf stands for."""
        return self.stands.get(leaf, leaf)

    def of(self, leaves: list[int], place: list[Nested], witness: int | None = None) -> _Open:
        """A part of these leaves."""
        return _Open(leaves, place, {one: self.stands[one] for one in leaves if one in self.stands}, witness)


def from_meetings(n: int, meets: Meets) -> Tree:
    """The tree of a sum of ``n`` positive numbers. Raises NoTreeError where the meetings are those of no tree."""
    rng = np.random.default_rng(_SEED)
    top: list[Nested] = []
    parts = [_Open(list(range(n)), top)]
    binary, at_once = _shape(n, meets, rng)
    if at_once and n > 2:
        return trees.of(list(range(n)))
    while parts:
        asked = []
        following: list[_Open] = []
        for part in parts:
            runs = _runs(part, meets, rng) if part.witness is not None and len(part.leaves) > _MANY else []
            if runs:
                following += [part.of(run, part.place) for run in runs]
            elif len(part.leaves) == 1:
                part.place.append(part.subtree(part.leaves[0]))
            elif len(part.leaves) == 2 and part.witness is None:
                part.place.append([part.subtree(leaf) for leaf in part.leaves])
            else:
                a, b = (part.leaves[int(place)] for place in rng.choice(len(part.leaves), 2, replace=False))
                others = [leaf for leaf in part.leaves if leaf not in (a, b)]
                asked.append((part, a, b, others))
        if asked:
            following += _answered(asked, meets, binary=binary)
        parts = following
    return trees.of(_flat(top[0]))


def _shape(n: int, meets: Meets, rng: np.random.Generator) -> tuple[bool, bool]:
    """Whether no three summands are in three children of a node, and whether all are, of some that are looked at."""
    if n <= _FEW:
        return False, False
    threes = np.array([rng.choice(n, 3, replace=False) for _ in range(min(n, _MOST))])
    found = np.array([meets(*np.roll(threes, turn, axis=1).T) for turn in range(3)]).sum(axis=0)
    return bool((found < 2).all()), bool((found == 3).all())


def _runs(part: _Open, meets: Meets, rng: np.random.Generator) -> list[list[int]]:
    """The children that leaves are in, if each is a run of leaves: so are the vectors of which a kernel adds up each
    before it adds them in a wider format. Empty if they are not, or may not be: then they are divided two by two, which
    takes as many rounds as there are children.
    """
    leaves = np.array(sorted(part.leaves))
    if part.witness is None:
        return []
    pairs = rng.integers(0, len(leaves), (4 * len(leaves), 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    i = np.concatenate([leaves[:-1], leaves[pairs[:, 0]]])
    k = np.concatenate([leaves[1:], leaves[pairs[:, 1]]])
    apart = meets(i, np.full(len(i), part.witness), k)
    # The number of the run of each leaf.
    run = np.concatenate([[0], np.cumsum(apart[: len(leaves) - 1])])
    if not np.array_equal(run[pairs[:, 0]] != run[pairs[:, 1]], apart[len(leaves) - 1 :]):
        return []
    return [leaves[run == one].tolist() for one in range(run[-1] + 1)]


def _answered(asked: list[tuple[_Open, int, int, list[int]]], meets: Meets, *, binary: bool) -> list[_Open]:
    """The parts that follow from those that are ``asked``, each with two of its leaves and the others."""
    counts = [len(others) for *_, others in asked]
    a = np.repeat([one for _, one, _, _ in asked], counts)
    b = np.repeat([one for _, _, one, _ in asked], counts)
    others = np.concatenate([np.array(one, int) for *_, one in asked])
    beside = [(one, part.witness, other) for part, one, other, _ in asked if part.witness is not None]
    i, j, k = np.array(beside, int).reshape(-1, 3).T
    with_a, alike = np.split(meets(np.r_[b, i], np.r_[a, j], np.r_[others, k]), [len(a)])
    # Where two summands come together first, no other two do, unless sums of more than two are rounded at once.
    open_ = ~with_a if binary else np.ones(len(a), bool)
    with_b = np.zeros(len(a), bool)
    with_b[open_] = meets(a[open_], b[open_], others[open_])
    ends, next_alike = np.cumsum(counts)[:-1], iter(alike.tolist())
    following = []
    for (part, one, other, rest), to_a, to_b in zip(asked, np.split(with_a, ends), np.split(with_b, ends), strict=True):
        shared = part.witness is not None and next(next_alike)
        following += _parted(part, one, other, np.array(rest, int), to_a, to_b, shared=shared)
    return following


def _parted(
    part: _Open,
    a: int,
    b: int,
    others: Int64[np.ndarray, " q"],
    to_a: Bool[np.ndarray, " q"],
    to_b: Bool[np.ndarray, " q"],
    *,
    shared: bool,
) -> list[_Open]:
    """The parts that follow: below a, below b, beside both, and outside of them; ``shared`` if a and b are in two
    children of the node that the part is put into.
    """
    node: list[Nested] = part.place if shared else []
    following = [part.of([a, *others[to_a & ~to_b].tolist()], node), part.of([b, *others[to_b & ~to_a].tolist()], node)]
    beside, outside = others[to_a & to_b].tolist(), others[~to_a & ~to_b].tolist()
    if shared and outside:
        raise NoTreeError(f"summands {a} and {b} seem to be added at once, and yet before summand {outside[0]}")
    if beside:
        following.append(part.of(beside, node, witness=a))
    if not shared:
        rest = part.of([a, *outside], part.place, part.witness)
        rest.stands[a] = node
        following.append(rest)
    return following


def _flat(nested: Nested) -> Nested:
    """The same without lists of one."""
    # From below, in the order of a walk: as deep as the sum is long.
    if isinstance(nested, int):
        return nested
    order: list[Nested] = [nested]
    for one in order:
        if not isinstance(one, int):
            order += [child for child in one if not isinstance(child, int)]
    flat: dict[int, Nested] = {}
    for one in reversed(order):
        if not isinstance(one, int):
            children = [child if isinstance(child, int) else flat[id(child)] for child in one]
            flat[id(one)] = children[0] if len(children) == 1 else children
    return flat[id(nested)]
