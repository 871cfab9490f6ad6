"""fp8_e5m2: 128 numbers in 132 bytes; a code has 5 bits of exponent and 2 of mantissa, up to 57344.

The layout is that of :mod:`diffuzz.formats.fp8`.
"""

from __future__ import annotations

from diffuzz.formats.fp8 import made
from diffuzz.formats.small_floats import E5M2

FORMAT = made("fp8_e5m2", E5M2)
