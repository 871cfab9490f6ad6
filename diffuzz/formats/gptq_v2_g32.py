"""gptq_v2_g32: groups of 32 4-bit weights with a zero point that is stored as it is (checkpoint_format gptq_v2).

The layout is that of :mod:`diffuzz.formats.int4_groups`.
"""

from diffuzz.formats.int4_groups import made

FORMAT = made("gptq_v2_g32", 32)
