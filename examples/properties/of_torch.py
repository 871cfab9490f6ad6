"""Functions of PyTorch, to be asked what they keep (docs/findings.md has what they do).

python -m diffuzz search --target matmul --candidate of_torch.py:matmul --property all

They get arrays of NumPy, whose memory the tensors share: so strides and alignment are those that are asked about.
"""

import torch
import torch.nn.functional as F  # noqa: N812  the name that PyTorch's documentation uses


def soft_max(z):
    return torch.softmax(torch.from_numpy(z), -1).numpy()


def matmul(a, b):
    return (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()


def layer_norm(x, gain, bias, *, eps):
    x, gain, bias = (torch.from_numpy(one) for one in (x, gain, bias))
    return F.layer_norm(x, x.shape[-1:], gain, bias, eps=eps).numpy()


def cumsum(x):
    return torch.cumsum(torch.from_numpy(x), -1).numpy()


def attention(q, k, v, *, causal, scale, **others):
    q, k, v = (torch.from_numpy(one) for one in (q, k, v))
    s, t = q.shape[2], k.shape[2]
    seen = torch.arange(t) <= torch.arange(s)[:, None] + t - s if causal else None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=True).numpy()
