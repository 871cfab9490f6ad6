"""gguf, llama.cpp's own Python package: NumPy quantisers and dequantisers."""

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import quants


def quantize_q8_0(values):
    return quants.quantize(values, Type.Q8_0)


def dequantize_q2_k(blocks):
    return quants.dequantize(blocks, Type.Q2_K)


def dequantize_q4_k(blocks):
    return quants.dequantize(blocks, Type.Q4_K)


def dequantize_q6_k(blocks):
    return quants.dequantize(blocks, Type.Q6_K)


def dequantize_mxfp4(blocks):
    with np.errstate(over="ignore", invalid="ignore"):
        return quants.dequantize(blocks, Type.MXFP4)
