"""The NumPy quantisers of the ``gguf`` package, llama.cpp's gguf-py, which converts models: another voice on formats.

    dequantize(format, blocks: uint8[b, type_size]) -> float32[b, block_size]     all weight formats
    quantize(format, values: float32[b, block_size]) -> uint8[b, type_size]       q4_0, q4_1, q5_0, q5_1, q8_0

An optional dependency: ``pip install 'diffuzz-kernels[gguf]'``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from diffuzz.kernels import arguments

QUANTISED = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")


def dequantize(format: str, blocks: np.ndarray) -> np.ndarray:
    """float32[b, k] of uint8[b, row_bytes], as gguf-py computes it. Raises ImportError without the package."""
    rows = arguments.blocks(format, blocks)
    quants, kind = _package(format)
    with np.errstate(all="ignore"):
        return np.asarray(quants.dequantize(rows.reshape(len(rows), -1), kind), np.float32)


def quantize(format: str, values: np.ndarray) -> np.ndarray:
    """uint8[b, row_bytes] of float32[b, k]. Raises ImportError without the package, ValueError for other formats."""
    if format not in QUANTISED:
        raise ValueError(f"format={format!r}: gguf-py quantises {', '.join(QUANTISED)}")
    array = arguments.vector("values", values)
    quants, kind = _package(format)
    with np.errstate(all="ignore"):
        return np.asarray(quants.quantize(array, kind), np.uint8)


def _package(format: str) -> tuple[Any, Any]:
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError as error:
        raise ImportError("kernels gguf-py need the gguf package: pip install 'diffuzz-kernels[gguf]'") from error
    return quants, GGMLQuantizationType[format.upper()]
