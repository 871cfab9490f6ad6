"""A GGUF file for tests, of a few tensors."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from diffuzz.formats.tensor_types import BY_NAME

_ALIGNMENT = 32


def write(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], np.ndarray]]) -> Path:
    """A llama model of these tensors, by name: format, shape in C order, and what has the bytes."""
    header, data = [], b""
    for name, (format, shape, array) in tensors.items():
        sizes = shape[::-1]
        header.append(
            _text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, BY_NAME[format].number, len(data))
        )
        data += _padded(array.tobytes())
    entry = _text("general.architecture") + struct.pack("<I", 8) + _text("llama")
    whole = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 1) + entry + b"".join(header)
    path.write_bytes(_padded(whole) + data)
    return path


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _padded(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % _ALIGNMENT)
