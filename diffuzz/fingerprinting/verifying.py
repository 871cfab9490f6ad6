"""Verifying: a recovered arithmetic, simulated in NumPy, against the box on random inputs, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.fingerprinting import exponentials
from diffuzz.fingerprinting import tree as trees
from diffuzz.fingerprinting.box import Box
from diffuzz.fingerprinting.finishing import FINISHES
from diffuzz.fingerprinting.reading import Reader, UnsteadyError
from diffuzz.fingerprinting.sums import BITS, WITHOUT_TREE, Sum, rounded
from diffuzz.fingerprinting.tree import Nested, Tree
from diffuzz.telling import Phase, tell

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

# Random inputs, fewer of long sums.
_LEAST, _MOST, _NUMBERS = 64, 1024, 2**19


@attrs.frozen
class Verified:
    """On how many of how many random inputs the simulation has the bits of the box; or, where what the box does with a
    sum is not known, whether its results are a ``function`` of the simulated sums, and each that of one sum only.
    ``inputs`` says which inputs they were, where they were not of all kinds.
    """

    agree: int
    of: int
    function: bool = False
    inputs: str = ""

    @property
    def all(self) -> bool:
        """Whether on all."""
        return self.agree == self.of

    @property
    def words(self) -> str:
        """The same in words."""
        if self.all and self.function:
            return f"verified on {self.of} random inputs: results are one function of the simulated sums"
        if self.all:
            return f"verified on {self.of} random inputs{f' {self.inputs},' if self.inputs else ''} to the bit"
        return f"agrees to the bit on {self.agree} of {self.of} random inputs only"


@attrs.frozen
class Simulated:
    """The simulation that has most of the bits of the box, if it has all of them; else without the sum."""

    sum: Sum | None
    finish: str
    verified: Verified


def rows_for(n: int) -> int:
    """How many random inputs there are."""
    return max(_LEAST, min(_MOST, _NUMBERS // n))


def random_rows(rng: np.random.Generator, rows: int, n: int, bits: int) -> Float64[np.ndarray, "rows n"]:
    """Rows of ordinary numbers, of numbers of many sizes, of positive ones, and of such that cancel."""
    x = rng.standard_normal((rows, n))
    x[1::4] *= 2.0 ** rng.integers(-10, 11, x[1::4].shape)
    x[2::4] = np.abs(x[2::4])
    half = n // 2
    x[3::4, half : 2 * half] = -x[3::4, :half] * (1 + 2.0**-18 * rng.standard_normal(x[3::4, :half].shape))
    return rounded(x, bits)


def signed(read: Reader, found: Sum, stored: int, seed: int) -> Verified:
    """A sum of numbers of any sign, or of products."""
    tell(Phase("verifying"))
    rng = np.random.default_rng(seed)
    n = read.sizes.n
    x = random_rows(rng, rows_for(n), n, stored)
    if not read.products or read.factor == 1.0:
        got = read(x)
        mine = found(x, np.ones_like(x)) if read.products else found(x)
        return _agreement(got, rounded(mine, stored))
    agree = 0
    # The second factors are those of a whole call, so there are a few calls with others.
    for part in np.array_split(x, 4):
        y = random_second(rng, read, stored)
        agree += _agreement(read(part, y), rounded(found(part, np.broadcast_to(y, part.shape)), stored)).agree
    return Verified(agree, len(x))


def random_second(rng: np.random.Generator, read: Reader, stored: int) -> Float64[np.ndarray, " n"]:
    """Second factors; of weights that cannot have any number, one of two."""
    n = read.sizes.n
    if not read.free:
        return np.where(rng.random(n) < 0.5, read.factor, 1.0)
    return rounded(rng.standard_normal(n), stored)


def _agreement(got: Float64[np.ndarray, " q"], mine: Float64[np.ndarray, " q"]) -> Verified:
    return Verified(int((got == mine).sum()), len(got))


def without_tree(read: Reader, stored: int, seed: int) -> tuple[str | None, Verified | None]:
    """The name of a sum that no tree describes, and has all bits of the box."""
    rng = np.random.default_rng(seed)
    n = read.sizes.n
    x = random_rows(rng, rows_for(n), n, stored)
    got = read(x)
    for name, function in WITHOUT_TREE.items():
        verified = _agreement(got, rounded(function(x), stored))
        if verified.all:
            return name, verified
    return None, None


def positive(box: Box, n: int, tree: Tree | None, seed: int) -> Simulated:
    """A sum of squares or exponentials: its tree if it is known, or each of the usual ones, with each way to finish."""
    tell(Phase("verifying"))
    rng = np.random.default_rng(seed)
    target, rows = box.target.name, rows_for(n)
    if target == "softmax":
        given, terms = _softmax_inputs(box, rng, rows, n)
        got = box({"z": given}).reshape(rows, n)
        eps = 0.0
    else:
        terms = random_rows(rng, rows, n, BITS["float32"])
        eps = 1e-5
        got, again = (_result(box, terms, eps) for _ in range(2))
        if not np.array_equal(got, again, equal_nan=True):
            raise UnsteadyError("none: two calls with the same numbers differ")
    best = Simulated(None, "", Verified(0, rows))
    for sum_ in _sums(tree, n, products=target != "softmax"):
        total = sum_(terms, terms) if sum_.fused is not None else sum_(terms)
        for name, finish in FINISHES[target].items():
            with np.errstate(all="ignore"):
                mine = np.asarray(finish(total, terms, eps), np.float64)
            same = (mine == got).reshape(rows, -1).all(axis=1)
            verified = Verified(int(same.sum()), rows)
            if verified.all:
                return Simulated(sum_, name, verified)
            if verified.agree > best.verified.agree:
                best = Simulated(None, "", verified)
    return best


def ordinary(box: Box, n: int, found: Simulated, names: tuple[str, ...], seed: int) -> Verified:
    """A softmax of ordinary logits, where its exponentials are those of known functions with these ``names``. Sums that
    are scaled anew at each larger logit (online) have other bits here, which do not show far below the largest one.
    """
    assert found.sum is not None
    rng = np.random.default_rng([seed, n])
    rows = rows_for(n)
    z = (rng.standard_normal((rows, n)) * 2.0 ** rng.integers(-1, 3, (rows, 1))).astype(np.float32)
    got = box({"z": z}).reshape(rows, n)
    best = Verified(0, rows)
    for exp in exponentials.named(names):
        with np.errstate(all="ignore"):
            terms = np.asarray(exp(z - z.max(axis=1, keepdims=True)), np.float64)
            mine = np.asarray(FINISHES["softmax"][found.finish](found.sum(terms), terms, 0.0), np.float64)
        best = max(best, Verified(int((mine == got).all(axis=1).sum()), rows), key=lambda one: one.agree)
    return best


def shown(read: Reader, tree: Tree, seed: int) -> Simulated:
    """A sum whose finish is not known: whether results are a function of the simulated sum, and no two sums of one
    result. The inputs are such that there are few sums: 1, and numbers of which only whole hundreds make an ULP of it.
    """
    rng = np.random.default_rng(seed)
    rows = rows_for(tree.n)
    x = rng.uniform(0.1, 0.9, (rows, tree.n)) * 2.0**-12
    x[np.arange(rows), rng.integers(0, tree.n, rows)] = 1
    x = x.astype(np.float32).astype(np.float64)
    got = read(x**2)
    best = Simulated(None, "", Verified(0, rows))
    for one in _sums(tree, tree.n, products=True):
        total = rounded(one(x, x), BITS["float32"])
        pairs, counts = np.unique(np.stack([total, got]), axis=1, return_counts=True)
        if len(np.unique(total)) < 2:
            # Anything is a function of a single sum.
            continue
        # Of each sum, and of each result, there is one pair only.
        alone = [(pairs == pairs[:, place : place + 1]).any(axis=0).sum() == 1 for place in range(pairs.shape[1])]
        agree = int(counts[np.array(alone)].sum())
        if agree > best.verified.agree:
            best = Simulated(one if agree == rows else None, "", Verified(agree, rows, function=True))
        if agree == rows:
            break
    return best


def _result(box: Box, x: Float64[np.ndarray, "rows n"], eps: float) -> Float64[np.ndarray, " ..."]:
    if box.target.name == "mean_square":
        return box({"x": x[:, None].astype(np.float32)}).reshape(len(x))
    arrays = {"x": x.astype(np.float32), "eps_exponent": np.zeros((len(x), 1), np.int32)}
    return box(arrays, eps=eps).reshape(x.shape)


def _softmax_inputs(
    box: Box, rng: np.random.Generator, rows: int, n: int
) -> tuple[np.ndarray, Float64[np.ndarray, "rows n"]]:
    """Logits, and their exponentials as the box itself computes them: those far below the largest show."""
    pool = rng.uniform(-19.0, -17.4, 64).astype(np.float32)
    z = np.full((len(pool), n), -120, np.float32)
    z[:, 0] = 0
    shown = np.zeros((len(pool), n))
    # An exponential may be another at another place of a row: in a vector, or in the rest of it.
    for place in _looked_at(n):
        alone = z.copy()
        alone[:, place] = pool
        shown[:, place] = box({"z": alone}).reshape(len(pool), n)[:, place]
    chosen = rng.integers(0, len(pool), (rows, n))
    # One of the largest logits makes every bit of the sum show; several make a sum by which division differs from a
    # product with its reciprocal.
    tops = rng.permuted(np.tile(np.arange(n), (rows, 1)), axis=1) < np.where(
        np.arange(rows) % 2 == 0, 1, rng.integers(1, n + 1, rows)
    ).reshape(-1, 1)
    given = np.where(tops, np.float32(0), pool[chosen])
    terms = np.where(tops, 1.0, np.take_along_axis(_filled(shown, n), chosen, axis=0))
    return given, terms


def _looked_at(n: int) -> range:
    """Places whose exponentials are read; the others are as the first one that is."""
    return range(1, n) if n <= 64 else range(n - 32, n)


def _filled(shown: Float64[np.ndarray, "pool n"], n: int) -> Float64[np.ndarray, "pool n"]:
    places = _looked_at(n)
    if not len(places):
        return np.ones_like(shown)
    return np.where(np.arange(n) < places[0], shown[:, places[0], None], shown)


def _sums(tree: Tree | None, n: int, *, products: bool) -> Iterator[Sum]:
    """What is tried: the tree, or the usual ones, in float32, with products that are rounded, fused or exact."""
    for one in [tree] if tree is not None else map(trees.of, usual(n)):
        wide = np.array([len(node) > 2 for node in one.nodes], bool)
        bits = np.where(wide, BITS["float64"], BITS["float32"])
        if not products:
            yield Sum(one, bits)
            continue
        for fused in (np.zeros(n, bool), chained(one), np.ones(n, bool)):
            yield Sum(one, bits, fused)


def chained(tree: Tree) -> Bool[np.ndarray, " n"]:
    """The products that are fused where each is that can be: all but the first of those that begin a sum."""
    fused = np.zeros(tree.n, bool)
    for node in tree.nodes:
        leaves = [child for child in node if child < tree.n]
        fused[leaves if len(leaves) < len(node) else sorted(leaves)[1:]] = True
    return fused


def usual(n: int) -> Iterator[Nested]:
    """Orders that kernels have: in sequence, in lanes, pairwise, and in float64, in which no order shows."""
    yield numpy_pairwise(0, n)
    yield trees.sequence(range(n))
    if n > 2:
        yield tuple(range(n))
    yield trees.pairwise(range(n))
    for lanes in (2, 4, 8, 16, 32, 64, 128):
        if lanes >= n:
            return
        if lanes in (8, 16):
            # A vector at a time is added up, and then in float64 with what is left over.
            vectors = [trees.by_halves(range(start, start + lanes)) for start in range(0, n - lanes + 1, lanes)]
            yield (*vectors, *range(n // lanes * lanes, n))
        if 4 * lanes < n and n % (4 * lanes) == 0:
            # Four vectors at a time, which are added up in each lane first.
            several = [
                trees.sequence([trees.sequence(range(lane + lanes * one, n, 4 * lanes)) for one in range(4)])
                for lane in range(lanes)
            ]
            yield trees.by_halves(several)
            yield trees.sequence(several)
        whole = n // lanes * lanes
        for end in dict.fromkeys((whole, n)):
            parts = [trees.sequence(range(lane, end, lanes)) for lane in range(lanes)]
            tail = range(end, n)
            for combined in (trees.by_halves(parts), trees.pairwise(parts), trees.sequence(parts)):
                yield trees.sequence([combined, *tail])


def numpy_pairwise(start: int, end: int) -> Nested:
    """The order of NumPy's sums of numbers that lie one after the other."""
    n = end - start
    if n < 8:
        return trees.sequence(range(start, end))
    if n <= 128:
        whole = n - n % 8
        lanes = [trees.sequence(range(start + lane, start + whole, 8)) for lane in range(8)]
        return trees.sequence([trees.pairwise(lanes), *range(start + whole, end)])
    half = n // 2
    half -= half % 8
    return (numpy_pairwise(start, start + half), numpy_pairwise(start + half, end))
