"""Kernels to compare, right ones and, as the variant ``constant``, wrong ones; and the same functions as candidates."""

from types import SimpleNamespace

import numpy as np
from my_format import FORMAT


def rms_norm(x, eps, weight=None):
    y = x / np.sqrt((x * x).mean(axis=-1, keepdims=True, dtype=np.float32) + np.float32(eps))
    return y if weight is None else y * weight


def layer_norm(x, eps):
    centred = x - x.mean(axis=1, keepdims=True, dtype=np.float32)
    return centred / np.sqrt((centred * centred).mean(axis=1, keepdims=True, dtype=np.float32) + np.float32(eps))


def without_eps(x, eps):
    """Wrong: a constant in the place of eps."""
    return layer_norm(x, 1e-5)


def dequantize(format, blocks):
    if format != FORMAT.name:
        raise ValueError(f"format={format}: only {FORMAT.name}")
    return restored(blocks)


def restored(blocks):
    """Right, as a candidate for dequantize."""
    d = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    codes = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little").reshape(len(blocks), 32, 3) @ np.array([1, 2, 4])
    return d * (codes - 4).astype(np.float32)


def lowest_lost(blocks):
    """Wrong, as a candidate for dequantize: the lowest code is lost."""
    return np.where(restored(blocks) == restored(blocks).min(), np.float32(0), restored(blocks))


def dots(weights, x):
    """Right, as a candidate for matvec."""
    rows = restored(weights.reshape(-1, 14)).reshape(len(weights), -1)
    return (rows * x).sum(axis=1, dtype=np.float32)


def last_block_lost(weights, x):
    """Wrong, as a candidate for matvec."""
    return dots(weights[:, :-14], x[:-32])


def truncated(values):
    """Wrong, as a candidate for quantize: codes towards zero."""
    blocks = FORMAT.quantize(values)
    fields = FORMAT.unpack(blocks)
    d = np.where(fields["d"] > 0, fields["d"], 1).astype(np.float64)[:, None]
    fields["codes"] = np.clip(np.trunc(values / d), -4, 3).astype(np.int32) + 4
    return FORMAT.pack(fields)


constant = SimpleNamespace(rms_norm=lambda x, eps: rms_norm(x, 1.0), layer_norm=without_eps)
