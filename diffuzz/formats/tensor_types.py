"""The types of tensors that ggml has, by the number that a GGUF file and the library know them by: those of the block
formats of this folder, one that is missing here (q1_0), and plain numbers.

Source: enum ggml_type in ggml.h, and ggml.c for the sizes. Numbers that are missing are of types that are gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import attrs


@attrs.frozen
class Kind:
    """A type of tensors: its number in a file, its name, and the elements and bytes of one block."""

    number: int
    name: str
    elements: int
    nbytes: int


_KINDS = (
    Kind(0, "f32", 1, 4), Kind(1, "f16", 1, 2), Kind(2, "q4_0", 32, 18), Kind(3, "q4_1", 32, 20),
    Kind(6, "q5_0", 32, 22), Kind(7, "q5_1", 32, 24), Kind(8, "q8_0", 32, 34), Kind(9, "q8_1", 32, 36),
    Kind(10, "q2_K", 256, 84), Kind(11, "q3_K", 256, 110), Kind(12, "q4_K", 256, 144), Kind(13, "q5_K", 256, 176),
    Kind(14, "q6_K", 256, 210), Kind(15, "q8_K", 256, 292), Kind(16, "iq2_xxs", 256, 66), Kind(17, "iq2_xs", 256, 74),
    Kind(18, "iq3_xxs", 256, 98), Kind(19, "iq1_s", 256, 50), Kind(20, "iq4_nl", 32, 18), Kind(21, "iq3_s", 256, 110),
    Kind(22, "iq2_s", 256, 82), Kind(23, "iq4_xs", 256, 136), Kind(24, "i8", 1, 1), Kind(25, "i16", 1, 2),
    Kind(26, "i32", 1, 4), Kind(27, "i64", 1, 8), Kind(28, "f64", 1, 8), Kind(29, "iq1_m", 256, 56),
    Kind(30, "bf16", 1, 2), Kind(34, "tq1_0", 256, 54), Kind(35, "tq2_0", 256, 66), Kind(39, "mxfp4", 32, 17),
    Kind(40, "nvfp4", 64, 36), Kind(41, "q1_0", 128, 18),
)  # fmt: skip
KINDS: Mapping[int, Kind] = MappingProxyType({kind.number: kind for kind in _KINDS})
BY_NAME: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in _KINDS})
