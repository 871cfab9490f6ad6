"""Block formats, one file each: ``formats.get("q4_K")`` is in ``q4_k.py``. Most are ggml's; f16 and bf16 are formats
of one number in a block, and fp8_*, nvfp4_two_level, nf4, gptq_* and awq_* are those of other engines.

fmt = formats.get("q4_K")
fmt.dequantize(blocks)          # uint8[b, 144] -> float32[b, 256], bit-exact with ggml
fmt.unpack(blocks)["scales"]    # the 6-bit sub-block scales, int32[b, 8]

A module of this folder that defines ``FORMAT`` is one; those of other packages and of files are found by
:mod:`diffuzz.registry`. ``of_ggml(name)`` says whether ggml has it; for a format from elsewhere it does not.
"""

from __future__ import annotations

import numpy as np

from diffuzz.formats.bits import half_to_float
from diffuzz.formats.format import Fields, Format, Parts
from diffuzz.registry import Registry

__all__ = [
    "REGISTRY", "Fields", "Format", "Parts", "built_in", "get", "half_to_float", "load", "names", "of_ggml",
]  # fmt: skip


def _check(found: object) -> Format:
    if not isinstance(found, Format):
        raise TypeError(f"a diffuzz.formats.Format is needed, it is a {type(found).__name__}")
    if not isinstance(found.block_size, int) or found.block_size < 1:
        raise TypeError(f"a block_size of at least 1 is needed, it is {found.block_size!r}")
    if not isinstance(found.layout, np.dtype) or not found.layout.names:
        raise TypeError(f"a layout with fields is needed, it is {found.layout!r}")
    if not set(found.scale_fields) <= {*found.layout.names, *_fields(found)}:
        raise TypeError(f"a layout with the fields {', '.join(found.scale_fields)} is needed, it is {found.layout!r}")
    return found


def _fields(format: Format) -> Fields:
    """The fields of a block of zeros; none where unpack fails, which ``_inspect`` shows."""
    try:
        return format.unpack(np.zeros((1, format.type_size), np.uint8))
    except Exception:  # a format of somebody else may fail in any way
        return {}


# Blocks of random bytes that show whether a layout, decode, unpack and pack belong together.
_PROBES = 16


def _inspect(format: Format) -> None:
    raw = format.canonical(np.random.default_rng(0).integers(0, 256, (_PROBES, format.type_size), np.uint8))
    with np.errstate(all="ignore"):
        decoded, fields = format.decode(raw), format.unpack(raw)
        again = format.unpack(format.pack(fields))
    if not isinstance(decoded, Parts):
        raise TypeError(f"decode gives a {type(decoded).__name__}, where diffuzz.formats.Parts are needed")
    shape = np.shape(decoded.code)
    if shape != (_PROBES, format.block_size):
        raise TypeError(f"decode gives codes {shape} of {_PROBES} blocks of {format.block_size} elements")
    for name, numbers in fields.items():
        if name not in again or again[name].tobytes() != numbers.tobytes():
            raise TypeError(f"pack is not the inverse of unpack: the field {name} is not what it was")


def _order(name: str) -> tuple[bool, bool, str]:
    """The legacy formats first, then the K formats, then those whose codes stand for levels."""
    return (name[0] != "q", name.endswith("K"), name)


REGISTRY = Registry(
    "format",
    "diffuzz.formats",
    _check,
    folder=__name__,
    attribute="FORMAT",
    name_of=lambda format: format.name,
    inspect=_inspect,
    order=_order,
)
names, get, load, built_in = REGISTRY.names, REGISTRY.get, REGISTRY.load, REGISTRY.built_in


def of_ggml(name: str) -> bool:
    """Whether it is one of the formats here that ggml has, too."""
    return REGISTRY.is_built_in(name) and get(name).of_ggml
