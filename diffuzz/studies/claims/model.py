"""The claims that need a real model. They use the first super-block of the ffn_down weights of some layers, read from a
GGUF file with the package gguf.

They were published with the ramp as the only input: FFN-GGUF-014 for layer 3, FFN-GGUF-016 and 017 for 5 and 28 layers,
where the scalar result of one layer scales the ramp of the next. A relative difference does not depend on such a scale,
up to rounding, so each layer is measured on its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffuzz import formats
from diffuzz.studies.claims.reproductions import Figures, two_paths
from diffuzz.targets.published import PUBLISHED_DRIFT

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor


class ModelError(ValueError):
    """A GGUF file that cannot be read, or does not have the tensor of a claim; the message is one line."""


def amplification(path: Path, layer: int) -> Figures:
    """FFN-GGUF-014: the relative difference of the two paths on the first super-block of ``layer``, divided by 0.00077.

    Raises ModelError, and ImportError without the package gguf.
    """
    drift = _drifts(path, [layer])[0]
    return {"rel_diff": drift, "amplification": drift / PUBLISHED_DRIFT}


def layers(path: Path, count: int) -> Figures:
    """FFN-GGUF-016, 017: the relative differences of the first ``count`` layers, or of all layers if there are fewer.

    Raises ModelError, and ImportError without the package gguf.
    """
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


def _drift(path: Path, tensor: ReaderTensor) -> float:
    name = tensor.tensor_type.name.lower().replace("_k", "_K")
    if name != "q4_K":
        raise ModelError(f"{path}: {tensor.name} is {name}; the claim is about q4_K weights")
    block = np.asarray(tensor.data).reshape(-1)[: formats.get(name).type_size].view(np.uint8)
    return two_paths(block, name)[2]


def _reader(path: Path) -> GGUFReader:
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise ImportError("reading a model needs the package gguf: pip install 'diffuzz-kernels[gguf]'") from error
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file")
    try:
        return GGUFReader(path)
    except Exception as error:  # a damaged file can make the reader raise anything
        raise ModelError(f"{path}: not a readable GGUF file, or cut short ({type(error).__name__}: {error})") from error
