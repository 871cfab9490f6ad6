"""A convolution along one axis, as deep learning has it: the kernel is not reversed."""

from __future__ import annotations

from diffuzz.formats.arrays import AnyArray
from diffuzz.targets.operation import lazily, operation, tensor
from diffuzz.targets.parameter import Parameter

lax = lazily("jax.lax")


@operation(
    x=tensor("b c l", max_abs=1e4),
    w=tensor("o c k", max_abs=4),
    sizes={"c": (1, 257), "o": (1, 257), "k": (1, 16), "l": (16, 1025)},
    usual={"b": 3, "k": 5, "l": 33},
    parameters=(
        Parameter("stride", 1, "distance of the places at which the kernel is applied", low=1, high=64),
        Parameter("padding", 0, "number of zeros at each end", low=0, high=64),
    ),
    result="y[b, o, (l + 2 padding - k) / stride + 1]",
)
def conv1d(x: AnyArray, w: AnyArray, *, stride: int = 1, padding: int = 0) -> AnyArray:
    """Convolution: y[b, o, i] = sum_(c, j) w[o, c, j] x[b, c, i stride + j - padding], with zeros beyond the ends."""
    return lax.conv_general_dilated(x, w, (stride,), ((padding, padding),))


TARGET = conv1d
