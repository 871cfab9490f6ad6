"""Equinox: RMSNorm and RoPE, whose positions are 0, 1, 2 and so on."""

import equinox as eqx
import jax
import numpy as np


def rms_norm(x, eps):
    return np.asarray(jax.vmap(eqx.nn.RMSNorm(x.shape[-1], eps=eps))(x))


def rope(x, positions, base, mode):
    # To turn by -p is to turn the mirror image by p.
    mirror = np.where((positions < 0)[:, None, None] & (np.arange(x.shape[-1]) >= x.shape[-1] // 2), -1, 1)
    sequences = np.zeros((*x.shape[:2], 32, x.shape[2]), np.float32)  # each vector at its position of a sequence
    sequences[np.arange(len(x)), :, abs(positions)] = (x * mirror).astype(np.float32)
    turn = eqx.nn.RotaryPositionalEmbedding(x.shape[-1], theta=base)
    turned = np.asarray(jax.vmap(jax.vmap(turn))(sequences))[np.arange(len(x)), :, abs(positions)]
    return (turned * mirror).astype(np.float32)
