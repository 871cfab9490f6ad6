"""x-transformers: RMSNorm by way of normalize, which has no eps but a least length, and RoPE."""

import torch
from x_transformers.x_transformers import RMSNorm, RotaryEmbedding, apply_rotary_pos_emb


@torch.no_grad()
def rms_norm(x, eps):
    return RMSNorm(x.shape[-1])(torch.from_numpy(x)).numpy()


def rope(x, positions, base, mode):
    freqs, scale = RotaryEmbedding(x.shape[-1], base=base)(torch.from_numpy(positions))
    return apply_rotary_pos_emb(torch.from_numpy(x).transpose(0, 1), freqs, scale).transpose(0, 1).numpy()
