"""Codes that an engine may choose: whatever it chooses, its product is inside the bound."""

from __future__ import annotations

import numpy as np

from diffuzz import formats
from diffuzz.models.model import Tensor
from diffuzz.models.operations.product import Product


def test_sums_of_several_choices_are_rounded_once() -> None:
    """Blocks of q8_1 in which two quotients are ties: of the four pairs of codes, each with the f16 sum of its block,
    all are inside, also where the two sums that the codes have one by one round otherwise than that of both.
    """
    rng = np.random.default_rng(0)
    q4_1, rows, together = formats.get("q4_1"), 24, 0
    blocks = q4_1.quantize(rng.normal(1, 1, (rows, 32)).astype(np.float32))
    product = Product(Tensor("w", "q4_1", (rows, 32), np.asarray(blocks).reshape(-1)))
    decoded = q4_1.decode(np.asarray(blocks).reshape(rows, -1))
    code = (decoded.scale * decoded.code).reshape(rows, 32).astype(np.float64)
    minimum = -decoded.minimum.reshape(rows, 32)[:, 0].astype(np.float64)

    def half(x: float) -> float:
        return float(np.float16(np.float32(x)))

    for _ in range(200):
        # A scale that f16 has, so that nothing but codes and sums is chosen; and a sum that is far from 0.
        d = half(rng.uniform(0.01, 0.02))
        codes = rng.integers(20, 120, 32).astype(np.float64)
        codes[0] = 127
        x = codes * d
        x[5:7] = (codes[5:7] + 0.5) * d
        sums = {}
        for one in (0, 1):
            for other in (0, 1):
                chosen = codes + one * (np.arange(32) == 5) + other * (np.arange(32) == 6)
                sums[one, other] = half(d * chosen.sum())
                got = code @ (chosen * d) + minimum * sums[one, other]
                made = product.estimates(x[None], None, ("q8",), got[None])[0]
                assert (np.abs(got - made.value[0]) <= made.allowed[0]).all()
        together += sums[1, 1] - sums[0, 0] != sums[0, 1] - sums[0, 0] + sums[1, 0] - sums[0, 0]
    # The case that is meant does occur.
    assert together > 20
