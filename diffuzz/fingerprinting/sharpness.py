"""The error bound of a sum in the order that was recovered, beside that of a sum in any order.

    any order     gamma_{n-1} sum |x_i|, and gamma_n for products
    this order    E of the root, where of each node E = (1 + u) (sum of the E below) + u (sum of the |x_i| below),
                  and of each product that is rounded E = u |x_i|

u is the unit roundoff of the node, so a node in float64 adds next to nothing. Both hold for whatever the summands are,
apart from underflow; the running analysis of diffuzz.analysis is that of any order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.fingerprinting.sums import BITS, NEAREST, Sum
from diffuzz.targets.error_bounds import gamma

if TYPE_CHECKING:
    from jaxtyping import Float64


def bound(sum_: Sum, sizes: Float64[np.ndarray, "rows n"]) -> Float64[np.ndarray, " rows"]:
    """The bound of the error of a sum in its order, stored as float32, for summands of these sizes |x_i|."""
    tree = sum_.tree
    nearest = 1 if sum_.rounding == NEAREST else 2
    unit = nearest * 2.0 ** -np.minimum(sum_.bits, BITS["float64"]).astype(np.float64)
    twice = sum_.twice * (sum_.bits < BITS["float32"])
    unit = unit + twice * 2.0 ** -BITS["float32"] * (1 + unit)
    below = np.empty((tree.root + 1, len(sizes)))
    errors = np.zeros_like(below)
    below[: tree.n] = sizes.T
    if sum_.fused is not None:
        rounded = ~sum_.fused
        errors[: tree.n][rounded] = nearest * 2.0**-sum_.product * below[: tree.n][rounded]
    for k, node in enumerate(tree.nodes):
        children = list(node)
        below[tree.n + k] = below[children].sum(axis=0)
        errors[tree.n + k] = (1 + unit[k]) * errors[children].sum(axis=0) + unit[k] * below[tree.n + k]
    if int(sum_.bits[-1:].max(initial=BITS["float32"])) > BITS["float32"]:
        errors[-1] += 2.0 ** -BITS["float32"] * (below[-1] + errors[-1])
    # What this was computed with, in float64.
    return np.asarray(errors[-1] * (1 + 2.0**-40))


def any_order(sum_: Sum, sizes: Float64[np.ndarray, "rows n"]) -> Float64[np.ndarray, " rows"]:
    """The bound of the error of a float32 sum in any order."""
    n = sum_.tree.n
    return np.asarray(gamma(n - 1 if sum_.fused is None else n) * sizes.sum(axis=1))


def sharper(sum_: Sum, *, rows: int = 64, seed: int = 0) -> float | None:
    """How many times smaller the bound of this order is: the median over rows of normal numbers. None where it does not
    apply: of factors that are rounded themselves, of sums shorter than float32, and of one summand.
    """
    short = min(*sum_.factors, int(sum_.bits.min(initial=BITS["float32"]))) < BITS["float32"]
    if sum_.tree.n < 2 or short:
        return None
    sizes = np.abs(np.random.default_rng(seed).standard_normal((rows, sum_.tree.n)))
    return float(np.median(any_order(sum_, sizes) / bound(sum_, sizes)))
