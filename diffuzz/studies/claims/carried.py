"""The claim that layers amplify, with an activation that is carried from one layer to the next.

The published chain of 28 layers couples them by one scalar, so its layers are independent of each other. Here are two
that are not:

    chain     x_{t+1} = W_t x_t / rms(W_t x_t) as in FFN-GGUF-009, with W_t the first 256 rows and columns of layer t's
              ffn_down, and x_0 the ramp. Each path carries its own activation.
    model     the model itself: its residual after each layer, on both paths.

The model's floor is the distance of the GGUF path from itself if its embeddings are moved by one ULP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from diffuzz.kernels import apr, ggml
from diffuzz.models.model import Tensor, block_of
from diffuzz.studies.claims import blocks
from diffuzz.studies.claims.model import Answer, Subject, formats_of, ramp_of
from diffuzz.studies.claims.reproductions import Figures
from diffuzz.targets import chain, distances

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, UInt8

SIZE = 256


def through_blocks(subject: Subject) -> Answer:
    """The chain through a square of each layer's ffn_down."""
    tensors = blocks.downs(subject)
    size = side(tensors)
    if size == 0:
        return Answer({"layers": 0}, float("nan"), "no square of whole blocks")
    drifts = chained(tensors, size)
    figures: Figures = {
        "layers": len(tensors),
        "format": formats_of(tensors),
        "size": size,
        "rel_l2_first": float(drifts[0]),
        "rel_l2_last": float(drifts[-1]),
        "rel_l2_max": float(drifts.max()),
    }
    return Answer(figures, _ratio(drifts[-1], drifts[0]), "relative L2 after the last layer over that after the first")


def through_model(subject: Subject) -> Answer:
    """The residual of the model: the largest growth of a token's drift from the first layer to the last."""
    passes = subject.passes
    first, last = "blk.0.l_out", f"blk.{passes.layers - 1}.l_out"
    begun, ended, floor = passes.drift(first), passes.drift(last), passes.floor(last)
    growths = [_ratio(after, before) for before, after in zip(begun, ended, strict=True)]
    worst = int(np.argmax(growths))
    figures: Figures = {
        "layers": passes.layers,
        "token": worst,
        "rel_l2_first": float(begun[worst]),
        "rel_l2_last": float(ended[worst]),
        "floor_last": float(floor[worst]),
        "over_floor": _ratio(ended[worst], floor[worst]),
    }
    measure = "relative L2 of the residual after the last layer over that after the first, worst token"
    return Answer(figures, growths[worst], measure)


def side(tensors: list[Tensor]) -> int:
    """The side of the square that all of them have in whole blocks, at most 256."""
    most = min(SIZE, *(min(tensor.rows, tensor.columns) for tensor in tensors))
    block = int(np.lcm.reduce([block_of(tensor.format)[0] for tensor in tensors]))
    return most // block * block


def chained(tensors: list[Tensor], size: int) -> Float64[np.ndarray, " layers"]:
    """The relative L2 difference of the paths after each layer."""
    x = ramp_of(size)
    a, b = (_walked(tensors, size, x, dot) for dot in (apr.vec_dot, ggml.vec_dot))
    return np.asarray(distances.relative_l2(a, b))


def _walked(
    tensors: list[Tensor],
    size: int,
    x: Float32[np.ndarray, " size"],
    dot: Callable[[str, UInt8[np.ndarray, "m row_bytes"], Float32[np.ndarray, "b k"]], Float32[np.ndarray, "m b"]],
) -> Float32[np.ndarray, "layers size"]:
    found = []
    x = x[None]
    for tensor in tensors:
        elements, nbytes = block_of(tensor.format)
        rows = np.ascontiguousarray(tensor.blocks()[:size, : size // elements * nbytes])
        x = chain.normalised(np.ascontiguousarray(dot(tensor.format, rows, x).T))
        found.append(x[0])
    return np.stack(found)


def _ratio(top: float | np.floating, bottom: float | np.floating) -> float:
    if bottom == 0:
        return 1.0 if top == 0 else float("inf")
    return float(top / bottom)
