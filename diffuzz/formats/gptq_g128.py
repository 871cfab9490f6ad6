"""gptq_g128: groups of 128 4-bit weights with a zero point that is stored minus 1, AutoGPTQ's first format.

The layout is that of :mod:`diffuzz.formats.int4_groups`.
"""

from diffuzz.formats.int4_groups import made

FORMAT = made("gptq_g128", 128, one=1)
