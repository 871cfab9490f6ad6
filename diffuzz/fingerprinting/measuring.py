"""Measuring: tree, significands, fused products, rounding and subnormal numbers of a sum, from its results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.fingerprinting import masks, words
from diffuzz.fingerprinting.masks import NoTreeError
from diffuzz.fingerprinting.reading import Reader, inexact
from diffuzz.fingerprinting.sums import BITS, NEAREST, ZERO, Sum
from diffuzz.fingerprinting.tree import Tree
from diffuzz.telling import Phase, tell

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int64

# A large number, and the one that is lost beside it: of float32's range, and of float16's.
_SCALES = ((2.0**100, 1.0), (2.0**15, 2.0**-24), (2.0**15, 2.0**-14))
# Exponents of a number beside which one of 1 is lost, or not, in the formats that there are.
_WIDTHS = (24, 53, 8, 11)
_WIDEST = 64
# Nodes of a kind whose significands are measured; all of them if these differ.
_SAMPLE = 8
_TINY = float(np.finfo(np.float32).tiny)
_SEED = 2
_PAIRS = 32
# Numbers of a batch of masks: more are read in several.
_MOST_NUMBERS = 2**22


@attrs.frozen
class Scale:
    """``large`` is M; ``one`` is what stands for 1; ``capacity`` is how many ones a sum can count."""

    large: float
    one: float
    capacity: int

    @property
    def half(self) -> bool:
        """Whether numbers above float16's range are none."""
        return self.large < 2.0**16


class NothingLostError(NoTreeError):
    """No number is lost beside a large one: the sum is exact, or compensated; one line."""


def scale(read: Reader) -> Scale:
    """A scale in which results count ones. Raises NoTreeError where none is found: then it is no sum."""
    n, said = read.sizes.n, ""
    for large, one in _SCALES:
        rows = np.zeros((3, n))
        rows[0] = one
        rows[1, 0], rows[1, -1] = large, -large
        rows[2, 0] = one
        if n == 1:
            rows[1] = 0
        got = read(rows)
        if not np.isfinite(got).all() or got[1] != 0 or got[2] != one:
            said = said or f"a summand of {one:g} gives {got[2]:g}, and {large:g} and its negative {got[1]:g}"
            continue
        capacity = n
        while capacity > 1 and not np.array_equal(
            read(_chunks(n, capacity) * one), one * _chunks(n, capacity).sum(axis=1)
        ):
            capacity = -(-capacity // 2)
        if capacity == 1 and n > 1:
            said = said or f"two summands of {one:g} give something else than {2 * one:g}"
            continue
        if not np.array_equal(
            read(np.eye(n)[:: max(n // 64, 1)] * one), np.full(len(range(0, n, max(n // 64, 1))), one)
        ):
            said = said or f"a summand of {one:g} is lost among zeros"
            continue
        return Scale(large, one, capacity)
    raise NoTreeError(f"its result is no sum of its summands: {said}")


def _chunks(n: int, capacity: int) -> Float64[np.ndarray, "chunks n"]:
    """Ones in as many places as can be counted, in rows that cover all places."""
    chunks = np.zeros((-(-n // capacity), n))
    chunks[np.arange(n) // capacity, np.arange(n)] = 1
    return chunks


def tree(read: Reader, at: Scale | None) -> Tree:
    """The tree of the sums. Raises NoTreeError where results are those of none."""
    tell(Phase("reading masks"))
    n = read.sizes.n
    if at is None:
        return masks.from_meetings(n, _meets(read))
    if n > 2:
        rng = np.random.default_rng(_SEED)
        pairs = np.array([rng.choice(n, 2, replace=False) for _ in range(min(_PAIRS, n * n))])
        if (_sizes(read, at, pairs[:, 0], pairs[:, 1]) == 2).all():
            raise NothingLostError("no summand is lost beside a large one")
    return masks.from_sizes(n, lambda i, j: _sizes(read, at, i, j))


def _sizes(read: Reader, at: Scale, i: Int64[np.ndarray, " q"], j: Int64[np.ndarray, " q"]) -> Int64[np.ndarray, " q"]:
    n = read.sizes.n
    survivors = np.zeros(len(i))
    step = max(_MOST_NUMBERS // n, 1)
    for chunk in (_chunks(n, at.capacity) * at.one).astype(np.float32):
        for start in range(0, len(i), step):
            a, b = i[start : start + step], j[start : start + step]
            rows = np.repeat(chunk[None], len(a), axis=0)
            rows[np.arange(len(a)), a], rows[np.arange(len(a)), b] = at.large, -at.large
            survivors[start : start + step] += read(rows) / at.one
    if not np.array_equal(survivors, np.rint(survivors)) or survivors.min() < 0 or survivors.max() > n - 2:
        odd = survivors[(survivors != np.rint(survivors)) | (survivors < 0) | (survivors > n - 2)][0]
        raise NoTreeError(f"among {n - 2} ones, two large numbers that cancel leave {odd:g}, which counts none of them")
    return n - survivors.astype(int)


def _meets(read: Reader) -> masks.Meets:
    """Whether two small numbers are added to each other before 1 is added to them."""
    n = read.sizes.n

    def asked(
        small: float, i: Int64[np.ndarray, " q"], j: Int64[np.ndarray, " q"], k: Int64[np.ndarray, " q"]
    ) -> Bool[np.ndarray, " q"]:
        found = np.zeros(len(i), bool)
        step = max(_MOST_NUMBERS // n, 1)
        for start in range(0, len(i), step):
            a, b, c = (one[start : start + step] for one in (i, j, k))
            rows = np.zeros((len(a), n), np.float32)
            at = np.arange(len(a))
            rows[at, b], rows[at, c], rows[at, a] = small, small, 1.0
            # In a wider format one alone is kept, too, and is seen in some results: two are more.
            found[start : start + step] = read.excess(read(rows)) > 1.5 * small
        return found

    alone = read(np.eye(n)[:1])
    if np.isnan(alone).any():
        raise NoTreeError("its result of a single summand is no number")
    rng = np.random.default_rng(_SEED)
    threes = np.array([rng.choice(n, 3, replace=False) for _ in range(8)]) if n > 2 else np.zeros((0, 3), int)
    for bits in (BITS["float32"], BITS["float16"], BITS["bfloat16"]):
        small = 0.9 * 2.0**-bits
        if not len(threes) or any(asked(small, *np.roll(threes, turn, axis=1).T).any() for turn in range(3)):
            return lambda i, j, k: asked(small, i, j, k)
    raise NoTreeError("its result does not show which summands are added first")


def significands(read: Reader, at: Scale, found: Tree) -> Int64[np.ndarray, " nodes"]:
    """The bits of each node's significand. That of the root does not show, and is taken to be that of what it adds.

    Raises NoTreeError where a node keeps a number in no such way.
    """
    bits = np.full(len(found.nodes), BITS["float32"])
    kinds = words.kinds(found)
    alike: dict[int, list[int]] = {}
    for node in range(found.n, found.root):
        alike.setdefault(kinds[node], []).append(node)
    rng = np.random.default_rng(_SEED)
    some = {kind: rng.permutation(nodes)[:_SAMPLE].tolist() for kind, nodes in alike.items()}
    asked = [node for nodes in some.values() for node in nodes]
    known = dict(zip(asked, _widths(read, at, found, asked), strict=True))
    mixed = [
        node
        for kind, nodes in alike.items()
        if len({known[node] for node in some[kind]}) > 1
        for node in nodes
        if node not in known
    ]
    known |= dict(zip(mixed, _widths(read, at, found, mixed), strict=True))
    for kind, nodes in alike.items():
        for node in nodes:
            bits[node - found.n] = known.get(node, known[some[kind][0]])
    inner = [child for child in found.children(found.root) if child >= found.n]
    if inner:
        bits[-1] = max(int(bits[child - found.n]) for child in inner)
    return bits


def _widths(read: Reader, at: Scale, found: Tree, nodes: list[int]) -> list[int]:
    """The significands of some nodes."""
    threes = np.array([_three(found, node) for node in nodes], int).reshape(-1, 3)
    most = int(np.log2(at.large / at.one))
    widths = np.full(len(nodes), _WIDEST)
    open_ = np.arange(len(nodes))
    for width in (width for width in _WIDTHS if width <= most):
        if not len(open_):
            break
        lost = ~_kept(read, at, threes[open_], width)
        kept = _kept(read, at, threes[open_], width - 1)
        widths[open_[lost & kept]] = width
        open_ = open_[~(lost & kept)]
    for place in open_:
        single = threes[place : place + 1]
        first = next((width for width in range(1, most) if not _kept(read, at, single, width)[0]), _WIDEST)
        widths[place] = first
    return [int(width) for width in widths]


def _three(found: Tree, node: int) -> tuple[int, int, int]:
    """Leaves in two children of a node, and one that is added right after."""
    a, b, *_ = found.children(node)
    parent = int(found.parents[node])
    beside = next(child for child in found.children(parent) if child != node)
    return int(found.first[a]), int(found.first[b]), int(found.first[beside])


def _kept(read: Reader, at: Scale, threes: Int64[np.ndarray, "q 3"], width: int) -> Bool[np.ndarray, " q"]:
    """Whether 1 is kept beside 2^width, until that is subtracted."""
    found = np.zeros(len(threes), bool)
    step = max(_MOST_NUMBERS // read.sizes.n, 1)
    for start in range(0, len(threes), step):
        part = threes[start : start + step]
        rows = np.zeros((len(part), read.sizes.n))
        each = np.arange(len(part))
        rows[each, part[:, 0]], rows[each, part[:, 1]] = at.one * 2.0**width, at.one
        rows[each, part[:, 2]] = -at.one * 2.0**width
        found[start : start + step] = read(rows) != 0
    return found


# Results of M + 1, M + 3, M + 1.5, -M - 1.5 in a significand in which M and M + 2 are neighbours, less M.
_ROUNDINGS = {
    (0.0, 4.0, 2.0, -2.0): NEAREST,
    (2.0, 4.0, 2.0, -2.0): "nearest, ties away from zero",
    (0.0, 2.0, 0.0, 0.0): ZERO,
    (0.0, 2.0, 0.0, -2.0): "down",
    (2.0, 4.0, 2.0, 0.0): "up",
}


def rounding(read: Reader, at: Scale, found: Tree, bits: Int64[np.ndarray, " nodes"], stored: int) -> str:
    """How sums are rounded; "nearest" where nothing shows it. ``stored`` is the significand of the summands."""
    candidates = [node for node in range(found.n, found.root) if bits[node - found.n] <= min(stored, 24)]
    if not candidates:
        return NEAREST
    node = min(candidates, key=lambda one: len(found.children(one)))
    a, b, c = _three(found, node)
    large = 2.0 ** int(bits[node - found.n])
    rows = np.zeros((4, found.n))
    for row, (first, second, minus) in enumerate(
        ((large, 1.0, large), (large + 2, 1.0, large), (large, 1.5, large), (-large, -1.5, -large))
    ):
        rows[row, a], rows[row, b], rows[row, c] = first, second, -minus
    got = read(rows * at.one) / at.one
    seen = (float(got[0]), float(got[1]), float(got[2]), float(got[3]))
    return _ROUNDINGS.get(seen, f"unknown: {', '.join(f'{one:g}' for one in got)}")


def factors(read: Reader) -> tuple[int, int]:
    """The significands that both factors of products are rounded to."""
    n = read.sizes.n
    found = []
    widths = (7, 10, 23)
    rows = np.zeros((len(widths), n))
    rows[:, 0] = [1 + 2.0**-width for width in widths]
    got = read(rows)
    kept = [width + 1 for width, one, result in zip(widths, rows[:, 0], got, strict=True) if one == result]
    found.append(max(kept, default=1))
    if not read.free:
        return found[0], BITS["float32"]
    one = np.zeros((1, n))
    one[0, 0] = 1.0
    kept = [width + 1 for width in widths if read(one, np.full(n, 1 + 2.0**-width))[0] == 1 + 2.0**-width]
    return found[0], max(kept, default=1)


def fused(read: Reader, found: Tree) -> Bool[np.ndarray, " n"]:
    """The products that are added without having been rounded.

    Product i is one that would be rounded, and beside it, in the sum that it is added in, stands its rounded value with
    the other sign. The second factors are the same for a whole call: so in each of several calls half of the summands
    have one, and the others have 1.
    """
    n = found.n
    first, second = inexact(read.factor)
    fused = np.zeros(n, bool)
    if n == 1:
        return fused
    partners = np.zeros(n, int)
    for leaf in range(n):
        beside = next(child for child in found.children(int(found.parents[leaf])) if child != leaf)
        partners[leaf] = found.first[beside]
    leaves = np.arange(n)
    done = np.zeros(n, bool)
    for bit in range(n.bit_length()):
        for side in (0, 1):
            chosen = (leaves >> bit) & 1 == side
            now = np.flatnonzero(chosen & ~chosen[partners] & ~done)
            if not len(now):
                continue
            y = np.where(chosen, read.factor, 1.0)
            step = max(_MOST_NUMBERS // n, 1)
            for start in range(0, len(now), step):
                part = now[start : start + step]
                rows = np.zeros((len(part), n))
                rows[np.arange(len(part)), part], rows[np.arange(len(part)), partners[part]] = first, -second
                fused[part] = read(rows, y) != 0
            done[now] = True
    return fused


def flushes(read: Reader) -> tuple[bool, bool] | None:
    """Whether subnormal numbers that come in, and sums that are, count as 0; None where no result shows it."""
    if read.sizes.n < 2:
        return None
    rows = np.zeros((2, read.sizes.n))
    rows[0, 0], rows[0, -1] = _TINY / 2, _TINY
    rows[1, 0], rows[1, -1] = 1.5 * _TINY, -_TINY
    got = read(rows)
    known = {(1.5 * _TINY, _TINY / 2): (False, False), (_TINY, 0.0): (True, True), (_TINY, _TINY / 2): (True, False)}
    known[1.5 * _TINY, 0.0] = (False, True)
    return known.get((float(got[0]), float(got[1])))


def simulated(
    found: Tree,
    bits: Int64[np.ndarray, " nodes"],
    *,
    fused: Bool[np.ndarray, " n"] | None,
    factors: tuple[int, int] = (24, 24),
    rounding: str = NEAREST,
    flushes: tuple[bool, bool] | None = None,
    half: bool = False,
) -> Sum:
    """The sum with what was measured, as it can be computed here."""
    how = rounding if rounding in (NEAREST, ZERO) else NEAREST
    return Sum(found, bits, fused, factors=factors, rounding=how, flushes=flushes or (False, False), half=half)
