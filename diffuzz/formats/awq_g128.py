"""awq_g128: groups of 128 4-bit weights with a zero point, eight in a word in AWQ's order 0 2 4 6 1 3 5 7.

The layout is that of :mod:`diffuzz.formats.int4_groups`.
"""

from diffuzz.formats.int4_groups import AWQ_ORDER, made

FORMAT = made("awq_g128", 128, order=AWQ_ORDER)
