"""What models add to RoPE: partial rotation, factors of frequencies, longer contexts. One correct form of it, with a
switch for each bug.

The functions that are made have the signature of the target rope, with what is asked for by keyword. Without a switch
they are correct.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import attrs
import numpy as np

from diffuzz.studies.mutants import wrong_rows as rows
from diffuzz.studies.mutants.wrong_norms import Right, Wrong
from diffuzz.studies.mutants.wrong_rows import Array, Change, Float, same
from diffuzz.targets.parameter import Params

_F = np.float32


@attrs.frozen
class Asked:
    """What a call asks for by keyword; see :mod:`diffuzz.targets.rope`."""

    rotary_dim: int = 0
    factors: Array | None = None
    scaling: str = "none"
    factor: float = 1.0
    original_context: int = 1
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 0.0


# (frequencies, d, base, asked) -> frequencies of the longer context.
_Scaled: TypeAlias = Callable[[Array, int, float, Asked], Array]


def linear(frequency: Array, d: int, base: float, asked: Asked) -> Array:
    """All frequencies divided by the factor."""
    return np.asarray(frequency / asked.factor)


def llama3(
    *,
    turn: float = 2 * math.pi,
    context: Callable[[Asked], float] = lambda asked: asked.original_context,
    ends: Callable[[Asked], tuple[float, float]] = lambda asked: (asked.low_freq_factor, asked.high_freq_factor),
    smooth: bool = True,
) -> _Scaled:
    """Frequencies of long waves divided by the factor, those of short waves kept, those between mixed if ``smooth``."""

    def f(frequency: Array, d: int, base: float, asked: Asked) -> Array:
        low, high = ends(asked)
        share = np.clip((context(asked) * frequency / turn - low) / (high - low), 0.0, 1.0)
        if not smooth:
            share = np.where(share < 1, 0.0, 1.0)
        return np.asarray((1 - share) * frequency / asked.factor + share * frequency)

    return f


def yarn(
    *,
    base_of: Callable[[float], float] = lambda base: base,
    ends: Callable[[Asked], tuple[float, float]] = lambda asked: (asked.beta_fast, asked.beta_slow),
    context: Callable[[Asked], float] = lambda asked: asked.original_context,
    inverted: bool = False,
    ramp: bool = True,
) -> _Scaled:
    """Pairs that turn often keep their frequency, those that turn rarely have it divided, those between are mixed."""

    def f(frequency: Array, d: int, base: float, asked: Asked) -> Array:
        def pair(turns: float) -> float:
            return d * math.log(context(asked) / (turns * 2 * math.pi)) / (2 * math.log(base_of(base)))

        if base_of(base) == 1:
            return frequency
        fast, slow = ends(asked)
        low, high = max(math.floor(pair(fast)), 0), min(math.ceil(pair(slow)), d - 1)
        width = 0.001 if high == low else high - low
        share = 1 - np.clip((np.arange(d // 2) - low) / width, 0.0, 1.0)
        if not ramp:
            share = np.where(share < 0.5, 0.0, 1.0)
        share = 1 - share if inverted else share
        return np.asarray((1 - share) * frequency / asked.factor + share * frequency)

    return f


def attention_factor(asked: Asked) -> float:
    """``0.1 ln(factor) + 1``, if it is not given."""
    return asked.attention_factor or 0.1 * math.log(asked.factor) + 1


_SCALINGS: dict[str, _Scaled] = {
    "none": lambda frequency, d, base, asked: frequency,
    "linear": linear,
    "llama3": llama3(),
    "yarn": yarn(),
}


def rope(
    *,
    turned: Callable[[int, Asked], int] = lambda d, asked: asked.rotary_dim or d,
    exponent_of: Callable[[int, int], int] = lambda turned, d: turned,
    at_end: bool = False,
    kept: Change = same,
    factored: Callable[[Array, Array], Array] = np.divide,
    scaled: _Scaled | None = None,
    position_of: Callable[[Array, Asked], Array] = lambda positions, asked: positions.astype(np.float64),
    magnitude: Callable[[Asked], tuple[float, float]] = lambda asked: (attention_factor(asked),) * 2,
    table: Change = same,
    dtype: Float = np.float32,
) -> Callable[..., Array]:
    """RoPE of the first, or with ``at_end`` the last, ``turned(d)`` elements of each head.

    ``exponent_of`` is the d of the frequencies, ``factored`` applies the factors, ``scaled`` the longer context, and
    ``magnitude`` multiplies cosine and sine of yarn.
    """

    def f(x: Array, positions: Array, base: float, mode: str, **given: object) -> Array:
        asked = Asked(**given)  # type: ignore[arg-type]
        d = x.shape[2]
        n = turned(d, asked)
        size = exponent_of(n, d)
        frequency: Array = base ** (-2.0 * np.arange(n // 2) / size)
        if asked.factors is not None:
            frequency = factored(frequency, asked.factors[: n // 2].astype(np.float64))
        frequency = (scaled or _SCALINGS[asked.scaling])(frequency, size, base, asked).astype(dtype)
        angle = (position_of(positions, asked).astype(dtype)[:, None] * frequency)[:, None, :]
        by_cos, by_sin = magnitude(asked) if asked.scaling == "yarn" else (1.0, 1.0)
        cos, sin = table(np.cos(angle) * dtype(by_cos)), table(np.sin(angle) * dtype(by_sin))
        y: Array = x.astype(dtype)
        start = d - n if at_end else 0
        part = y[..., start : start + n].copy()
        ways = (slice(0, None, 2), slice(1, None, 2)) if mode == "norm" else (slice(n // 2), slice(n // 2, None))
        a, b = part[..., ways[0]].copy(), part[..., ways[1]].copy()
        part[..., ways[0]], part[..., ways[1]] = a * cos - b * sin, a * sin + b * cos
        y = np.concatenate([kept(y[..., :start]), part, kept(y[..., start + n :])], axis=2)
        return y.astype(np.float32)

    return f


def _next(frequency: Array, factors: Array) -> Array:
    return np.asarray(frequency / np.roll(factors, -1))


def _first(frequency: Array, factors: Array) -> Array:
    return np.asarray(frequency / factors[:1])


def _exchanged(asked: Asked) -> tuple[float, float]:
    return asked.high_freq_factor, asked.low_freq_factor


def _one(asked: Asked) -> tuple[float, float]:
    return 1.0, 1.0


def _log_twice(asked: Asked) -> tuple[float, float]:
    return (0.1 * math.log(max(attention_factor(asked), 1e-9)) + 1,) * 2


def _cosine_only(asked: Asked) -> tuple[float, float]:
    return attention_factor(asked), 1.0


_PART: Params = {"rotary_dim": 32}
_NORM: Params = {"rotary_dim": 32, "mode": "norm"}
_FACTORS: Params = {"factors": True}
_LINEAR: Params = {"scaling": "linear", "factor": 4.0}
_LLAMA3: Params = {"scaling": "llama3"}
_LLAMA3_SHORT: Params = {"scaling": "llama3", "original_context": 4096}
_YARN: Params = {"scaling": "yarn", "factor": 16.0}
_YARN_SHORT: Params = {"scaling": "yarn", "original_context": 2048}

WRONG: Wrong = (
    ("rope-partial/ignored", "rope", _PART, rope(turned=lambda d, asked: d), "whole head turned", "vllm#43199"),
    ("rope-partial/tail", "rope", _PART, rope(at_end=True), "last elements turned", "Megatron-LM#6890"),
    ("rope-partial/frequency", "rope", _PART, rope(exponent_of=lambda n, d: d), "frequencies of the whole head", ""),
    ("rope-partial/zeroed", "rope", _PART, rope(kept=np.zeros_like), "rest of the head not copied", "vllm#51049"),
    ("rope-partial/half", "rope", _NORM, rope(turned=lambda d, asked: d // 2), "always half of the head", ""),
    ("rope-partial/kept-f16", "rope", _PART, rope(kept=rows.half), "rest of the head in f16", ""),
    ("rope-factors/forgotten", "rope", _FACTORS, rope(factored=lambda frequency, factors: frequency), "ignored", ""),
    ("rope-factors/multiplied", "rope", _FACTORS, rope(factored=np.multiply), "multiplied with", ""),
    ("rope-factors/next", "rope", _FACTORS, rope(factored=_next), "those of the next pair", ""),
    ("rope-factors/first", "rope", _FACTORS, rope(factored=_first), "the first for all", ""),
    ("rope-factors/f16", "rope", _FACTORS, rope(factored=lambda f, factors: f / rows.half(factors)), "in f16", ""),
    ("rope-factors/rounded", "rope", _FACTORS, rope(factored=lambda f, factors: f / np.rint(factors)), "rounded", ""),
    ("rope-linear/forgotten", "rope", _LINEAR, rope(scaled=_SCALINGS["none"]), "not scaled", ""),
    ("rope-linear/whole", "rope", _LINEAR,
     rope(scaled=_SCALINGS["none"], position_of=lambda p, asked: np.floor(p / asked.factor)),
     "positions divided as integers", ""),
    ("rope-linear/twice", "rope", _LINEAR, rope(position_of=lambda p, asked: p / asked.factor), "scaled twice", ""),
    ("rope-llama3/linear", "rope", _LLAMA3, rope(scaled=linear), "all frequencies scaled", ""),
    ("rope-llama3/forgotten", "rope", _LLAMA3, rope(scaled=_SCALINGS["none"]), "not scaled", ""),
    ("rope-llama3/not-smooth", "rope", _LLAMA3, rope(scaled=llama3(smooth=False)), "not mixed", ""),
    ("rope-llama3/ends", "rope", _LLAMA3, rope(scaled=llama3(ends=_exchanged)), "low and high factor exchanged", ""),
    ("rope-llama3/turn", "rope", _LLAMA3, rope(scaled=llama3(turn=1.0)), "wavelength without 2 pi", ""),
    ("rope-llama3/context", "rope", _LLAMA3_SHORT, rope(scaled=llama3(context=lambda asked: 8192)),
     "original context of 8192", ""),
    ("rope-yarn/attention-one", "rope", _YARN, rope(magnitude=_one), "factor of attention 1", "exllamav3#259"),
    ("rope-yarn/attention-dropped", "rope", {**_YARN, "attention_factor": 1.5},
     rope(magnitude=lambda asked: (0.1 * math.log(asked.factor) + 1,) * 2), "given factor of attention dropped",
     "vllm#48351"),
    ("rope-yarn/log-twice", "rope", _YARN, rope(magnitude=_log_twice), "logarithm applied twice",
     "TensorRT-LLM#16379"),
    ("rope-yarn/cosine-only", "rope", _YARN, rope(magnitude=_cosine_only), "factor of the cosine only", ""),
    ("rope-yarn/linear", "rope", _YARN, rope(scaled=linear), "all frequencies scaled", ""),
    ("rope-yarn/not-mixed", "rope", _YARN, rope(scaled=yarn(ramp=False)), "not mixed", ""),
    ("rope-yarn/inverted", "rope", _YARN, rope(scaled=yarn(inverted=True)), "fast pairs scaled", ""),
    ("rope-yarn/base", "rope", _YARN, rope(scaled=yarn(base_of=lambda base: 10000.0)), "parts of base 10000", ""),
    ("rope-yarn/betas", "rope", _YARN, rope(scaled=yarn(ends=lambda asked: (16.0, asked.beta_slow))),
     "beta_fast is 16", ""),
    ("rope-yarn/context", "rope", _YARN_SHORT, rope(scaled=yarn(context=lambda asked: 4096.0)),
     "original context of 4096", ""),
    ("rope-yarn/f16", "rope", _YARN, rope(table=rows.half), "table in f16", "mlx-lm#1076"),
)  # fmt: skip

_CALLS = (
    ("rope-partial", _PART), ("rope-partial-norm", _NORM), ("rope-factors", _FACTORS), ("rope-linear", _LINEAR),
    ("rope-llama3", _LLAMA3), ("rope-yarn", _YARN),
    ("rope-everything", {**_YARN_SHORT, **_NORM, "attention_factor": 1.5}),
)  # fmt: skip
RIGHT: Right = [
    *((f"{name}/plain", "rope", params, rope(), "float32 angle") for name, params in _CALLS),
    *((f"{name}/wide", "rope", params, rope(dtype=np.float64), "float64 inside") for name, params in _CALLS),
]
