"""Rows of a model's tensor, as a user names them: ``M.gguf:blk.3.ffn_down.weight[0:256]``.

    rows = read("M.gguf:blk.3.ffn_down.weight[12]")
    rows.format, rows.columns, rows.blocks        # "q4_K", 8960, uint8[1, row_bytes]

In brackets is one row, counted from 0, or ``FIRST:LAST`` or ``FIRST:LAST:STEP``, LAST not included, of which each may
be left out; without brackets it is all rows.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.models import model
from diffuzz.models.model import ModelError

if TYPE_CHECKING:
    from jaxtyping import UInt8

# The path may have a colon of its own.
_NAMED = re.compile(r"(?P<path>.+):(?P<tensor>[^:\[\]]+)(?:\[(?P<rows>[0-9: ]*)\])?", re.DOTALL)


@attrs.frozen(eq=False)
class Rows:
    """Rows of a tensor: ``given`` is what the user wrote, ``numbers`` says which rows of the tensor they are."""

    given: str
    tensor: str
    format: str
    columns: int
    numbers: range
    blocks: UInt8[np.ndarray, "rows row_bytes"] = attrs.field(repr=False)


def read(given: str) -> Rows:
    """The rows that ``given`` names.

    Raises ModelError, one line, for text that names none, a file that is no model, a tensor that the model does not
    have, rows that the tensor does not have, and a tensor whose weights are in no block format of diffuzz; OSError for
    a file that cannot be opened.
    """
    named = _NAMED.fullmatch(given)
    if named is None:
        raise ModelError(
            f"weights {given!r}: MODEL:TENSOR[ROWS] is needed, such as M.gguf:blk.3.ffn_down.weight[0:256]"
        )
    path, name = Path(named["path"]), named["tensor"]
    try:
        found = model.open(path)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    if name not in found.tensors:
        raise ModelError(f"{path}: it has no tensor {name}; `scan --json` lists those that it has")
    tensor = found.tensors[name]
    if not formats.REGISTRY.is_built_in(tensor.format) or formats.get(tensor.format).activation is None:
        raise ModelError(f"{path}: {name} is {tensor.format}: weights of a block format are needed")
    if tensor.columns % formats.get(tensor.format).block_size:
        raise ModelError(f"{path}: {name} has rows of {tensor.columns}, which are no whole blocks of {tensor.format}")
    numbers = _numbers(named["rows"], tensor.rows, f"{path}: {name}[{named['rows']}]")
    return Rows(
        given,
        name,
        tensor.format,
        tensor.columns,
        numbers,
        tensor.blocks()[numbers.start : numbers.stop : numbers.step],
    )


def _numbers(text: str | None, count: int, what: str) -> range:
    """The rows of ``count`` that the text in brackets names; all without one."""
    if text is None:
        return range(count)
    parts = [part.strip() for part in text.split(":")]
    if len(parts) > 3 or not all(part.isdecimal() or (not part and len(parts) > 1) for part in parts):
        raise ModelError(f"{what}: one row, FIRST:LAST or FIRST:LAST:STEP is needed, counted from 0")
    ends = [int(part) if part else None for part in parts]
    if len(ends) == 1:
        first, last, step = ends[0] or 0, (ends[0] or 0) + 1, 1
    else:
        first, last = ends[0] or 0, count if ends[1] is None else ends[1]
        step = 1 if len(ends) < 3 or ends[2] is None else ends[2]
    if step < 1 or not first < last <= count:
        raise ModelError(f"{what}: the tensor has rows 0 to {count - 1}, and at least one of them is needed")
    return range(first, last, step)
