"""fp8_e4m3: 128 numbers in 132 bytes; a code has 4 bits of exponent and 3 of mantissa, up to 448 (float8_e4m3fn).

The layout is that of :mod:`diffuzz.formats.fp8`.
"""

from __future__ import annotations

from diffuzz.formats.fp8 import made
from diffuzz.formats.small_floats import E4M3

FORMAT = made("fp8_e4m3", E4M3)
