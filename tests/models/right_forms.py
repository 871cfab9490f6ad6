"""Forms in which right float32 engines compute each operation: other sums, other functions, other orders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Several
from types import MappingProxyType

import numpy as np

from diffuzz.models.operations.attention import Mixture, Probs, Scores
from diffuzz.models.operations.embedding import Embedding
from diffuzz.models.operations.glu import Glu
from diffuzz.models.operations.norm import Norm
from diffuzz.models.operations.product import Product
from diffuzz.models.operations.rope import Rope
from diffuzz.models.operations.sum import Sum
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Step

F = np.float32
Form = Callable[..., np.ndarray]
LOG2E = F(1.4426950408889634)
SMALLEST = np.finfo(F).tiny


def flushed(x: np.ndarray) -> np.ndarray:
    """Subnormal numbers are zero."""
    return np.where(np.abs(x) < SMALLEST, F(0), x).astype(F)


# Sums over the last axis.
def one_by_one(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.add.accumulate(x, axis=-1, dtype=F)[..., -1])


def backwards(x: np.ndarray) -> np.ndarray:
    return one_by_one(x[..., ::-1])


def by_lanes(x: np.ndarray) -> np.ndarray:
    """Eight lanes, as vector units have."""
    rest = -x.shape[-1] % 8
    x = np.concatenate((x, np.zeros((*x.shape[:-1], rest), F)), axis=-1)
    return one_by_one(one_by_one(np.swapaxes(x.reshape(*x.shape[:-1], -1, 8), -1, -2)))


def in_float64(x: np.ndarray) -> np.ndarray:
    return np.asarray(x.sum(axis=-1, dtype=np.float64).astype(F))


def largest_last(x: np.ndarray) -> np.ndarray:
    return one_by_one(np.take_along_axis(x, np.argsort(np.abs(x), axis=-1), axis=-1))


SUMS = (one_by_one, backwards, by_lanes, in_float64, largest_last)


def products(total: Callable[[np.ndarray], np.ndarray], *, first: bool = False, flush: bool = False) -> Form:
    """x W + b with sums in an order; ``first`` begins with the bias."""

    def form(operation: Product, inputs: Several[np.ndarray], sequence: Sequence) -> np.ndarray:
        values, _ = operation.weight_values(np.dtype(F))
        x = flushed(inputs[0]) if flush else inputs[0]
        made = []
        for row in x:
            terms = values * row
            if first and operation.bias is not None:
                terms = np.concatenate((operation.bias[:, None], terms), axis=1)
            made.append(total(flushed(terms) if flush else terms))
        result = np.stack(made)
        return result if first or operation.bias is None else result + operation.bias

    return form


def blas(operation: Product, inputs: Several[np.ndarray], sequence: Sequence) -> np.ndarray:
    return np.asarray(operation.value(inputs, "f32", sequence))


def blas64(operation: Product, inputs: Several[np.ndarray], sequence: Sequence) -> np.ndarray:
    return np.asarray(operation.value([inputs[0].astype(np.float64)], "f32", sequence)).astype(F)


def by_blocks(operation: Product, inputs: Several[np.ndarray], sequence: Sequence) -> np.ndarray:
    """Begins with the bias, and adds what 32 elements make at a time."""
    values, _ = operation.weight_values(np.dtype(F))
    total = np.zeros((len(inputs[0]), len(values)), F) if operation.bias is None else operation.bias[None]
    for start in range(0, values.shape[1], 32):
        total = total + inputs[0][:, start : start + 32] @ values[:, start : start + 32].T
    return np.asarray(total)


def norms(total: Callable[[np.ndarray], np.ndarray], how: str, *, flush: bool = False) -> Form:
    def form(operation: Norm, inputs: Several[np.ndarray], sequence: Sequence) -> np.ndarray:
        gain, eps = operation.gain, F(operation.eps)
        x = inputs[0].reshape(*inputs[0].shape[:-1], -1, len(gain))
        x = flushed(x) if flush else x
        square = total(flushed(x * x) if flush else x * x)[..., None] / F(len(gain))
        if how == "root":
            made = x / np.sqrt(square + eps) * gain
        elif how == "reciprocal":
            made = x * (F(1) / np.sqrt(square + eps)) * gain
        elif how == "gain first":
            made = x * ((F(1) / np.sqrt(square + eps)) * gain)
        elif how == "gain and x":
            made = (x * gain) * (F(1) / np.sqrt(square + eps))
        elif how == "of all":
            n = F(len(gain))
            made = x * (np.sqrt(n) / np.sqrt(square * n + n * eps)) * gain
        else:
            # Of 1 and a gain that is stored less by 1.
            made = x * (F(1) / np.sqrt(square + eps)) * (F(1) + (gain - F(1)))
            made = np.where(np.abs((F(1) + (gain - F(1))) - gain) <= F(2**-23) * np.abs(gain), made, x / np.sqrt(
                square + eps) * gain)  # fmt: skip
        return np.asarray(flushed(made) if flush else made).reshape(inputs[0].shape)

    return form


def _turned(operation: Rope, x: np.ndarray, angle: np.ndarray, *, in64: bool = False) -> np.ndarray:
    """Heads turned by [n, d/2] angles."""
    heads = x.reshape(len(x), operation.heads, -1)
    made = heads.astype(np.float64 if in64 else F)
    half = operation.dimensions // 2
    pairs = np.arange(half)
    one, other = (2 * pairs, 2 * pairs + 1) if operation.layout == "norm" else (pairs, pairs + half)
    cos, sin = (function(angle)[:, None].astype(made.dtype) for function in (np.cos, np.sin))
    a, b = made[..., one].copy(), made[..., other].copy()
    made[..., one], made[..., other] = a * cos - b * sin, a * sin + b * cos
    return made.astype(F).reshape(x.shape)


def ropes(how: str) -> Form:
    def form(operation: Rope, inputs: Several[np.ndarray], sequence: Sequence) -> np.ndarray:
        assert operation.factors is None
        d, base, scale = operation.dimensions, operation.base, F(operation.scale)
        pairs, at = np.arange(d // 2), sequence.positions.astype(F)[:, None]
        if how == "float64":
            return _turned(operation, inputs[0], operation.scale * at.astype(np.float64) * base ** (-2.0 * pairs / d))
        if how == "all float64":
            angle = operation.scale * at.astype(np.float64) * base ** (-2.0 * pairs / d)
            return _turned(operation, inputs[0], angle, in64=True)
        if how == "power":
            frequency = F(1) / np.power(F(base), pairs.astype(F) * F(2) / F(d))
        elif how == "exponential":
            frequency = np.exp(-(pairs.astype(F) * F(2) / F(d)) * np.log(F(base)))
        elif how == "power of two":
            frequency = np.exp2(-(pairs.astype(F) * F(2) / F(d)) * np.log2(F(base)))
        else:
            steps = np.full((len(at), d // 2), np.power(F(base), F(-2 / d)), F)
            steps[:, 0] = at[:, 0]
            return _turned(operation, inputs[0], np.multiply.accumulate(steps, axis=1) * scale)
        return _turned(operation, inputs[0], at * (frequency * scale).astype(F))

    return form


def scores(total: Callable[[np.ndarray], np.ndarray] | None, how: str) -> Form:
    def form(operation: Scores, inputs: Several[np.ndarray], sequence: Sequence) -> np.ndarray:
        n = len(inputs[0])
        q = inputs[0].reshape(n, operation.heads, -1)
        keys = [each.reshape(len(each), operation.groups, -1) for each in reversed(inputs[1:])]
        k = np.repeat(np.concatenate(keys), operation.heads // operation.groups, axis=1)
        scale = F(1) / np.sqrt(F(q.shape[-1]))
        factor = {"plain": F(1), "scaled q": scale, "base two": scale * LOG2E, "scaled both": np.sqrt(scale)}[how]
        q = q * factor
        if how == "scaled both":
            k = k * factor
        q, k = np.moveaxis(q, 1, 0), np.moveaxis(k, 1, 0)
        made = q @ np.swapaxes(k, 1, 2) if total is None else total(q[:, :, None] * k[:, None])
        return np.asarray(made / (factor * factor if how == "scaled both" else factor)).astype(F)

    return form


def softmaxes(how: str, total: Callable[[np.ndarray], np.ndarray] = one_by_one) -> Form:
    def form(operation: Probs, inputs: Several[np.ndarray], sequence: Sequence) -> np.ndarray:
        seen = sequence.visible(operation.window)
        scale, s = F(operation.scale), inputs[0]
        masked = np.where(seen, s, F(-np.inf))
        if how == "base two":
            w = masked * scale * LOG2E
            e = np.exp2(w - w.max(axis=-1, keepdims=True))
        elif how == "base two, folded":
            w = masked * (scale * LOG2E)
            e = np.exp2(w - w.max(axis=-1, keepdims=True))
        elif how == "scaled after":
            e = np.exp((masked - masked.max(axis=-1, keepdims=True)) * scale)
        elif how == "not shifted":
            e = np.exp(masked * scale)
        elif how == "by logarithm":
            w = masked * scale
            top = w.max(axis=-1, keepdims=True)
            return np.exp(w - (top + np.log(total(np.exp(w - top))[..., None])))
        elif how in ("online", "online, backwards", "online, by four"):
            w = (masked * scale)[..., :: -1 if how == "online, backwards" else 1]
            step = 4 if how == "online, by four" else 1
            most = np.full((*w.shape[:-1], 1), -np.inf, F)
            e, sum_ = np.zeros(w.shape, F), np.zeros((*w.shape[:-1], 1), F)
            for at in range(0, w.shape[-1], step):
                part = w[..., at : at + step]
                new = np.maximum(most, part.max(axis=-1, keepdims=True))
                shift = np.where(np.isinf(new), F(0), new)
                rescale = np.exp(most - shift)
                e *= rescale
                e[..., at : at + step] = np.exp(part - shift)
                sum_ = sum_ * rescale + one_by_one(e[..., at : at + step])[..., None]
                most = new
            return np.asarray((e / sum_)[..., :: -1 if how == "online, backwards" else 1])
        else:
            w = masked * scale
            e = np.exp(w - w.max(axis=-1, keepdims=True))
        if how == "times reciprocal":
            return np.asarray(e * (F(1) / total(e)[..., None]))
        return np.asarray(e / total(e)[..., None])

    return form


def mixtures(total: Callable[[np.ndarray], np.ndarray] | None, how: str) -> Form:
    def form(operation: Mixture, inputs: Several[np.ndarray], sequence: Sequence) -> np.ndarray:
        p = inputs[0]
        parts = [each.reshape(len(each), operation.groups, -1) for each in reversed(inputs[1:])]
        v = np.moveaxis(np.repeat(np.concatenate(parts), operation.heads // operation.groups, axis=1), 1, 0)
        if how == "rescaled":
            # Each step multiplies what is there by a factor, and the end divides by their product.
            rng = np.random.default_rng(1)
            made, whole = np.zeros((*p.shape[:2], v.shape[-1]), F), F(1)
            for key in range(p.shape[-1]):
                factor = F(rng.uniform(0.5, 1))
                whole = whole * factor
                made = made * factor + (p[..., key : key + 1] * whole) * v[:, key : key + 1]
            made = made / whole
        else:
            made = p @ v if total is None else total(p[:, :, None, :] * np.swapaxes(v, 1, 2)[:, None])
        return np.asarray(np.swapaxes(made, 0, 1).reshape(len(inputs[0][0]), -1)).astype(F)

    return form


def _tanh(t: np.ndarray) -> np.ndarray:
    """By exponentials."""
    e = np.exp(F(-2) * np.abs(t))
    return np.copysign((F(1) - e) / (F(1) + e), t)


def _exp(x: np.ndarray) -> np.ndarray:
    """Ends at 88.37, as that of Cephes does."""
    return np.exp(np.clip(x, F(-88.3762626), F(88.3762626)))


def glus(how: str, *, up_first: bool = False, flush: bool = False) -> Form:
    def form(operation: Glu, inputs: Several[np.ndarray], sequence: Sequence) -> np.ndarray:
        gate, up = inputs
        t = gate
        if operation.activation == "gelu":
            cubic = gate + F(0.044715) * gate * gate * gate
            if how in ("base two", "divided"):
                cubic = gate * (F(1) + F(0.044715) * (gate * gate))
            t = F(2) * F(0.7978845608) * cubic
        if how == "divided":
            s = F(1) / (F(1) + np.exp(-t))
            made = gate / (F(1) + np.exp(-t)) * up if not up_first else gate * (s * up)
            return flushed(made) if flush else made
        if how == "clamped":
            s = F(1) / (F(1) + _exp(-t))
        elif how == "base two":
            s = F(1) / (F(1) + np.exp2(-t * LOG2E))
        elif how == "two sides":
            e = np.exp(-np.abs(t))
            s = np.where(t < 0, e, F(1)) / (F(1) + e)
        elif how == "tangent":
            s = F(0.5) + F(0.5) * np.tanh(t * F(0.5))
        elif how == "tangent by exponentials":
            s = F(0.5) * (F(1) + _tanh(t * F(0.5)))
        elif how == "turned over":
            s = np.where(t < 0, F(1) - F(1) / (F(1) + np.exp(-np.abs(t))), F(1) / (F(1) + np.exp(-np.abs(t))))
        else:
            e = np.exp(t)
            s = np.where(np.isinf(e), F(1), e / (e + F(1)))
        s = flushed(s) if flush else s
        made = gate * (s * up) if up_first else (gate * s) * up
        return np.asarray(flushed(made) if flush else made)

    return form


def added(operation: Sum, inputs: Several[np.ndarray], sequence: Sequence) -> np.ndarray:
    return np.asarray(inputs[0] + inputs[1])


def looked_up(operation: Embedding, inputs: Several[np.ndarray], sequence: Sequence) -> np.ndarray:
    return np.asarray(operation.value(inputs, "f32", sequence)).astype(F)


FORMS: Mapping[type, Mapping[str, Form]] = MappingProxyType({
    Embedding: {"rows": looked_up},
    Sum: {"sum": added},
    Product: {
        "blas": blas,
        "blas in float64": blas64,
        "bias, then blocks": by_blocks,
        **{total.__name__: products(total) for total in SUMS},
        "bias first": products(one_by_one, first=True),
        "bias first, backwards": products(backwards, first=True),
        "flushed": products(by_lanes, flush=True),
    },
    Norm: {
        **{f"root, {total.__name__}": norms(total, "root") for total in SUMS},
        **{how: norms(one_by_one, how) for how in ("reciprocal", "gain first", "gain and x", "of all", "stored gain")},
        "flushed": norms(by_lanes, "root", flush=True),
    },
    Rope: {how: ropes(how) for how in (
        "float64", "all float64", "power", "exponential", "power of two", "recurrence")},
    Scores: {
        "blas": scores(None, "plain"),
        **{how: scores(one_by_one, how) for how in ("plain", "scaled q", "base two", "scaled both")},
        "backwards": scores(backwards, "plain"),
    },
    Probs: {
        **{how: softmaxes(how) for how in (
            "plain", "base two", "base two, folded", "scaled after", "not shifted", "by logarithm", "online",
            "online, backwards", "online, by four", "times reciprocal")},
        "in float64": softmaxes("plain", in_float64),
        "largest last": softmaxes("plain", largest_last),
    },
    Mixture: {
        "blas": mixtures(None, "plain"),
        **{total.__name__: mixtures(total, "plain") for total in SUMS},
        "rescaled": mixtures(None, "rescaled"),
    },
    Glu: {
        **{how: glus(how) for how in (
            "divided", "clamped", "base two", "two sides", "tangent", "tangent by exponentials", "turned over",
            "exponential")},
        "tangent, up first": glus("tangent", up_first=True),
        "divided, up first": glus("divided", up_first=True),
        "divided, flushed": glus("divided", flush=True),
        "clamped, up first, flushed": glus("clamped", up_first=True, flush=True),
    },
})  # fmt: skip


def drawn(rng: np.random.Generator) -> dict[type, str]:
    """An engine: a form of each operation, of products one that is quick."""
    quick = {Product: ("blas", "blas in float64", "bias, then blocks")}
    return {kind: str(rng.choice(quick.get(kind, tuple(sorted(forms))))) for kind, forms in FORMS.items()}


def run(steps: Several[Step], sequence: Sequence, engine: Mapping[type, str]) -> dict[str, np.ndarray]:
    """The taps of a run."""
    taps: dict[str, np.ndarray] = {}
    with np.errstate(all="ignore"):
        for step in steps:
            form = FORMS[type(step.operation)][engine[type(step.operation)]]
            taps[step.tap] = np.asarray(form(step.operation, [taps[tap] for tap in step.inputs], sequence), F)
    return taps
