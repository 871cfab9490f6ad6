"""Kernels: one module per semantics, all with the same operation names and signatures, batched over the leading axis.

    exact   the mathematical function, in float64
    apr     aprender's APR path: weights dequantised to float32, float32 dot products; bit-exact NumPy
    gguf    aprender's GGUF path (realizar): activations quantised, fused integer dot products; bit-exact NumPy
    ggml    ggml's CPU library as compiled for x86 with AVX2, FMA and AVX512; bit-exact NumPy
    xla     JAX, batched and differentiable, for engines to screen candidates with; not bit-exact
    gguf_py the gguf package's own dequantisers and quantisers
    libggml the real ggml CPU library, in a process of its own

The operations:

    vec_dot(format, weights: uint8[m, row_bytes], x: float32[b, k]) -> float32[m, b]       every row with every x
    vec_dot_rows(format, weights: uint8[b, row_bytes], x: float32[b, k]) -> float32[b]     row i with x i
    rms_norm(x[..., n], eps, weight=None)      soft_max(x[..., n])      silu(x)      swiglu(gate, up)
    rope(x[b, heads, head_dim], positions: int[b], base, mode: "norm" | "neox")

    dequantize(format, blocks: uint8[b, type_size]) -> float32[b, block_size]
    quantize(format, values: float32[b, block_size]) -> uint8[b, type_size]

Not every module has every operation; a target's contract says which of them implement it. ``get`` finds one by the name
that users give it. Three modules serve them all: ``fma`` (float32 multiply-add with one rounding), ``libm`` (the C
library's float32 functions) and ``arguments`` (what the operations accept). Wrong arguments raise ValueError, one line;
NaN and infinities are values like any other.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from diffuzz import interruption

# A variant of a module is an attribute of it: "libggml:generic" is libggml.generic. These names differ from a module's.
_NAMED = {"xla": ("xla", "compiled"), "gguf-py": ("gguf_py", ""), "libggml": ("libggml", "native")}


# What an implementation stands on, where that may be missing, and how to get it.
_PACKAGES = {
    "xla": ("jax", "pip install jax"),
    "gguf-py": ("gguf", "pip install 'diffuzz-kernels[gguf]'"),
    "libggml": ("ggml", "pip install 'diffuzz-kernels[ggml]'"),
}


def missing(name: str) -> str | None:
    """What to do to have the implementation ``name``, one line, or None where it is there."""
    name, _, path = name.partition("@")
    package, remedy = _PACKAGES.get(name.partition(":")[0], ("", ""))
    if path or not package or importlib.util.find_spec(package):
        return None
    return f"kernels {name} need the package {package}: {remedy}"


def get(name: str) -> Any:
    """What has the operations of the implementation ``name``: "ggml", "xla" (compiled, in float32), "libggml:generic",
    "libggml@PATH" (another build of the library, a folder or a file).

    Raises ImportError where it, or what it stands on, is not installed; ValueError where there is no library.
    """
    name, _, path = name.partition("@")
    module, _, variant = name.partition(":")
    module, variant = _NAMED.get(name, (module, variant))
    with interruption.held():
        found = importlib.import_module(f"{__name__}.{module}")
    found = getattr(found, variant) if variant else found
    return found.at(path) if path else found
