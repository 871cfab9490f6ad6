"""Kernels of PyTorch. They get tensors, and return tensors, on whatever device they are called with:

python -m diffuzz search --target softmax --candidate kernels_torch.py:soft_max --arrays torch
python -m diffuzz search --target attention --candidate kernels_torch.py:attention --arrays torch --device cuda:0
"""

import torch
import torch.nn.functional as F  # noqa: N812  the name that PyTorch's documentation uses


def soft_max(z):
    return F.softmax(z, dim=-1)


def rms_norm(x, eps):
    return F.rms_norm(x, x.shape[-1:], eps=eps)


def attention(q, k, v, *, causal, window, softcap, scale):
    if window or softcap:
        raise NotImplementedError("scaled_dot_product_attention has no window and no cap")
    s, t = q.shape[2], k.shape[2]
    # The queries are the last s of t positions, where is_causal would take them for the first.
    seen = torch.ones(s, t, dtype=torch.bool, device=q.device).tril(t - s) if causal else None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=True)


def rope(x, positions, base, mode):
    half = x.shape[-1] // 2
    powers = torch.arange(half, dtype=torch.float64, device=x.device) / half
    angles = positions[:, None, None].double() * base**-powers
    cos, sin = angles.cos(), angles.sin()
    first, second = (x[..., :half], x[..., half:]) if mode == "neox" else (x[..., ::2], x[..., 1::2])
    turned = (first * cos - second * sin, first * sin + second * cos)
    together = torch.cat(turned, -1) if mode == "neox" else torch.stack(turned, -1).flatten(-2)
    return together.to(x.dtype)
