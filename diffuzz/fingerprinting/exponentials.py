"""Exponentials: which function a kernel calls exp, by its bits, and how far that is from e^x."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import attrs
import numpy as np

from diffuzz.kernels import ggml, libm

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64

Exponential: TypeAlias = Callable[[np.ndarray], np.ndarray]


@attrs.frozen
class Profile:
    """``names`` of the functions whose bits it has in all ``points``; the largest distance from e^x in ULP, the mean
    one, and the share of results that are rounded correctly.
    """

    names: tuple[str, ...]
    points: int
    largest: float
    mean: float
    correct: float

    @property
    def words(self) -> str:
        """The profile in a few words."""
        which = " = ".join(self.names) or "none of the known ones"
        return f"{which} ({self.largest:.3g} ULP at most, {100 * self.correct:.1f} % rounded correctly)"


def rounded_once(x: Float32[np.ndarray, " ..."]) -> Float32[np.ndarray, " ..."]:
    """e^x rounded to float32 once, which it is if float64's exp is off by less than it is to a tie."""
    with np.errstate(all="ignore"):
        return np.exp(np.asarray(x, np.float64)).astype(np.float32)


def base_two(x: Float32[np.ndarray, " ..."]) -> Float32[np.ndarray, " ..."]:
    """2^(x log2 e), of which the exponent is a float32 number and the power is rounded once."""
    with np.errstate(all="ignore"):
        scaled = (np.asarray(x, np.float32) * np.float32(math.log2(math.e))).astype(np.float64)
        return np.exp2(scaled).astype(np.float32)


def known() -> Iterator[tuple[str, Exponential]]:
    """The exponentials that there are here; those that take long to load come last."""
    yield "the C library's expf", libm.expf
    yield "ggml's, AVX512", ggml.exp
    yield "ggml's, AVX2", lambda x: ggml.exp(x, build=ggml.Build(avx512=False))
    yield "NumPy's", lambda x: np.exp(np.asarray(x, np.float32))
    yield "e^x rounded once", rounded_once
    yield "2^(x log2 e) with a float32 exponent", base_two
    if importlib.util.find_spec("jax"):
        yield "XLA's", _xla
    if importlib.util.find_spec("torch"):
        yield "torch's", _torch


def _xla(x: Float32[np.ndarray, " ..."]) -> Float32[np.ndarray, " ..."]:
    import jax
    import jax.numpy as jnp

    return np.asarray(jax.jit(jnp.exp)(np.asarray(x, np.float32)))


def _torch(x: Float32[np.ndarray, " ..."]) -> Float32[np.ndarray, " ..."]:
    import torch

    found: np.ndarray = torch.exp(torch.from_numpy(np.array(x, np.float32))).numpy()
    return found


def matched(results: Float32[np.ndarray, " q"], of: Callable[[Exponential], np.ndarray]) -> tuple[str, ...]:
    """The known exponentials ``e`` for which ``of(e)`` has the bits of the results; the quick ones, or the others."""
    found: list[str] = []
    for name, function in known():
        if found and name in ("XLA's", "torch's"):
            break
        with np.errstate(all="ignore"):
            if np.array_equal(np.asarray(of(function)), results):
                found.append(name)
    return tuple(found)


def named(names: tuple[str, ...]) -> list[Exponential]:
    """The known exponentials that have one of these names."""
    return [function for name, function in known() if name in names]


def profile(
    x: Float32[np.ndarray, " q"],
    results: Float32[np.ndarray, " q"],
    exact: Float64[np.ndarray, " q"],
    names: tuple[str, ...],
) -> Profile:
    """The profile of results that ``exact`` would have been without rounding."""
    step = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    ulps = np.abs(results.astype(np.float64) - exact) / step
    correct = results == exact.astype(np.float32)
    return Profile(names, len(x), float(ulps.max()), float(ulps.mean()), float(correct.mean()))
