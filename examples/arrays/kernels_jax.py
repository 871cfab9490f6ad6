"""Kernels of JAX, compiled for each shape; so a search looks at few, and says which.

python -m diffuzz search --target softmax --candidate kernels_jax.py:soft_max --arrays jax
python -m diffuzz search --target rmsnorm --candidate kernels_jax.py:rms_norm --arrays jax --warm-up 20s
"""

import jax
import jax.numpy as jnp


@jax.jit
def soft_max(z):
    return jax.nn.softmax(z, axis=-1)


@jax.jit
def rms_norm(x, eps):
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)).astype(x.dtype)


@jax.jit
def swiglu(gate, up):
    return jax.nn.silu(gate) * up
