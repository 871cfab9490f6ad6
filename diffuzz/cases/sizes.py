"""Sizes worth a look: what models have, and what lies on the edges of powers of two.

A kernel is written for the sizes of some models, and has loops over tiles, whose sizes are powers of two or multiples
of 32. So it goes wrong at a size that a model has, just beyond a tile, or where the last tile is not full. The sizes of
models are those of their public configurations (``hidden_size``, ``intermediate_size``, ``head_dim``, ``vocab_size``,
numbers of experts and of heads).
"""

from __future__ import annotations

import numpy as np

from diffuzz.cases.space import Dim

# Widths of hidden and intermediate layers: BERT, GPT-2, Llama 1 to 4, Mistral, Mixtral, Qwen 1.5 to 3, Gemma 1 to 3,
# Phi 1 to 4, SmolLM, TinyLlama, OLMo, Falcon, GPT-NeoX, BLOOM, StarCoder, Command R, DeepSeek V2 and V3, gpt-oss, Yi,
# InternLM, MiniCPM, StableLM, Granite, GLM, Nemotron, Grok.
LAYERS = (
    576, 640, 672, 704, 768, 864, 896, 960, 1024, 1152, 1280, 1408, 1536, 1600, 1664, 1792, 1920, 2048, 2112, 2240,
    2304, 2432, 2560, 2688, 2816, 2880, 3024, 3072, 3200, 3328, 3456, 3584, 3712, 3840, 4096, 4304, 4480, 4544,
    4608, 4864, 5120, 5376, 5440, 5504, 5632, 5760, 5888, 6144, 6400, 6656, 6784, 6912, 7168, 7424, 7680, 8064,
    8192, 8448, 8640, 8704, 8960, 9216, 9728, 10240, 10752, 10880, 10944, 11008, 11264, 11520, 11776, 12288, 12800,
    13440, 13568, 13696, 13824, 14336, 14464, 14784, 15360, 16384, 16640, 17408, 17920, 18176, 18432, 18944, 19200,
    20480, 21504, 22016, 22528, 23040, 24576, 25600, 27392, 27648, 28672, 29568, 32768, 33792, 36864, 49152, 53248,
    57344, 65536, 73728,
)  # fmt: skip
# Sizes of heads, numbers of heads and of experts, windows of attention.
SMALL = (
    8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 52, 56, 60, 64, 72, 80, 96, 100, 104, 112, 120, 128, 144, 160, 192, 224,
    256, 320, 384, 448, 512,
)  # fmt: skip
VOCABULARIES = (
    30522, 32000, 32001, 32064, 32768, 49152, 50257, 50280, 50304, 51200, 51865, 51866, 64000, 65024, 92544, 100277,
    100352, 102400, 103168, 119547, 122753, 128000, 128256, 129280, 131072, 151552, 151643, 151936, 152064, 163840,
    200019, 200064, 201088, 202048, 248320, 250002, 250880, 256000, 256128, 262144, 262208,
)  # fmt: skip
OF_MODELS = tuple(sorted({*SMALL, *LAYERS, *VOCABULARIES}))
# Multiples of 64 up to here are looked at all.
MULTIPLES = 8192


def of_models(dim: Dim) -> list[int]:
    """The admissible sizes that models have."""
    return [size for size in OF_MODELS if dim.admits(size)]


def edges(dim: Dim) -> list[int]:
    """Powers of two and their neighbours, where the dimension has steps in whole steps."""
    found: set[int] = set()
    for exponent in range((dim.highest // dim.step).bit_length() + 1):
        found |= {((1 << exponent) + beside) * dim.step for beside in (-1, 0, 1)}
    for exponent in range(dim.highest.bit_length() + 1):
        found.add(1 << exponent)
    return sorted(size for size in {*found, dim.lowest, dim.highest} if dim.admits(size))


def multiples(dim: Dim) -> list[int]:
    """Multiples of 64, and those of 32 and 500 below some thousands: whole tiles, and one more than that."""
    sizes = {*range(64, MULTIPLES + 1, 64), *range(32, 1025, 32), *range(500, 4001, 500)}
    sizes |= {size + dim.step for size in (*range(32, 1025, 32), *range(500, 4001, 500))}
    return sorted(size for size in sizes if dim.admits(size))


def small(dim: Dim, first: int, last: int) -> list[int]:
    """The ``first`` to the ``last`` of the smallest sizes, from 1."""
    steps = np.arange(first, last + 1) * dim.step + (dim.lowest - dim.step)
    return [int(size) for size in steps if dim.admits(int(size))]
