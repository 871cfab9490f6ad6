"""LitGPT's RoPE, with its cache of cosines and sines, and its RMSNorm."""

import numpy as np
import torch
from litgpt.model import RMSNorm, apply_rope, build_rope_cache


@torch.no_grad()
def rms_norm(x, eps):
    return RMSNorm(x.shape[-1], eps=eps)(torch.from_numpy(x)).numpy()


def rope(x, positions, base, mode):
    cos, sin = build_rope_cache(int(abs(positions).max()) + 1, x.shape[-1], base=base)
    cos, sin = cos[abs(positions)][:, None], sin[abs(positions)][:, None]
    sin *= torch.from_numpy(np.sign(positions))[:, None, None]  # the cache has positions from 0 on
    return apply_rope(torch.from_numpy(x)[:, :, None], cos, sin)[:, :, 0].numpy()
