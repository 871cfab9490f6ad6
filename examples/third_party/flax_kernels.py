"""Flax: RMSNorm of its linen and of its nnx interface."""

import numpy as np
from flax import linen, nnx


def rms_norm(x, eps):
    return np.asarray(linen.RMSNorm(epsilon=eps, use_scale=False).apply({}, x))


def nnx_rms_norm(x, eps):
    return np.asarray(nnx.RMSNorm(x.shape[-1], epsilon=eps, use_scale=False, rngs=nnx.Rngs(0))(x))
