"""Cases as files of named arrays, ``.npz`` and ``.safetensors``, which may come from anywhere."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from diffuzz.cases.case import Case
from diffuzz.corpus.files import CorpusError, check_regular, reason

# Bytes of all arrays of a .npz or .safetensors file. An archive may be a thousand times smaller than what is in it.
LARGEST_ARRAYS = 2**30
_SAFETENSORS_TYPES = ("F32", "I32", "U8")


def load_arrays(path: Path) -> Case:
    """The case in a ``.npz`` or ``.safetensors`` file of named arrays, at most LARGEST_ARRAYS bytes of them.

    Raises CorpusError, or ImportError without safetensors.
    """
    if path.suffix not in (".npz", ".safetensors"):
        raise CorpusError(f"{path}: a case is a .json corpus entry, a .npz or a .safetensors file")
    try:
        check_regular(path)
        return Case(_npz(path) if path.suffix == ".npz" else _safetensors(path))
    except (ImportError, CorpusError):
        raise
    except FileNotFoundError as error:
        raise CorpusError(f"{path}: {error.strerror}") from error
    except Exception as error:  # a damaged archive raises whatever its reader stumbles over
        raise CorpusError(
            f"{path}: not a readable {path.suffix} file of float32, int32 or uint8 arrays: {reason(error)}"
        ) from error


def _npz(path: Path) -> dict[str, np.ndarray]:
    # np.load leaves a file that it opened itself open when the archive is damaged.
    with path.open("rb") as file:
        # Before anything is unpacked; no member unpacks to more than is declared here.
        with zipfile.ZipFile(file) as members:
            _check_size(path, sum(member.file_size for member in members.infolist()))
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        from safetensors import safe_open
        from safetensors.numpy import load_file
    except ModuleNotFoundError as error:
        raise ImportError("reading .safetensors needs the package safetensors: pip install safetensors") from error
    _check_size(path, path.stat().st_size)
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118, no mapping
            # NumPy has no name for some, such as F8_E4M3.
            if (kind := file.get_slice(name).get_dtype()) not in _SAFETENSORS_TYPES:
                raise CorpusError(
                    f"{path}: tensor {name} is {kind}; a case has float32, int32 or uint8 arrays: convert it to "
                    f"{' or '.join(_SAFETENSORS_TYPES)}"
                )
    loaded: dict[str, np.ndarray] = load_file(path)
    return loaded


def _check_size(path: Path, size: int) -> None:
    if size > LARGEST_ARRAYS:
        raise CorpusError(
            f"{path}: {size} bytes of arrays, where {LARGEST_ARRAYS} may be loaded; choose smaller shapes"
        )
