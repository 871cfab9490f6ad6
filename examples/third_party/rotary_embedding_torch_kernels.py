"""rotary-embedding-torch: RoPE of pairs (2i, 2i + 1)."""

import torch
from rotary_embedding_torch import RotaryEmbedding, apply_rotary_emb


@torch.no_grad()
def rope(x, positions, base, mode):
    freqs = RotaryEmbedding(x.shape[-1], theta=base)(torch.from_numpy(positions))
    return apply_rotary_emb(freqs, torch.from_numpy(x).transpose(0, 1)).transpose(0, 1).numpy()
