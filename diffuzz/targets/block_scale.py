r"""Block scale: does the drift of a quantised matvec depend on the scale of its weight blocks?

The same row of Q4_K weights and the same activation, with the f16 scale d of every block set to each of 0.001, 0.01,
0.05, 0.1, 0.5, 1 and 10 in turn; path A dequantises (APR), path B is aprender's fused product (GGUF). Published
(FFN-GGUF-010, M97, A3): with dmin = 0 the relative drift is 0.0919 % at each d, factor 1.00, from one input. (The
published bits are kept: 0x2933, called 0.05 there, is 0.0406, and 0x1410 is 0.000992.)

**Measure.** With drift(d) = |A - B| / (||w||_1 max|x|), the norm being that of the terms |d sc q| + |dmin m|: max_d
drift / max(min_d drift, floor). The floor (1e-4) keeps a drift that happens to vanish at one d from making the ratio
infinite.

**Limit with mins=true.** drift(d) <= 1/254 plus rounding, so the ratio is at most (1/254 + rounding) / floor, 39.4 for
1e-4. It is reached: A - B = d alpha - beta, alpha from the codes and beta from the minima, vanishes at d = beta /
alpha, and where d is much larger only alpha is left, which may be as large as the quantiser errs. So the scale of a
block decides how much of the drift its minima cancel.

**Limit with mins=false.** dmin = 0. A, B and ||w||_1 are all d times something that does not depend on d, up to float32
rounding: drift(d) lies within r = gamma_{n+4} + gamma_{n/32+6} of one number t. The ratio (t + r) / max(t - r, floor)
is largest where t - r = floor: 1 + 2 r / floor. So no input makes the drift depend on the scale; what may be found
above 1 is rounding.

**Rounding of B.** A left fold of one float32 term for each sub-block of 32, itself a difference of two products of
rounded scales: n/32 sums, three products, one difference, and the rounding of the scales: gamma_{n/32+6}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from diffuzz import errors, formats
from diffuzz.kernels import apr, exact, fused, gguf
from diffuzz.space import Dim, Space, TensorSpec
from diffuzz.target import Arrays, Bound, Drift, Outcome, Parameter, ParameterError, Params, Target
from diffuzz.targets import matvec

FORMAT = "q4_K"
SCALES = np.array([0x1410, 0x211F, 0x2933, 0x2E66, 0x3800, 0x3C00, 0x4900], np.uint16).view(np.float16)

PARAMETERS = (
    Parameter("n", 256, "length of the row, in whole blocks", low=256, high=65536),
    # Aprender's quantiser gives up blocks whose peak is 1e-10; they must not matter beside the peak of the row.
    Parameter("max_abs", 16.0, "largest |x|", low=1e-3, high=1e6),
    Parameter("mins", True, "weights with minima; false: dmin = 0, as published"),
    Parameter("floor", 1e-4, "least drift that the largest is compared with", low=1e-6, high=1.0),
)


def space(p: Params) -> Space:
    """One row of weights (the scale d of its blocks is set by the target) and an activation."""
    fmt = formats.get(FORMAT)
    if p["n"] % fmt.block_size:
        raise ParameterError(f"n={p['n']}: a multiple of {fmt.block_size}, the block of {FORMAT}, is needed")
    n = Dim("n", p["n"], step=fmt.block_size)
    weights = TensorSpec("weights", kind="blocks", shape=(Dim("rows", 1, fixed=True), n), format=FORMAT)
    return Space((weights, matvec.activation_spec(p, n, fmt.activation)))


def with_scale(weights: Any, scale: np.float16, mins: bool, xp: Any = np) -> Any:
    """uint8[..., row_bytes] with d of every block set to ``scale``, and dmin to 0 unless ``mins``."""
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


def drifts(p: Params, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """(drift, distance of path A from float64 in the same measure), each [7, b], by scale."""
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
    """Ratio of the largest drift to the smallest; noise is what path A's distance from float64 may make of it."""
    drift, noise = drifts(p, arrays)
    rows = np.arange(drift.shape[1])
    most, least = drift.argmax(axis=0), drift.argmin(axis=0)
    top, bottom = drift[most, rows], np.maximum(drift[least, rows], p["floor"])
    value = top / bottom
    of_least = np.where(drift[least, rows] > p["floor"], value * noise[least, rows] / bottom, 0.0)
    uncertain = noise[most, rows] / bottom + of_least
    return Outcome(value, uncertain, {"largest drift": top, "least drift": drift[least, rows]})


def screen(p: Params) -> Callable[[Arrays], Any] | None:
    """The ratio with all sums in float64; None for mins=false, where it is 1 and only rounding is left."""
    if not p["mins"]:
        return None
    from diffuzz.kernels import xla

    xp = xla.xp

    def value(arrays: Arrays) -> Any:
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
    """The limits derived above."""
    n, floor = p["n"], p["floor"]
    sums = errors.gamma(n + 4) + 1.01 * errors.gamma(n // 32 + 6)
    if not p["mins"]:
        return Bound(1.0, "scale-invariant: d cancels", rounding=2 * sums / floor)
    step = errors.largest_code_error("q8_K", p["max_abs"], n)
    return Bound(max(step / floor, 1.0), "half a step of q8_K over the floor", rounding=errors.ROUNDING + sums / step)


def starts(p: Params, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Activations beside an edge between codes, where they err most and alike; minima that cancel at the smallest d."""
    fmt = formats.get(FORMAT)
    blocks = count * (p["n"] // fmt.block_size)
    fields = fmt.unpack(np.zeros((blocks, fmt.type_size), np.uint8))
    code = np.repeat(rng.integers(1, 16, count), blocks // count)
    fields["scales"][:], fields["minimums"][:] = 1, 1
    fields["codes"][:] = code[:, None]
    # The largest element of a block has the code of no error; its weight takes no part.
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
    question=Drift(evaluate, screen),
    measure=lambda p: f"max drift / max(min drift, {p['floor']:g}) over d, drift = |A - B| / (||w||_1 max|x|)",
    bound=bound,
    claim="block-scale variance amplifies the drift",
    limit=lambda p: 5.0,
    cost=28.0,
    starts=starts,
)
