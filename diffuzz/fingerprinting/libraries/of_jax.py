"""Functions of jax, compiled for the CPU, by the names of targets."""

import jax
import jax.numpy as jnp
import numpy as np


def _compiled(function):
    compiled = jax.jit(function)
    return lambda *arrays: np.asarray(compiled(*arrays))


_sum = _compiled(lambda x: jnp.sum(x, axis=-1))
_cumsum = _compiled(lambda x: jnp.cumsum(x, axis=-1))
_matmul = _compiled(jnp.matmul)
_mean_square = _compiled(lambda x: jnp.mean(x**2, axis=-1))
_softmax = _compiled(lambda z: jax.nn.softmax(z, axis=-1))
_silu = _compiled(jax.nn.silu)
_rmsnorm = _compiled(lambda x, eps: x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps))


def sum(x):
    return _sum(x)


def cumsum(x):
    return _cumsum(x)


def matmul(a, b):
    return _matmul(a, b)


def batched_matmul(a, b):
    return _matmul(a, b)


def mean_square(x):
    return _mean_square(x)


def rmsnorm(x, eps):
    return _rmsnorm(x, np.float32(eps))


def softmax(z):
    return _softmax(z)


def silu(x):
    return _silu(x)
