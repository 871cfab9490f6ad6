"""MLX on the CPU."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np


def soft_max(z):
    return np.array(mx.softmax(mx.array(z), axis=-1))


def rms_norm(x, eps):
    return np.array(mx.fast.rms_norm(mx.array(x), None, eps))


def swiglu(gate, up):
    return np.array(nn.silu(mx.array(gate)) * mx.array(up))


def rope(x, positions, base, mode):  # [b, heads, one token, head_dim], one offset for each of b
    turned = mx.fast.rope(
        mx.array(x)[:, :, None],
        x.shape[-1],
        traditional=mode == "norm",
        base=base,
        scale=1.0,
        offset=mx.array(positions),
    )
    return np.array(turned)[:, :, 0]


def dequantize_mxfp4(blocks):
    # ggml puts weights i and i + 16 into a byte, MLX 2i and 2i + 1.
    codes = np.concatenate([blocks[:, 1:] & 15, blocks[:, 1:] >> 4], axis=1)
    packed = np.ascontiguousarray(codes[:, 0::2] | codes[:, 1::2] << 4).view(np.uint32)
    scales = mx.array(blocks[:, :1].copy())
    return np.array(mx.dequantize(mx.array(packed), scales, group_size=32, bits=4, mode="mxfp4", dtype=mx.float32))
