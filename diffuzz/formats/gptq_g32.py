"""gptq_g32: groups of 32 4-bit weights with a zero point that is stored minus 1, AutoGPTQ's first format.

The layout is that of :mod:`diffuzz.formats.int4_groups`.
"""

from diffuzz.formats.int4_groups import made

FORMAT = made("gptq_g32", 32, one=1)
