"""Penzai's RoPE and RMSNorm, on named arrays."""

import jax
import numpy as np
from penzai import pz


def rms_norm(x, eps):
    norm = pz.nn.RMSStandardize(across="n", epsilon=eps)
    return np.asarray(norm(pz.nx.wrap(x).tag("b", "n")).untag("b", "n").unwrap())


def rope(x, positions, base, mode):
    turn = pz.nn.ApplyRoPE("d", base, "positions")
    named = pz.nx.wrap(jax.numpy.asarray(x)).tag("b", "h", "d")
    at = pz.nx.wrap(jax.numpy.asarray(positions)).tag("b")
    return np.asarray(turn(named, positions=at).untag("b", "h", "d").unwrap())
