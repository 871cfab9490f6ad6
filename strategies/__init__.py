"""Hypothesis strategies for the inputs of inference kernels, for use in any test.

    from hypothesis import given
    from strategies import activations, blocks

    @given(x=activations(4096, max_abs=100), weights=blocks("q4_K", rows=1, k=4096))
    def test_my_kernel(x, weights):
        ...     # x: float32[4096], weights: uint8[1, 2304]

Each strategy draws a small descriptor (a family, a scale, a seed, a few edits) and expands it to an array. So it works
at any length, where element-wise arrays exceed Hypothesis's limit of 8 KiB of choices near 1 000 elements. And it
shrinks to something a person can read: a constant with one changed element, not thousands of arbitrary numbers.
``described_activations`` and the like give the descriptors themselves, so that a failing example is printed as one:

    @given(described_activations(4096, max_abs=100))
    def test_my_norm(drawn):
        my_norm(drawn.expand())     # Activations(n=4096, family='constant', seed=0, scale=100, edits=((0, 0.0),), ...)
"""

from .activations import Activations, activations, described_activations
from .block_scales import half_scales, sub_scales
from .cases import cases
from .logits import Logits, described_logits, logits
from .perturbations import Direction, described_directions, directions
from .positions import positions
from .weights import Blocks, blocks, described_blocks

__all__ = [
    "Activations",
    "Blocks",
    "Direction",
    "Logits",
    "activations",
    "blocks",
    "cases",
    "described_activations",
    "described_blocks",
    "described_directions",
    "described_logits",
    "directions",
    "half_scales",
    "logits",
    "positions",
    "sub_scales",
]
