"""The NumPy quantisers of the ``gguf`` package (llama.cpp's gguf-py, which converts models): one more implementation of
the formats.

    dequantize(format, blocks: uint8[b, type_size]) -> float32[b, block_size]     all weight formats
    quantize(format, values: float32[b, block_size]) -> uint8[b, type_size]       q4_0, q4_1, q5_0, q5_1, q8_0

An optional dependency: ``pip install 'diffuzz-kernels[gguf]'``.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from diffuzz.kernels import arguments, names

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

QUANTISED = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")


def dequantize(format: str, blocks: UInt8[np.ndarray, "b row_bytes"]) -> Float32[np.ndarray, "b k"]:
    """The values of rows of blocks. Raises ImportError without the package, ValueError for wrong arguments."""
    rows = arguments.blocks(format, blocks)
    quants, kind = _package(format)
    with np.errstate(all="ignore"):
        return np.asarray(quants.dequantize(rows.reshape(len(rows), -1), kind), np.float32)


def quantize(format: str, values: Float32[np.ndarray, "b k"]) -> UInt8[np.ndarray, "b row_bytes"]:
    """Rows of blocks that store these values.

    Raises ImportError without the package, ValueError for wrong arguments and for formats outside QUANTISED.
    """
    if format not in QUANTISED:
        raise ValueError(f"format={format!r}: gguf-py quantises {', '.join(QUANTISED)}")
    array = arguments.vector("values", values)
    quants, kind = _package(format)
    with np.errstate(all="ignore"):
        return np.asarray(quants.quantize(array, kind), np.uint8)


def _package(format: str) -> tuple[ModuleType, object]:
    """The package's module of quantisers, and its name of the format."""
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError as error:
        raise names.missing_package("gguf-py") from error
    return quants, GGMLQuantizationType[format.upper()]
