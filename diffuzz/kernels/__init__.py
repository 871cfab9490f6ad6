"""Kernels: implementations of the same operations, one module per semantics, batched over the leading axis.

    exact    the mathematical function, in float64
    apr      aprender's APR path: weights dequantised to float32, float32 dot products; bit-exact NumPy
    gguf     aprender's GGUF path (realizar): activations quantised, fused integer dot products; bit-exact NumPy
    ggml     ggml's CPU library as compiled for x86 with AVX2, FMA and AVX512; bit-exact NumPy
    xla      JAX, batched and differentiable, in which engines screen candidates; not bit-exact
    gguf_py  the quantisers and dequantisers of the gguf package
    libggml  the real ggml CPU library, in a process of its own

The operations:

    vec_dot(format, weights: uint8[m, row_bytes], x: float32[b, k]) -> float32[m, b]       every row with every x
    vec_dot_rows(format, weights: uint8[b, row_bytes], x: float32[b, k]) -> float32[b]     row i with x i
    rms_norm(x[..., n], eps, weight=None)      soft_max(x[..., n])      silu(x)      swiglu(gate, up)
    rope(x[b, heads, head_dim], positions: int[b], base, mode: "norm" | "neox")

    dequantize(format, blocks: uint8[b, type_size]) -> float32[b, block_size]
    quantize(format, values: float32[b, block_size]) -> uint8[b, type_size]

Not every module has every operation; a target's contract lists those that have the one it calls. ``get`` finds an
implementation by the name that users give it (see diffuzz.kernels.names). Three modules serve the others: ``fma``
(float32 multiply-add with one rounding), ``libm`` (the C library's float32 functions) and ``arguments`` (checks of
arguments). Wrong arguments raise ValueError with a message of one line; NaN and infinities are accepted.
"""

from __future__ import annotations

from diffuzz.kernels.names import REGISTRY, Implementation, KernelName, base, load, located, source, unlocated

__all__ = [
    "REGISTRY", "Implementation", "KernelName", "base", "get", "load", "located", "missing", "source", "unlocated",
]  # fmt: skip


def missing(name: str) -> str | None:
    """One line that says which package the implementation ``name`` needs and how to install it; None if none is
    missing.
    """
    return KernelName.parse(name).missing()


def get(name: str) -> Implementation:
    """The object that has the operations of the implementation ``name`` as attributes: "ggml", "xla" (compiled, in
    float32), "libggml:generic", "libggml@PATH" (another build of the library, a folder or a file).

    Raises ImportError where it, or a package that it needs, is not installed; ValueError where there is no library at
    the path.
    """
    return KernelName.parse(name).load()
