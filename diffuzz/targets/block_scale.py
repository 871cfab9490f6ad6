r"""Block scale: does the drift of a quantised matvec depend on the scale of its weight blocks?

One row of Q4_K weights and one activation are evaluated seven times, with the f16 scale d of every block set to 0.001,
0.01, 0.05, 0.1, 0.5, 1 and 10 in turn. Path A dequantises the weights (APR), and path B is aprender's fused product
(GGUF). Published (FFN-GGUF-010, M97, A3): with dmin = 0 the relative drift of one input is 0.0919 % at each d, which is
a factor of 1.00. (The published bits are kept: 0x2933, published as 0.05, is 0.0406, and 0x1410 is 0.000992.)

**Measure.** max_d drift(d) / max(min_d drift(d), floor), where drift(d) = |A - B| / (||w||_1 max|x|) and the norm of w
is that of its terms |d sc q| + |dmin m|. The floor (1e-4) keeps the ratio finite if the drift happens to vanish at one
d.

**Bound with mins=true.** drift(d) <= 1/254 plus rounding, so the ratio is at most (1/254 + rounding) / floor, 39.4 for
1e-4. It is reached: A - B = d alpha - beta, with alpha from the codes and beta from the minima, vanishes at d = beta /
alpha. At a much larger d only alpha is left, which may be as large as the error of the quantiser. So the scale of a
block decides how much of the drift its minima cancel.

**Bound with mins=false.** dmin = 0. A, B and ||w||_1 are all d times something that does not depend on d, up to float32
rounding: drift(d) is within r = gamma_{n+4} + gamma_{n/32+6} of one number t. The ratio (t + r) / max(t - r, floor) is
largest at t - r = floor: 1 + 2 r / floor. So no input makes the drift depend on the scale, and a value above 1 is
rounding.

**Rounding of B.** B is a left fold of one float32 term for each sub-block of 32. Each term is a difference of two
products of rounded scales. That makes n/32 sums, three products, one difference, and the rounding of the scales:
gamma_{n/32+6}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from diffuzz import formats
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.kernels import apr, exact, fused, gguf
from diffuzz.targets import error_bounds, matvec
from diffuzz.targets.drift import Drift
from diffuzz.targets.outcome import Arrays, Bound, Outcome
from diffuzz.targets.parameter import Parameter, ParameterError, Params
from diffuzz.targets.target import Target

if TYPE_CHECKING:
    from jaxtyping import Float64, UInt8

FORMAT = "q4_K"
SCALES = np.array([0x1410, 0x211F, 0x2933, 0x2E66, 0x3800, 0x3C00, 0x4900], np.uint16).view(np.float16)

PARAMETERS = (
    Parameter("n", 256, "length of the row, a multiple of 256", low=256, high=65536),
    # Aprender's quantiser stores zeros for blocks with a peak below 1e-10. Such blocks must not matter beside the peak
    # of the row.
    Parameter("max_abs", 16.0, "largest |x|", low=1e-3, high=1e6),
    Parameter("mins", True, "true: weights have minima; false: dmin = 0, as published"),
    Parameter(
        "floor",
        1e-4,
        "drifts below it count as this much in the denominator",
        low=1e-6,
        high=1.0,
    ),
)


def space(p: Params) -> Space:
    """One row of weights and an activation. The target sets the scale d of the blocks, whatever the case has."""
    fmt = formats.get(FORMAT)
    if p["n"] % fmt.block_size:
        raise ParameterError(f"n={p['n']}: a multiple of {fmt.block_size}, the block of {FORMAT}, is needed")
    n = Dim("n", p["n"], step=fmt.block_size)
    weights = TensorSpec("weights", kind="blocks", shape=(Dim("rows", 1, fixed=True), n), format=FORMAT)
    return Space((weights, matvec.activation_spec(p, n, fmt.activation)))


def with_scale(
    weights: UInt8[AnyArray, "... row_bytes"], scale: np.float16, mins: bool, xp: ArrayModule = np
) -> UInt8[AnyArray, "... row_bytes"]:
    """The weights with d of every block set to ``scale``, and dmin set to 0 unless ``mins``."""
    fmt = formats.get(FORMAT)
    keep, new = np.full(1, 0, fmt.layout), np.zeros(1, fmt.layout)
    new["d"] = scale
    raw = keep.view(np.uint8)
    for name in fmt.layout.names or ():
        if name != "d" and (mins or name != "dmin"):
            dtype, offset = fmt.layout.fields[name][:2]  # type: ignore[index]
            raw[offset : offset + dtype.itemsize] = 255
    blocks = weights.reshape(-1, fmt.type_size)
    return ((blocks & xp.asarray(raw)) | xp.asarray(new.view(np.uint8))).reshape(weights.shape)


def drifts(p: Params, arrays: Arrays) -> tuple[Float64[np.ndarray, "7 b"], Float64[np.ndarray, "7 b"]]:
    """(drift, distance of path A from the float64 product in the same measure), for each scale of SCALES."""
    x = arrays["x"]
    peak = np.abs(x.astype(np.float64)).max(axis=1)
    values, noises = [], []
    for scale in SCALES:
        weights = with_scale(arrays["weights"][:, 0], scale, p["mins"])
        a = apr.vec_dot_rows(FORMAT, weights, x).astype(np.float64)
        b = gguf.vec_dot_rows(FORMAT, weights, x).astype(np.float64)
        wide = exact.vec_dot_rows(FORMAT, weights, x)
        whole = fused.terms(FORMAT, weights).sum(axis=1) * peak
        safe = np.where(whole > 0, whole, 1.0)
        values.append(np.where(whole > 0, np.abs(a - b) / safe, 0.0))
        noises.append(np.where(whole > 0, np.abs(a - wide) / safe, 0.0))
    return np.stack(values), np.stack(noises)


def evaluate(p: Params, arrays: Arrays) -> Outcome:
    """The largest drift divided by the smallest. The noise is the part that may be due to the rounding of path A."""
    drift, noise = drifts(p, arrays)
    rows = np.arange(drift.shape[1])
    most, least = drift.argmax(axis=0), drift.argmin(axis=0)
    top, bottom = drift[most, rows], np.maximum(drift[least, rows], p["floor"])
    value = top / bottom
    of_least = np.where(drift[least, rows] > p["floor"], value * noise[least, rows] / bottom, 0.0)
    uncertain = noise[most, rows] / bottom + of_least
    return Outcome(value, uncertain)


def explain(p: Params, arrays: Arrays) -> dict[str, Float64[np.ndarray, " b"]]:
    """The largest and the smallest drift over the scales."""
    drift, _ = drifts(p, arrays)
    return {"largest drift": drift.max(axis=0), "least drift": drift.min(axis=0)}


def screen(p: Params) -> Callable[[Arrays], Float64[AnyArray, " b"]] | None:
    """The ratio with all sums in float64; None for mins=false, where that ratio is 1."""
    if not p["mins"]:
        return None
    from diffuzz.kernels import xla

    xp = xla.xp

    def value(arrays: Arrays) -> Float64[AnyArray, " b"]:
        x = arrays["x"]
        peak = xp.abs(x).astype(float).max(axis=1)
        ratios = []
        for scale in SCALES:
            weights = with_scale(arrays["weights"][:, 0], scale, True, xp)
            change = xla.vec_dot_rows(FORMAT, weights, x, "gguf") - xla.vec_dot_rows(FORMAT, weights, x, "apr")
            whole = fused.terms(FORMAT, weights, xp).sum(axis=1) * peak
            ratios.append(xp.where(whole > 0, xp.abs(change) / xp.where(whole > 0, whole, 1.0), 0.0))
        stacked = xp.stack(ratios)
        return stacked.max(axis=0) / xp.maximum(stacked.min(axis=0), p["floor"])

    return value


def bound(p: Params) -> Bound:
    """The bound that the docstring of the module derives."""
    n, floor = p["n"], p["floor"]
    sums = error_bounds.gamma(n + 4) + 1.01 * error_bounds.gamma(n // 32 + 6)
    if not p["mins"]:
        return Bound(1.0, "scale-invariant: d cancels", rounding=2 * sums / floor)
    step = error_bounds.largest_code_error("q8_K", p["max_abs"], n)
    return Bound(
        max(step / floor, 1.0), "half a step of q8_K over the floor", rounding=error_bounds.ROUNDING + sums / step
    )


def starts(p: Params, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Activations beside an edge between codes, where their errors are largest and equal; minima that cancel the drift
    at the smallest d.
    """
    fmt = formats.get(FORMAT)
    blocks = count * (p["n"] // fmt.block_size)
    fields = fmt.unpack(np.zeros((blocks, fmt.type_size), np.uint8))
    code = np.repeat(rng.integers(1, 16, count), blocks // count)
    fields["scales"][:], fields["minimums"][:] = 1, 1
    fields["codes"][:] = code[:, None]
    # The code of the largest element of a block has no error, so its weight is 0.
    fields["codes"][:, 0] = 0
    fields["dmin"] = (code * SCALES.astype(np.float64).min()).astype(np.float16)
    peak = p["max_abs"] * matvec.SMALLEST_PEAK ** rng.uniform(0, 1, (count, 1))
    codes = np.repeat(rng.integers(0, 127, (count, 1)) + 0.5 + matvec.EDGE, p["n"], axis=1)
    codes[:, :: fmt.block_size] = 127
    x = (codes / 127 * peak).astype(np.float32)
    return {"weights": fmt.pack(fields).reshape(count, 1, -1), "x": x}


TARGET = Target(
    name="block-scale",
    summary="one row of Q4_K weights over seven block scales: how much the drift depends on the scale",
    parameters=PARAMETERS,
    space=space,
    question=Drift(evaluate, screen, explain=explain),
    measure=lambda p: f"max drift / max(min drift, {p['floor']:g}) over d, drift = |A - B| / (||w||_1 max|x|)",
    bound=bound,
    claim="block-scale variance amplifies the drift",
    threshold=lambda p: 5.0,
    cost=28.0,
    starts=starts,
)
