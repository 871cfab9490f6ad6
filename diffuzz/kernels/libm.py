"""The C library's float32 functions, on arrays.

NumPy's float32 exp, sin, cos and power are other implementations, whose last bits differ; ggml and aprender call the C
library.

``expf`` is computed here by the algorithm of glibc since 2.27 (from ARM's optimized routines; musl and bionic use it
too), so its bits do not depend on the machine. ``powf``, ``sinf`` and ``cosf`` call the machine's C library, so theirs
do: glibc's on most Linux systems, for which diffuzz is tested, or musl's, Apple's or Microsoft's. Where no library with
these functions is found, they raise ImportError, and what needs them (rope of ``apr`` and ``ggml``) is not there.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float32

_STEPS = 32  # of the table 2^(i/32); EXP2F_TABLE_BITS = 5
_POWERS = np.array([2.0 ** (i / _STEPS) for i in range(_STEPS)])
_SCALE = float.fromhex("0x1.71547652b82fep+0") * _STEPS  # 32 / ln 2
# 2^(r/32) on |r| <= 1/2: 1 + c2 r + c1 r^2 + c0 r^3 with a relative error of 2^-34.8 (glibc, e_exp2f_data.c).
_C0 = float.fromhex("0x1.c6af84b912394p-5") / _STEPS**3
_C1 = float.fromhex("0x1.ebfce50fac4f3p-3") / _STEPS**2
_C2 = float.fromhex("0x1.62e42ff0c52d6p-1") / _STEPS
_OVERFLOW = np.float32(float.fromhex("0x1.62e42ep6"))  # the largest argument with a finite result
_UNDERFLOW = np.float32(float.fromhex("-0x1.9fe368p6"))  # below it the result is 0


def expf(x: Float32[np.ndarray, " ..."]) -> Float32[np.ndarray, " ..."]:
    """``exp(x)`` in float32 as glibc's expf: at most 0.502 ULP off.

    32 x / ln 2 = k + r with a whole k and |r| <= 1/2; then 2^(k/32) from a table times a cubic in r, all in float64,
    with one rounding at the end. Infinities and NaN are as in C.

    Measured on all 2^32 arguments: two, 32.564632 and -63.09946, differ by one ULP from glibc's build for CPUs with
    fused multiply-add; none differs from its other build.
    """
    with np.errstate(all="ignore"):
        scaled = _SCALE * np.clip(x, np.float32(-120), np.float32(100)).astype(np.float64)
        whole = np.rint(scaled)
        r = scaled - whole
        k = np.where(np.isnan(whole), 0, whole).astype(np.int32)
        power = np.ldexp(_POWERS[k % _STEPS], k // _STEPS)
        result = (((_C0 * r + _C1) * (r * r) + (_C2 * r + 1)) * power).astype(np.float32)
        result = np.where(x > _OVERFLOW, np.float32(np.inf), result)
        return np.where(x < _UNDERFLOW, np.float32(0), result)


def _libraries() -> Iterator[ctypes.CDLL]:
    """The libraries that may have the functions: the C library's own of mathematics, what this process has loaded
    already (with musl the C library has all of them), and the names that others go by.
    """
    found = [ctypes.util.find_library(name) for name in ("m", "c")]
    for name in (*(name for name in found if name), None, "libm.so.6", "ucrtbase"):
        # None is no library on Windows, and TypeError there.
        with contextlib.suppress(OSError, TypeError):
            yield ctypes.CDLL(name)


@cache
def _function(name: str, arguments: int) -> Callable[..., float]:
    """A float32 function of the C library. Raises ImportError where there is none."""
    prototype = ctypes.CFUNCTYPE(ctypes.c_float, *[ctypes.c_float] * arguments)
    for library in _libraries():
        with contextlib.suppress(AttributeError):
            function: Callable[..., float] = prototype((name, library))
            return function
    raise ImportError(
        f"the C library's function {name}, with which kernels apr and ggml rotate positions, is not found on this "
        f"system ({sys.platform}); rope of other kernels (exact, xla) does not need it"
    )


def powf(base: float, exponent: Float32[np.ndarray, " ..."]) -> Float32[np.ndarray, " ..."]:
    """``base ** exponent`` by the machine's powf."""
    function = _function("powf", 2)
    return np.array([function(base, e) for e in np.ravel(exponent).tolist()], np.float32).reshape(np.shape(exponent))


def sinf(x: Float32[np.ndarray, " ..."]) -> Float32[np.ndarray, " ..."]:
    """``sin(x)`` by the machine's sinf."""
    return _elementwise("sinf", x)


def cosf(x: Float32[np.ndarray, " ..."]) -> Float32[np.ndarray, " ..."]:
    """``cos(x)`` by the machine's cosf."""
    return _elementwise("cosf", x)


def _elementwise(name: str, x: Float32[np.ndarray, " ..."]) -> Float32[np.ndarray, " ..."]:
    function = _function(name, 1)
    # Angles repeat in a batch, and a call costs more than finding the repeats.
    arguments, where = np.unique(x.view(np.int32), return_inverse=True)
    values = np.array([function(a) for a in arguments.view(np.float32).tolist()], np.float32)
    return values[where].reshape(x.shape)
