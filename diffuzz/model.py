"""The claims that need a real model: the first super-blocks of its ffn_down weights, from a GGUF file (package gguf).

Published with the ramp as the one input: FFN-GGUF-014 for layer 3, FFN-GGUF-016 and 017 for 5 and 28 layers, where the
scalar result of one layer scales the ramp of the next. A relative difference does not depend on such a scale, up to
rounding: the layers are independent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffuzz import formats
from diffuzz.published import PUBLISHED_DRIFT
from diffuzz.reproductions import Figures, two_paths


class ModelError(ValueError):
    """A GGUF file that cannot be read, or lacks the tensor that a claim is about; one line."""


def amplification(path: Path, layer: int) -> Figures:
    """FFN-GGUF-014: the relative difference of the two paths on the layer's first super-block, over 0.00077."""
    drift = _drifts(path, [layer])[0]
    return {"rel_diff": drift, "amplification": drift / PUBLISHED_DRIFT}


def layers(path: Path, count: int) -> Figures:
    """FFN-GGUF-016, 017: the relative differences of the first ``count`` layers, or of all if there are fewer."""
    drifts = _drifts(path, list(range(count)))
    return {
        "layers": len(drifts),
        "rel_diff_min": min(drifts),
        "rel_diff_max": max(drifts),
        "rel_diff_mean": float(np.mean(drifts)),
    }


def _drifts(path: Path, wanted: list[int]) -> list[float]:
    tensors = {tensor.name: tensor for tensor in _reader(path).tensors}
    found = [tensors[name] for layer in wanted if (name := f"blk.{layer}.ffn_down.weight") in tensors]
    if not found:
        raise ModelError(f"{path}: has no tensor blk.{wanted[0]}.ffn_down.weight; give a llama-like model")
    return [_drift(path, tensor) for tensor in found]


def _drift(path: Path, tensor: Any) -> float:
    name = tensor.tensor_type.name.lower().replace("_k", "_K")
    if name != "q4_K":
        raise ModelError(f"{path}: {tensor.name} is {name}; the claim is about q4_K weights")
    block = np.asarray(tensor.data).reshape(-1)[: formats.get(name).type_size].view(np.uint8)
    return two_paths(block, name)[2]


def _reader(path: Path) -> Any:
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise ImportError("reading a model needs the package gguf: pip install 'diffuzz-kernels[gguf]'") from error
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file")
    try:
        return GGUFReader(path)
    except Exception as error:  # a damaged file makes the reader raise whatever it stumbles over
        raise ModelError(f"{path}: not a readable GGUF file, or cut short ({type(error).__name__}: {error})") from error
