"""The claims about weight blocks: the published one of each layer, and all of them.

A block is multiplied by the ramp on both paths: A = w.x in float32, B = w.x^ with x^ as the GGUF path quantises it.

    relative      |A - B| / max(|A|, 1e-9), as published; unbounded, because A is a sum whose terms cancel
    normalised    |A - B| / (||w||_1 max|x|), at most max|x^ - x| / max|x|, whatever w

Every block of a model is a finite domain, and all of it is computed: the largest value is the largest there is, for
this activation. FFN-GGUF-016 and 017 scale the ramp of a layer by the scalar result of the one before it. A relative
difference does not depend on such a scale, up to rounding, so each layer is measured on its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from diffuzz.kernels import apr, fused, ggml
from diffuzz.models.model import Tensor, block_of
from diffuzz.models.operations.rounding import gamma
from diffuzz.studies.claims.model import Answer, Subject, formats_of, ramp_of
from diffuzz.studies.claims.reproductions import Figures, two_paths
from diffuzz.studies.claims.row import AMPLIFIES
from diffuzz.targets import distances
from diffuzz.targets.outcome import Bound
from diffuzz.targets.published import PUBLISHED_DRIFT, seed_block

PUBLISHED_LAYER = 3
ONE_INPUT = "|A - B| / |A| over 0.00077, one input"


def first_of_layer(subject: Subject) -> Answer:
    """FFN-GGUF-014: the first block of layer 3, or of the last layer with blocks before it."""
    layer = layer_of(subject)
    tensor = subject.downs[layer]
    drift = first_drift(tensor)
    figures: Figures = {"layer": layer, "format": tensor.format, "rel_diff": drift}
    return Answer(figures | {"amplification": drift / PUBLISHED_DRIFT}, drift / PUBLISHED_DRIFT, ONE_INPUT)


def first_of_layers(subject: Subject, count: int) -> Answer:
    """FFN-GGUF-016, 017: the first block of each of the first ``count`` layers."""
    tensors = downs(subject, count)
    drifts = [first_drift(tensor) for tensor in tensors]
    figures: Figures = {
        "layers": len(drifts),
        "format": formats_of(tensors),
        "rel_diff_min": min(drifts),
        "rel_diff_max": max(drifts),
        "rel_diff_mean": float(np.mean(drifts)),
    }
    return Answer(figures, max(drifts) / PUBLISHED_DRIFT, ONE_INPUT)


def all_of_layer(subject: Subject) -> Answer:
    """The claim of 014 about every block of the layer's weights."""
    return _all(subject, [subject.downs[layer_of(subject)]])


def all_of_layers(subject: Subject, count: int) -> Answer:
    """The claims of 016 and 017 about every block of ffn_down of these layers."""
    return _all(subject, downs(subject, count))


def all_of_model(subject: Subject) -> Answer:
    """The claim about every block of every weight of the model."""
    return _all(subject, [subject.model.tensors[name] for name in subject.blocks])


def normalised(subject: Subject) -> Answer:
    """The same in the normalised measure, relative to the seed block, whose relative drift is the published 0.077 %."""
    seed = seed_normalised()
    found = [one.scanned for one in subject.blocks.values()]
    largest, name = max(
        ((one.normalised.largest.value, one.name) for one in found if one.normalised is not None),
        default=(float("nan"), "none"),
    )
    bound = max((one.bound or 0.0 for one in found), default=0.0)
    figures: Figures = {
        "blocks": sum(one.blocks for one in found),
        "normalised_max": largest,
        "tensor": name,
        "seed_block": seed,
    }
    because = "|w.(x^ - x)| <= ||w||_1 max|x^ - x|, and x^ is that of the ramp"
    # Path A folds at most 256 products of weights that take three roundings; path B has fewer.
    rounding = 2 * gamma(256 + 4) / bound if bound else 0.0
    measure = "|A - B| / (||w||_1 max|x|) over that of the seed block, every block"
    return Answer(figures, largest / seed, measure, Bound(bound / seed, because, rounding=rounding))


def seed_normalised() -> float:
    """The normalised drift of the seed block with the ramp."""
    a, b, _ = two_paths(seed_block())
    size = float(fused.terms("q4_K", seed_block()[None]).sum()) * float(np.abs(ramp_of(256)).max())
    return abs(float(a) - float(b)) / size


def layer_of(subject: Subject) -> int:
    """Layer 3, or the last one with blocks before it; else the first one there is."""
    before = [layer for layer in subject.downs if layer <= PUBLISHED_LAYER]
    return max(before) if before else min(subject.downs)


def downs(subject: Subject, count: int | None = None) -> list[Tensor]:
    """ffn_down of the first ``count`` layers, or of all of them, where it is in blocks; at least one."""
    found = [tensor for layer, tensor in subject.downs.items() if count is None or layer < count]
    return found or [subject.downs[layer_of(subject)]]


def first_drift(tensor: Tensor) -> float:
    """The relative difference of the two paths on the first block of a tensor. q4_K is multiplied as it was published,
    other formats as ggml does.
    """
    size, nbytes = block_of(tensor.format)
    block = tensor.data[:nbytes]
    if tensor.format == "q4_K":
        return two_paths(block)[2]
    x = ramp_of(size)[None]
    a = apr.vec_dot(tensor.format, block[None], x)[0, 0]
    return float(distances.rel_diff(a, ggml.vec_dot(tensor.format, block[None], x)[0, 0]))


def _all(subject: Subject, tensors: Sequence[Tensor]) -> Answer:
    found = [subject.blocks[tensor.name] for tensor in tensors if tensor.name in subject.blocks]
    relative = _joined(one.relative for one in found)
    spreads = [(one.scanned.relative, one.scanned.name) for one in found]
    largest, where = max(
        ((spread.largest.value, f"{name}[{spread.largest.row}] block {spread.largest.block}")
         for spread, name in spreads if spread is not None),
        default=(float("nan"), "none"),
    )  # fmt: skip
    above = float(np.mean(relative > AMPLIFIES * PUBLISHED_DRIFT)) if relative.size else float("nan")
    figures: Figures = {
        "blocks": sum(one.scanned.blocks for one in found),
        "format": formats_of(tensors),
        "rel_diff_median": float(np.median(relative)) if relative.size else float("nan"),
        "rel_diff_max": largest,
        "at": where,
        "share_above_5x": above,
    }
    return Answer(figures, largest / PUBLISHED_DRIFT, "|A - B| / |A| over 0.00077, every block")


def _joined(drifts: Iterable[np.ndarray]) -> np.ndarray:
    whole = np.concatenate(list(drifts) or [np.zeros(0, np.float32)])
    return np.asarray(whole[np.isfinite(whole)])
