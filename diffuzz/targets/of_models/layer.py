r"""Layer: how far does one token drift through one layer of a real model, APR path against GGUF path?

    path A    products of dequantised weights and activations as they are
    path B    the same, but every product quantises its activations to the format that ggml pairs with its weights

A case is the residual x of one token before the layer. All is there: norms, biases, the gated network, both residual
sums. A single token attends to itself alone, so its attention is its value, and q, k and the rotation play no part.
Every tap is rounded to float32; sums within a step are float64, so that a value does not depend on the order of sums or
on the machine. So A is the float32 pass of an engine but for the rounding of sums, and A - B is the effect of quantised
activations alone.

**Measure.** ||A - B||_2 / max(||A||_2, ||B||_2) of what the layer gives (``l_out``), residual included.

**Bound.** ||A - B|| <= ||A|| + ||B||: 2, whatever the layer. Nothing much smaller is proven: the spectral norms of real
weights, multiplied along the layer, exceed it. Beside each value stands what its own case allows to first order: the
change of l_out with what each product sees (the derivative of the rest of the layer at A), times the largest errors of
the quantised activations, whatever their signs; squares of errors are left out.

**Threshold.** Four products follow each other on the way through a layer (v, attn_out, gate or up, down), so as in the
chain more than four times the published drift of one is what the claim says.

**Model.** A GGUF or an .apr file. An entry of the corpus has its name and digest, and a replay needs the file.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.models import architectures, forward, named, sequence
from diffuzz.models.architectures import decoder
from diffuzz.models.forward import Weights
from diffuzz.models.model import ModelError
from diffuzz.models.operations.attention import Mixture
from diffuzz.models.operations.glu import Glu
from diffuzz.models.operations.norm import Norm
from diffuzz.models.operations.product import Product
from diffuzz.models.operations.sum import Sum
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Operation, Step
from diffuzz.targets import distances, error_bounds, published
from diffuzz.targets.drift import Drift
from diffuzz.targets.of_models.given import MODEL
from diffuzz.targets.outcome import Arrays, Bound, Outcome
from diffuzz.targets.parameter import Parameter, ParameterError, Params
from diffuzz.targets.target import Target

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64

# Products one after another on the way through a layer.
PRODUCTS = 4
SMALLEST_PEAK = 2.0**-4
_HALF_RELATIVE = 2.0**-11

PARAMETERS = (
    MODEL,
    Parameter("layer", 0, "number of the layer, from 0 on", low=0, high=10_000),
    Parameter("max_abs", 16.0, "largest |x| of the residual", low=1e-3, high=1e6),
)


@attrs.frozen(eq=False)
class Layer:
    """The steps of one layer that one token needs, from ``residual`` to ``out``, and what they are run with."""

    steps: tuple[Step, ...]
    sequence: Sequence
    weights: Weights
    residual: str
    out: str
    probs: str
    heads: int


def space(p: Params) -> Space:
    """The residual of one token, with max|x| >= max_abs / 16."""
    top, n = p["max_abs"], Dim("n", _width(p), fixed=True)
    x = TensorSpec("x", kind="activations", shape=(n,), low=-top, high=top, smallest_peak=top * SMALLEST_PEAK)
    return Space((x,))


def _width(p: Params) -> int:
    """The width of the model. Raises ParameterError for a layer that it does not have."""
    try:
        size = decoder.sizes(named.get(p["model"]))
    except ModelError as error:
        raise ParameterError(f"parameter model={named.file_of(p['model'])}: {error}") from error
    if p["layer"] >= size.layers:
        raise ParameterError(f"layer={p['layer']}: {named.file_of(p['model'])} has layers 0 to {size.layers - 1}")
    return size.width


@lru_cache(maxsize=4)
def layer(name: str, number: int) -> Layer:
    """A layer of the model of a name. Raises ParameterError for one that is not supported."""
    try:
        steps = [step for step in architectures.steps(named.get(name)) if step.layer == number]
    except ModelError as error:
        raise ParameterError(f"parameter model={named.file_of(name)}: {error}") from error
    probs = next(step for step in steps if step.op == "probs")
    scores = next(step for step in steps if step.tap == probs.inputs[0])
    needed, kept = {steps[-1].tap}, []
    for step in reversed(steps):
        if step.tap in needed and step is not probs:
            kept.append(step)
            needed.update(step.inputs)
    return Layer(
        steps=tuple(reversed(kept)),
        sequence=sequence.of_tokens([0]),
        weights=Weights(),
        residual=steps[0].inputs[0],
        out=steps[-1].tap,
        probs=probs.tap,
        heads=scores.operation.heads,  # type: ignore[attr-defined]  # of Scores
    )


def paths(
    p: Params, x: Float32[np.ndarray, "b n"]
) -> tuple[Float64[np.ndarray, "b n"], Float64[np.ndarray, "b n"], Float64[np.ndarray, "b n"]]:
    """What the layer gives on path A, on path B, and on path A without rounding."""
    through = layer(p["model"], p["layer"])
    return _pass(through, x, "apr", True), _pass(through, x, "ggml", True), _pass(through, x, "apr", False)


def _pass(through: Layer, x: Float32[np.ndarray, "b n"], name: str, rounded: bool) -> Float64[np.ndarray, "b n"]:

    taps = {
        through.residual: x.astype(np.float64)[:, None],
        # One key alone has the whole of the attention.
        through.probs: np.ones((len(x), through.heads, 1, 1)),
    }

    def touch(tap: str, made: np.ndarray) -> np.ndarray:
        return _rounded(made) if rounded else made

    result = x
    arithmetics = {step.op: forward.arithmetic_of(step, name) for step in through.steps}
    for step, made in forward.run(
        through.steps,
        through.sequence,
        "exact",
        weights=through.weights,
        taps=taps,
        arithmetics=arithmetics,
        touch=touch,
    ):
        if step.tap == through.out:
            result = made[:, 0]
    return np.asarray(result, np.float64)


def _rounded(tap: Float64[np.ndarray, " ..."]) -> Float64[np.ndarray, " ..."]:
    return tap.astype(np.float32).astype(np.float64)


def evaluate(p: Params, arrays: Arrays) -> Outcome:
    """The drift of what the layer gives. The noise is the distance of path A from itself without rounding, as the power
    of two above it, which does not depend on the order of float64 sums.
    """
    a, b, wide = paths(p, arrays["x"])
    noise = distances.symmetric_l2(wide, a)
    above = np.exp2(np.ceil(np.log2(np.maximum(noise, error_bounds.UNIT / 2**8))))
    return Outcome(distances.symmetric_l2(a, b), above)


def explain(p: Params, arrays: Arrays) -> dict[str, Float64[np.ndarray, " b"]]:
    """The first-order bound of each case, and the drift relative to path A alone."""
    a, b, _ = paths(p, arrays["x"])
    bounds = np.array([first_order(p, x) for x in arrays["x"]])
    return {"first-order bound": bounds, "relative L2": distances.relative_l2(a, b)}


def first_order(p: Params, x: Float32[np.ndarray, " n"]) -> float:
    """How large ||A - B|| / ||A|| may be for this x, to first order: see the module's docstring."""
    through = layer(p["model"], p["layer"])
    values = {through.residual: x.astype(np.float64)[None], through.probs: np.ones((through.heads, 1, 1))}
    for step, made in forward.run(through.steps, through.sequence, "exact", weights=through.weights, taps=values):
        values[step.tap] = made
    # How l_out changes with each tap, and with what products see of it, and with the stored sums of blocks.
    slopes = {through.out: np.eye(len(x))}
    seen: dict[tuple[str, str], list[np.ndarray]] = {}
    for step in reversed(through.steps):
        slope = slopes.pop(step.tap)
        for tap, changed in zip(
            step.inputs, _slopes(step.operation, slope, [values[i] for i in step.inputs], through), strict=True
        ):
            if tap not in slopes:
                slopes[tap] = np.zeros((len(x), changed.shape[1]))
            slopes[tap] += changed
            if isinstance(step.operation, Product) and step.operation.partner is not None:
                minimum = through.weights.of(step.operation, np.dtype(np.float64))[1]
                of_sums = np.zeros((len(x), 1)) if minimum is None else slope @ minimum
                seen.setdefault((tap, step.operation.partner), []).append(np.concatenate([changed, of_sums], axis=1))
    total = 0.0
    for (tap, partner), found in seen.items():
        # Products of one tap see the same codes.
        whole, k = sum(found[1:], found[0]), values[tap].shape[-1]
        codes, sums = _quantisation(partner, values[tap][0])
        total += _reach(whole[:, :k], codes) + (
            _reach(whole[:, k:], sums) if sums is not None and whole.shape[1] > k + 1 else 0.0
        )
    size = float(np.linalg.norm(values[through.out]))
    return total / size if size > 0 else math.inf


def _reach(matrix: Float64[np.ndarray, "n k"], most: Float64[np.ndarray, " k"]) -> float:
    """The length of ``matrix @ e`` is at most this, if |e| <= ``most``."""
    scaled = matrix * most
    by_signs = float(np.linalg.norm(np.abs(scaled).sum(axis=1)))
    square = scaled @ scaled.T if len(scaled) <= scaled.shape[1] else scaled.T @ scaled
    return min(by_signs, math.sqrt(max(float(np.linalg.eigvalsh(square)[-1]), 0.0) * len(most)))


def _slopes(
    operation: Operation, slope: Float64[np.ndarray, "n m"], inputs: list[np.ndarray], through: Layer
) -> list[Float64[np.ndarray, "n k"]]:
    """How l_out changes with the inputs of a step, if it changes with the result as ``slope`` says."""
    n = len(slope)
    if isinstance(operation, Sum):
        return [slope, slope]
    if isinstance(operation, Mixture):
        # Its only key is the token itself: a value stands once for each head of its group, and the weight of 1 stays.
        shared = slope.reshape(n, operation.groups, operation.heads // operation.groups, -1).sum(axis=2)
        return [np.zeros((n, operation.heads)), shared.reshape(n, -1)]
    if isinstance(operation, Norm):
        gain = operation.gain.astype(np.float64)
        x = inputs[0].reshape(-1, len(gain))
        size = np.sqrt((x * x).mean(axis=1, keepdims=True) + operation.eps)
        scaled = slope.reshape(n, -1, len(gain)) * gain / size
        along = (scaled * x).sum(axis=2, keepdims=True) / (len(gain) * size**2)
        return [(scaled - along * x).reshape(n, -1)]
    if isinstance(operation, Glu):
        gate, up = (each[0] for each in inputs)
        ones, step = np.ones_like(gate), 1e-6 * np.maximum(1.0, np.abs(gate))
        low, high, middle = (operation.value((gate + by, ones), "f32", through.sequence) for by in (-step, step, 0.0))
        return [slope * ((high - low) / (2 * step) * up), slope * middle]
    assert isinstance(operation, Product)
    return [slope @ through.weights.of(operation, np.dtype(np.float64))[0]]


def _quantisation(
    partner: str, x: Float64[np.ndarray, " k"]
) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, " blocks"] | None]:
    """How far quantised activations may be from x; and, of q8_1, stored sums of blocks from those of the codes."""
    if partner in error_bounds.FLOATS:
        relative, absolute = error_bounds.FLOATS[partner]
        return np.maximum(relative * np.abs(x), absolute), None
    size = formats.get(partner).block_size
    blocks = np.abs(x).reshape(-1, size)
    scale = blocks.max(axis=1) / error_bounds.LARGEST_CODE
    each = scale / 2 + error_bounds.scale_error(partner, scale) * error_bounds.LARGEST_CODE
    codes = np.repeat(each, size)
    # The sum is that of codes times the scale before it was rounded, and is rounded to f16 itself.
    sums = blocks.sum(axis=1)
    return codes, 2 * _HALF_RELATIVE * sums + error_bounds.scale_error(
        partner, scale
    ) * size if partner == "q8_1" else None


TARGET = Target(
    name="layer",
    summary="one token through one layer of a model, APR path against GGUF path: drift of what it gives",
    parameters=PARAMETERS,
    space=space,
    question=Drift(evaluate, explain=explain),
    measure=lambda p: "||A - B||_2 / max(||A||_2, ||B||_2) of l_out",
    bound=lambda p: Bound(2.0, "triangle inequality: ||A - B|| <= ||A|| + ||B||", rounding=1e-12),
    claim=f"one layer drifts by more than {PRODUCTS} times the published drift of one matvec",
    threshold=lambda p: PRODUCTS * published.PUBLISHED_DRIFT,
    # Of a layer of some million weights, in three passes.
    cost=256.0,
    tolerance=1e-6,
)
