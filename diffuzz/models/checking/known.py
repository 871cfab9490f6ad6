"""The taps of a dump in one form: float64, two axes (three for scores), in the order of the model file, with how far
each number may be from the one that was computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.models.dump import Dump
from diffuzz.models.operations.rope import Rope
from diffuzz.models.operations.rounding import half_step
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Step

if TYPE_CHECKING:
    from jaxtyping import Float64, Int

# Taps that a fused engine writes side by side, in this order.
_FUSED = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}
# Taps whose heads a layout of rope permutes: before the rotation and after.
_TURNED = ("q", "k", "q_norm", "k_norm", "q_rope", "k_rope", "k_past")
_BY_HEADS = ("scores", "probs")


@attrs.frozen(eq=False)
class Known:
    """A tap of a run: its numbers, how far off each may be (None: as computed), and the tokens it is there for (None:
    all).
    """

    value: Float64[np.ndarray, " ..."]
    error: Float64[np.ndarray, " ..."] | None
    rows: Int[np.ndarray, " r"] | None = None


def sequence_of(dump: Dump) -> Sequence:
    """Tokens, positions and the length of the cache."""
    past = next((len(array) for name, array in dump.taps.items() if name.endswith(".k_past")), 0)
    return Sequence(dump.tokens, dump.positions, past)


def names(dump: Dump) -> frozenset[str]:
    """The taps that a dump has, those of fused ones one by one."""
    found: set[str] = set()
    for name in dump.taps:
        prefix, _, last = name.rpartition(".")
        found.update(f"{prefix}.{each}" for each in _FUSED[last]) if last in _FUSED else found.add(name)
    return frozenset(found)


def get(dump: Dump, tap: str, steps: Mapping[str, Step]) -> Known:
    """The tap of this name, which the dump has, alone or in a fused one."""
    prefix, _, last = tap.rpartition(".")
    array = dump.taps.get(tap)
    name = tap
    if array is None:
        fused = next(each for each, parts in _FUSED.items() if last in parts and f"{prefix}.{each}" in dump.taps)
        name = f"{prefix}.{fused}"
        array, parts = dump.taps[name], _FUSED[fused]
        widths = [width(steps[f"{prefix}.{each}"]) for each in parts]
        start = sum(widths[: parts.index(last)])
        array = array[:, start : start + widths[parts.index(last)]]
    if last not in _BY_HEADS:
        array = array.reshape(len(array), -1)
    error = half_step(array)
    value = array.astype(np.float64)
    order = _order(dump, prefix, last, steps)
    if order is not None:
        value = value[:, order]
        error = None if error is None else error[:, order]
    rows = dump.rows.get(name)
    every = rows is None or np.array_equal(rows, np.arange(len(dump.tokens)))
    return Known(value, error, None if every else rows)


def width(step: Step) -> int:
    """How many numbers a product's tap has of one token."""
    return int(step.operation.weight.rows)  # type: ignore[attr-defined]


def _order(dump: Dump, prefix: str, last: str, steps: Mapping[str, Step]) -> Int[np.ndarray, " columns"] | None:
    """Where the columns of the file's layout are in a tap, if the engine has another layout of rope."""
    if last not in _TURNED or "rope_layout" not in dump.metadata:
        return None
    rope = steps[f"{prefix}.{'q' if last.startswith('q') else 'k'}_rope"].operation
    if not isinstance(rope, Rope) or dump.metadata["rope_layout"] == rope.layout:
        return None
    return rope.permutation()
