"""Kernels: one module per semantics, all with the same operation names and signatures, batched over the leading axis.

    exact   the mathematical function, in float64
    apr     aprender's APR path: weights dequantised to float32, float32 dot products; bit-exact NumPy
    gguf    aprender's GGUF path (realizar): activations quantised, fused integer dot products; bit-exact NumPy
    ggml    ggml's CPU library as compiled for x86 with AVX2, FMA and AVX512; bit-exact NumPy
    xla     JAX, batched and differentiable, for engines to screen candidates with; not bit-exact

The operations:

    vec_dot(format, weights: uint8[m, row_bytes], x: float32[b, k]) -> float32[m, b]       every row with every x
    vec_dot_rows(format, weights: uint8[b, row_bytes], x: float32[b, k]) -> float32[b]     row i with x i
    rms_norm(x[..., n], eps, weight=None)      soft_max(x[..., n])      silu(x)      swiglu(gate, up)
    rope(x[b, heads, head_dim], positions: int[b], base, mode: "norm" | "neox")

Three modules serve them: ``fma`` (float32 multiply-add with one rounding), ``libm`` (the C library's float32 functions)
and ``arguments`` (what the operations accept). Wrong arguments raise ValueError, one line; NaN and infinities are
values like any other.
"""
