"""Hypothesis strategies for the inputs of inference kernels; usable in any test, with or without the rest of diffuzz.

    from hypothesis import given
    from strategies import activations, blocks

    @given(x=activations(4096, max_abs=100), weights=blocks("q4_K", rows=1, k=4096))
    def test_my_kernel(x, weights):
        ...     # x: float32[4096], weights: uint8[1, 2304]

Each strategy draws a small descriptor (a family, a scale, a seed, a few edits) and expands it to an array. So it works
at any length (Hypothesis's choices are limited to 8 KiB, which element-wise arrays exceed near 1 000 elements), and it
shrinks to something a person can read: a constant with one element changed rather than thousands of arbitrary numbers.
``described_activations`` and so on give the descriptors themselves, whose repr is what to print.
"""

from strategies.activations import Activations, activations, described_activations
from strategies.block_scales import half_scales, sub_scales
from strategies.cases import cases
from strategies.logits import logits
from strategies.perturbations import directions
from strategies.positions import positions
from strategies.weights import Blocks, blocks, described_blocks

__all__ = [
    "Activations",
    "Blocks",
    "activations",
    "blocks",
    "cases",
    "described_activations",
    "described_blocks",
    "directions",
    "half_scales",
    "logits",
    "positions",
    "sub_scales",
]
