"""Sums in NumPy, to the bit, in any tree and precision: what a recovered arithmetic is verified with.

A node adds up its children as if exactly, and rounds once to its significand. A product that is ``fused`` is added
without having been rounded. What is rounded to 53 bits is the sum that float64 has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.fingerprinting.tree import Tree
from diffuzz.kernels.fma import odd_sum

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int64

# Bits of significands, by the name of the format.
BITS = {"bfloat16": 8, "float16": 11, "float32": 24, "float64": 53}
NEAREST, ZERO = "nearest", "toward zero"
_SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)


@attrs.frozen(eq=False, slots=False)
class Sum:
    """How a sum of products, or of numbers, is computed.

    tree        which is added to which
    bits        the significand that each node of the tree is rounded to
    fused       which products are added without having been rounded; None where there are no products
    product     the significand that the other products are rounded to
    factors     the significands that the two factors are rounded to before they are multiplied
    rounding    "nearest" (ties to even) or "toward zero", of nodes below 53 bits
    half        whether what has 11 bits is a float16 number, with its range of exponents
    twice       whether nodes below 24 bits are rounded to 24 bits first, as a float32 sum that is then stored
    aligned     of nodes that add more than two: the bits that summands keep below the first bit of the largest of them,
                as adders of units for products of matrices do; None where they are added as if exactly
    wide        the rounding of such nodes
    flushes     whether subnormal float32 numbers count as 0: (those that come in, those that come out of a node)
    """

    tree: Tree
    bits: Int64[np.ndarray, " nodes"]
    fused: Bool[np.ndarray, " n"] | None = None
    product: int = 24
    factors: tuple[int, int] = (24, 24)
    rounding: str = NEAREST
    flushes: tuple[bool, bool] = (False, False)
    half: bool = False
    twice: bool = False
    aligned: int | None = None
    wide: str = NEAREST

    def __call__(
        self, x: Float64[np.ndarray, "rows n"], y: Float64[np.ndarray, "rows n"] | None = None
    ) -> Float64[np.ndarray, " rows"]:
        """The sum of each row of x, or of the products of x and y."""
        with np.errstate(all="ignore"):
            return np.asarray(self._nodes(self._terms(x, y))[-1])

    def _terms(
        self, x: Float64[np.ndarray, "rows n"], y: Float64[np.ndarray, "rows n"] | None
    ) -> Float64[np.ndarray, "n rows"]:
        """The summands, of which products of float32 numbers are exact in float64."""
        x = self._flushed(np.asarray(x, np.float64), self.flushes[0])
        a = self._rounded(x, self.factors[0])
        if y is None:
            return np.ascontiguousarray(a.T)
        b = self._flushed(np.asarray(y, np.float64), self.flushes[0])
        terms = np.ascontiguousarray((a * self._rounded(b, self.factors[1])).T)
        fused = np.zeros(len(terms), bool) if self.fused is None else self.fused
        terms[~fused] = self._flushed(rounded(terms[~fused], self.product, self.rounding), self.flushes[1])
        return terms

    def _nodes(self, terms: Float64[np.ndarray, "n rows"]) -> Float64[np.ndarray, "nodes rows"]:
        """The values of all leaves and nodes."""
        values = np.empty((self.tree.root + 1, terms.shape[1]))
        values[: self.tree.n] = terms
        for nodes, children in self._levels:
            bits = int(self.bits[nodes[0] - self.tree.n])
            if self.aligned is not None and children.shape[1] > 2:
                total = self._aligned(values[children])
                values[nodes] = self._flushed(rounded(total, bits, self.wide), self.flushes[1])
                continue
            total = values[children[:, 0]]
            for place in range(1, children.shape[1]):
                other = values[children[:, place]]
                total = total + other if bits >= 53 else odd_sum(total, other)
            if self.twice and bits < BITS["float32"]:
                total = rounded(total, BITS["float32"])
            values[nodes] = self._flushed(self._rounded(total, bits), self.flushes[1])
        return values

    def _aligned(self, parts: Float64[np.ndarray, "k children rows"]) -> Float64[np.ndarray, "k rows"]:
        _, exponent = np.frexp(np.abs(parts).max(axis=1, keepdims=True))
        place = exponent - 1 - (self.aligned or 0)
        return np.asarray(np.ldexp(np.trunc(np.ldexp(parts, -place)), place).sum(axis=1))

    def _rounded(self, values: Float64[np.ndarray, " ..."], bits: int) -> Float64[np.ndarray, " ..."]:
        if self.half and bits == BITS["float16"]:
            return np.asarray(values.astype(np.float16).astype(np.float64))
        return rounded(values, bits, self.rounding)

    @cached_property
    def _levels(self) -> Sequence[tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, "k children"]]]:
        """Nodes that can be computed at once, and their children."""
        groups: dict[tuple[int, int, int], list[int]] = {}
        for k, node in enumerate(self.tree.nodes):
            height = int(self.tree.heights[self.tree.n + k])
            groups.setdefault((height, len(node), int(self.bits[k])), []).append(self.tree.n + k)
        return [
            (np.array(nodes), np.array([self.tree.nodes[node - self.tree.n] for node in nodes]))
            for _, nodes in sorted(groups.items())
        ]

    @staticmethod
    def _flushed(values: Float64[np.ndarray, " ..."], flush: bool) -> Float64[np.ndarray, " ..."]:
        return np.where(np.abs(values) < _SMALLEST_NORMAL, 0.0, values) if flush else values


def rounded(values: Float64[np.ndarray, " ..."], bits: int, how: str = NEAREST) -> Float64[np.ndarray, " ..."]:
    """``values`` in a significand of ``bits``; with 24, float32's range of exponents, too."""
    if bits >= 53:
        return values
    if bits == BITS["float32"] and how == NEAREST:
        return np.asarray(values.astype(np.float32).astype(np.float64))
    fraction, exponent = np.frexp(values)
    scaled = np.ldexp(fraction, bits)
    return np.asarray(np.ldexp(np.rint(scaled) if how == NEAREST else np.trunc(scaled), exponent - bits))


def kahan(x: Float64[np.ndarray, "rows n"]) -> Float64[np.ndarray, " rows"]:
    """Kahan's sum in float32: what an addition loses is subtracted from the next summand."""
    x = np.asarray(x, np.float32)
    total, lost = np.zeros(len(x), np.float32), np.zeros(len(x), np.float32)
    with np.errstate(all="ignore"):
        for place in range(x.shape[1]):
            corrected = x[:, place] - lost
            following = total + corrected
            lost = (following - total) - corrected
            total = following
    return total.astype(np.float64)


def neumaier(x: Float64[np.ndarray, "rows n"]) -> Float64[np.ndarray, " rows"]:
    """Neumaier's sum in float32: what additions lose is added up beside them, and added at the end."""
    x = np.asarray(x, np.float32)
    total, lost = x[:, 0].copy(), np.zeros(len(x), np.float32)
    with np.errstate(all="ignore"):
        for place in range(1, x.shape[1]):
            one = x[:, place]
            following = total + one
            larger = np.abs(total) >= np.abs(one)
            lost = lost + np.where(larger, (total - following) + one, (one - following) + total)
            total = following
        return (total + lost).astype(np.float64)


def exact(x: Float64[np.ndarray, "rows n"]) -> Float64[np.ndarray, " rows"]:
    """The exact sum, rounded once."""
    return np.array([math.fsum(row) for row in np.asarray(x, np.float64)])


# Sums that no tree describes, in the words of a report.
WITHOUT_TREE: dict[str, Callable[[Float64[np.ndarray, "rows n"]], Float64[np.ndarray, " rows"]]] = {
    "exact: the sum rounded once": exact,
    "compensated (Kahan)": kahan,
    "compensated (Neumaier)": neumaier,
}
