"""The claims that need a real model. They use the first super-block of the ffn_down weights of some layers, read from a
GGUF file (see diffuzz.formats.gguf_file).

They were published with the ramp as the only input: FFN-GGUF-014 for layer 3, FFN-GGUF-016 and 017 for 5 and 28 layers,
where the scalar result of one layer scales the ramp of the next. A relative difference does not depend on such a scale,
up to rounding, so each layer is measured on its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffuzz import formats
from diffuzz.formats import gguf_file
from diffuzz.formats.gguf_file import GGUFError, GGUFFile
from diffuzz.studies.claims.reproductions import Figures, two_paths
from diffuzz.targets.published import PUBLISHED_DRIFT


class ModelError(ValueError):
    """A GGUF file that cannot be read, or does not have the tensor of a claim; the message is one line."""


def amplification(path: Path, layer: int) -> Figures:
    """FFN-GGUF-014: the relative difference of the two paths on the first super-block of ``layer``, divided by 0.00077.

    Raises ModelError.
    """
    drift = _drifts(path, [layer])[0]
    return {"rel_diff": drift, "amplification": drift / PUBLISHED_DRIFT}


def layers(path: Path, count: int) -> Figures:
    """FFN-GGUF-016, 017: the relative differences of the first ``count`` layers, or of all layers if there are fewer.

    Raises ModelError.
    """
    drifts = _drifts(path, list(range(count)))
    return {
        "layers": len(drifts),
        "rel_diff_min": min(drifts),
        "rel_diff_max": max(drifts),
        "rel_diff_mean": float(np.mean(drifts)),
    }


def _drifts(path: Path, wanted: list[int]) -> list[float]:
    file = _opened(path)
    names = [name for layer in wanted if (name := f"blk.{layer}.ffn_down.weight") in file.tensors]
    if not names:
        raise ModelError(f"{path}: has no tensor blk.{wanted[0]}.ffn_down.weight; give a llama-like model")
    return [_drift(path, file, name) for name in names]


def _drift(path: Path, file: GGUFFile, name: str) -> float:
    tensor = file.tensors[name]
    if tensor.kind != "q4_K":
        raise ModelError(f"{path}: {name} is {tensor.kind}; the claim is about q4_K weights")
    size = formats.get(tensor.kind).type_size
    if tensor.nbytes < size:
        raise ModelError(f"{path}: {name} is empty")
    return two_paths(file.data(tensor)[:size], tensor.kind)[2]


def _opened(path: Path) -> GGUFFile:
    try:
        return gguf_file.read(path)
    except FileNotFoundError:
        raise ModelError(f"{path}: there is no such file") from None
    except GGUFError as error:
        raise ModelError(f"{path}: not a readable GGUF file: {error}") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be opened: {error.strerror or error}") from error
