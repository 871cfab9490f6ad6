"""Writes .apr files of version 2, for tests: good ones, and after that whatever a test does to the bytes."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

F32, F16, F64, I32, Q4_K, Q6_K, BF16 = 0, 1, 3, 4, 12, 14, 30
ROW_MAJOR = 0x400


@attrs.frozen
class Entry:
    """A tensor: its dtype by number, its shape in C order and its bytes."""

    name: str
    dtype: int
    shape: tuple[int, ...]
    data: bytes


def padded(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % 64)


def sealed(raw: bytes) -> bytes:
    """The file with the checksums that it should have, whatever is between them."""
    head = raw[:40] + struct.pack("<I", zlib.crc32(raw[:40] + raw[44:64])) + raw[44:-4]
    return head + struct.pack("<I", zlib.crc32(head))


def apr(
    metadata: Mapping[str, Any] | bytes,
    tensors: Sequence[Entry],
    *,
    flags: int = ROW_MAJOR,
    version: tuple[int, int] = (2, 0),
    offsets: Mapping[str, int] | None = None,
) -> bytes:
    """The bytes of a file. ``offsets`` puts tensors elsewhere than one after another."""
    text = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    index, data = b"", b""
    for tensor in sorted(tensors, key=lambda one: one.name.encode()):
        name, at = tensor.name.encode(), (offsets or {}).get(tensor.name, len(data))
        index += struct.pack("<H", len(name)) + name + struct.pack("<BB", tensor.dtype, len(tensor.shape))
        index += struct.pack(f"<{len(tensor.shape)}QQQ", *tensor.shape, at, len(tensor.data))
        data += padded(tensor.data)
    places = 64 + len(padded(text)), 64 + len(padded(text)) + len(padded(index))
    header = struct.pack(
        "<4sBBHIQIQQI20s", b"APR\0", *version, flags, len(tensors), 64, len(text), *places, 0, bytes(20)
    )
    return sealed(header + padded(text) + padded(index) + data + bytes(4))
