"""The numbers of a weight tensor, a part at a time, in the form that products and their bounds need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.models.model import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float32

FLOATS = ("f32", "f16", "bf16", "f64")
_OFFSET_OF_Q6_K = np.float32(32)
# Elements of a part: 16 MiB of float32.
PART = 1 << 22


@attrs.frozen(eq=False)
class Part:
    """Rows ``start`` to ``stop`` of a matrix.

    values     float32, dequantised
    sizes      the size of the terms of each, |scale code| + |minimum|: what sums of codes and of minimums apart are
               relative to
    minimum    of each sub-block, as many in a row as the format has, and the offset times the scale of q6_K; None for a
               format without either
    """

    start: int
    stop: int
    values: Float32[np.ndarray, "rows k"]
    sizes: Float32[np.ndarray, "rows k"]
    minimum: Float32[np.ndarray, "rows sub_blocks"] | None = None


def sub_block(format: str) -> int:
    """The elements of a sub-block, which share a minimum."""
    return 16 if format in ("q2_K", "q6_K") else 32


def parts(tensor: Tensor) -> Iterator[Part]:
    """A matrix in parts of a bounded size."""
    rows, k = tensor.shape
    step = max(1, PART // k)
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        if tensor.format in FLOATS:
            values = tensor.values(slice(start, stop))
            yield Part(start, stop, values, np.abs(values))
            continue
        fmt = formats.get(tensor.format)
        decoded = fmt.decode(tensor.blocks()[start:stop].reshape(-1, fmt.type_size))
        with np.errstate(all="ignore"):
            scaled = decoded.scale * decoded.code
            if tensor.format == "q6_K":
                # ggml multiplies codes as they are stored, and subtracts the offset times the sums of activations.
                offset = _OFFSET_OF_Q6_K * decoded.scale
                sizes = np.abs(scaled + offset) + np.abs(offset)
                minimum = offset.reshape(stop - start, -1, sub_block(tensor.format))[:, :, 0]
                yield Part(start, stop, scaled.reshape(stop - start, k), sizes.reshape(stop - start, k), minimum)
                continue
            if decoded.minimum is None:
                values = scaled.reshape(stop - start, k)
                yield Part(start, stop, values, np.abs(values))
                continue
            sizes = np.abs(scaled)
            sizes += np.abs(decoded.minimum)
            scaled -= decoded.minimum
        minimum = decoded.minimum.reshape(stop - start, -1, sub_block(tensor.format))[:, :, 0]
        yield Part(start, stop, scaled.reshape(stop - start, k), sizes.reshape(stop - start, k), minimum)


def values(tensor: Tensor) -> Float32[np.ndarray, "rows k"]:
    """The whole matrix in float32."""
    return np.asarray(tensor.values())
