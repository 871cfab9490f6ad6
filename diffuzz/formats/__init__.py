"""Block formats of ggml, one file each, found by name: ``formats.get("q4_K")`` is in ``q4_k.py``.

fmt = formats.get("q4_K")
fmt.dequantize(blocks)          # uint8[b, 144] -> float32[b, 256], bit-exact with ggml
fmt.unpack(blocks)["scales"]    # the 6-bit sub-block scales, int32[b, 8]
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
from functools import cache

from diffuzz.formats.bits import half_to_float
from diffuzz.formats.format import Fields, Format, Parts

__all__ = ["Fields", "Format", "Parts", "get", "half_to_float", "names"]


@cache
def names() -> tuple[str, ...]:
    """Names of all formats: the legacy ones first, then the K formats, then those whose codes stand for levels."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    found = [name.replace("_k", "_K") for name in modules if re.fullmatch(r"q\d_[\dk]|iq\d_nl|mxfp\d", name)]
    return tuple(sorted(found, key=lambda name: (name[0] != "q", name.endswith("K"), name)))


def get(name: str) -> Format:
    """The format called ``name``. Raises ValueError, one line, for an unknown one."""
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"there is no format {name!r}{hint} (formats: {', '.join(names())})")
    found: Format = importlib.import_module(f"{__name__}.{name.lower()}").FORMAT
    return found
