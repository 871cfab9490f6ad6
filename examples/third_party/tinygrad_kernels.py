"""tinygrad on the CPU, where it needs clang: every shape is compiled, so that the shapes are few."""

import numpy as np
from tinygrad import Tensor
from tinygrad.llm.gguf import ggml_data_to_tensor
from tinygrad.nn import RMSNorm


def soft_max(z):
    return Tensor(z).softmax(-1).numpy()


def rms_norm(x, eps):
    return RMSNorm(x.shape[-1], eps)(Tensor(x)).numpy()


def swiglu(gate, up):
    return (Tensor(gate).silu() * Tensor(up)).numpy()


def _dequantize(blocks, kind, size):
    # Rows are filled up to powers of two, because every number of blocks is compiled.
    b = len(blocks)
    filled = np.zeros((1 << (b - 1).bit_length(), blocks.shape[1]), np.uint8)
    filled[:b] = blocks
    return ggml_data_to_tensor(Tensor(filled.reshape(-1)), len(filled) * size, kind).numpy().reshape(-1, size)[:b]


def dequantize_q4_0(blocks):
    return _dequantize(blocks, 2, 32)


def dequantize_q5_0(blocks):
    return _dequantize(blocks, 6, 32)


def dequantize_q5_1(blocks):
    return _dequantize(blocks, 7, 32)


def dequantize_q4_k(blocks):
    return _dequantize(blocks, 12, 256)


def dequantize_q5_k(blocks):
    return _dequantize(blocks, 13, 256)


def dequantize_q6_k(blocks):
    return _dequantize(blocks, 14, 256)


def dequantize_mxfp4(blocks):
    return _dequantize(blocks, 39, 32)
