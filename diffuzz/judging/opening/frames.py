"""Frames: what diffuzz and a program say to each other. docs/protocol.md is about this for people who write one.

DFZ1            4 bytes
header length   uint32, little-endian
body length     uint64, little-endian
header          JSON, ASCII without spaces and line breaks where diffuzz writes it
body            bytes
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

import attrs

MAGIC = b"DFZ1"
LONGEST_HEADER = 2**20
_PREFIX = struct.Struct("<4sIQ")
# Of what is no frame, in bytes, as a message quotes it.
_QUOTED = 80


class FrameError(ValueError):
    """Bytes that are no frame; one line that begins with ``wrote``."""


@attrs.frozen
class Frame:
    """A header, which is a JSON object, and a body."""

    header: Mapping[str, object]
    body: bytes = b""


def written(header: Mapping[str, object], body: bytes = b"") -> bytes:
    """A frame as bytes."""
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    return _PREFIX.pack(MAGIC, len(text), len(body)) + text + body


def quoted(got: bytes | bytearray) -> str:
    """The beginning of what was written, to the end of its first line: how much has come is left to chance."""
    return repr(bytes(got.lstrip().partition(b"\n")[0][:_QUOTED]))


def read(got: bytes | bytearray, longest_body: int) -> tuple[Frame, int] | None:
    """The first frame of what was written, and how many bytes it has; None where more have to come.

    Raises FrameError as soon as it cannot become one.
    """
    if got[: len(MAGIC)] != MAGIC[: len(got)]:
        raise FrameError(f"wrote to standard output what is no frame: {quoted(got)}")
    if len(got) < _PREFIX.size:
        return None
    _, of_header, of_body = _PREFIX.unpack_from(got)
    if of_header > LONGEST_HEADER:
        raise FrameError(f"wrote a frame with a header of {of_header} bytes, where {LONGEST_HEADER} are the most")
    if of_body > longest_body:
        raise FrameError(f"wrote a frame with a body of {of_body} bytes, where {longest_body} are needed")
    start = _PREFIX.size + of_header
    if len(got) < start + of_body:
        return None
    try:
        header = json.loads(bytes(got[_PREFIX.size : start]))
    except ValueError as error:
        raise FrameError(f"wrote a frame whose header is no JSON: {quoted(got[_PREFIX.size : start])}") from error
    except RecursionError as error:
        raise FrameError("wrote a frame whose header is too deep") from error
    if not isinstance(header, dict):
        raise FrameError(f"wrote a frame whose header is no object: {quoted(got[_PREFIX.size : start])}")
    return Frame(header, bytes(got[start : start + of_body])), start + of_body
