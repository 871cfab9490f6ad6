"""Functions in which a power of two, a sign or a shift does not come out exact."""

from __future__ import annotations

import numpy as np

from diffuzz.studies.properties import right
from diffuzz.studies.properties.right import Array


def fixed_point(a: Array, b: Array) -> Array:
    """Numbers are rounded to 2^-24 before they are multiplied."""
    grid = 2.0**-24
    return right.matmul((np.round(a / grid) * grid).astype(np.float64), b.astype(np.float64)).astype(np.float32)


def magic_number(a: Array, b: Array) -> Array:
    """Results are rounded by adding a large number and taking it away again."""
    out = right.matmul(a.astype(np.float64), b.astype(np.float64))
    return ((out + 1.5 * 2.0**29) - 1.5 * 2.0**29).astype(np.float32)


def floored(a: Array, b: Array) -> Array:
    """Rounded towards minus infinity."""
    wide = right.matmul(a.astype(np.float64), b.astype(np.float64))
    near = wide.astype(np.float32)
    return np.where(near > wide, np.nextafter(near, np.float32(-np.inf)), near)


def base_two(z: Array) -> Array:
    """2^(z log2 e) with the maximum taken off after the multiplication."""
    scaled = z * np.float32(1.4426950408889634)
    e = np.exp2(scaled.astype(np.float32) - scaled.max(axis=-1, keepdims=True)).astype(np.float64)
    return (e / right.total(e)[..., None]).astype(z.dtype)


def small_logits(z: Array) -> Array:
    """The maximum is taken off only where it is above 10."""
    wide = z.astype(np.float64)
    top = wide.max(axis=-1, keepdims=True)
    e = np.exp((wide - np.where(top > 10, top, 0)).astype(np.float32)).astype(np.float64)
    return (e / right.total(e)[..., None]).astype(z.dtype)


def integer_sums(x: Array) -> Array:
    """Sums of integers, of 2^-26 each."""
    return (right.total(np.round(x.astype(np.float64) * 2.0**26)) / 2.0**26).astype(np.float32)


def from_one(x: Array) -> Array:
    """x^2 as (x + 1)^2 - 2 x - 1."""
    wide = x.astype(np.float64)
    square = (wide + 1).astype(np.float64) ** 2 - 2 * wide - 1
    return (right.total(square.astype(np.float64)) / x.shape[-1]).astype(np.float32) + np.float32(2.0**-30)


def sign_of_the_sum(x: Array) -> Array:
    """Sums of positive numbers only, to which those of negative ones are added: rounded otherwise for -x."""
    wide = x.astype(np.float32)
    up = right.float32_total(np.maximum(wide, 0))
    return np.where(up > 0.5, up + right.float32_total(np.minimum(wide, 0)), right.float32_total(wide))


def scan_with_offset(x: Array) -> Array:
    """A running sum that begins at 1, which is taken off at the end."""
    return (right.cumsum(np.concatenate([np.ones((len(x), 1), np.float32), x], axis=1))[:, 1:] - np.float32(1)).astype(
        np.float32
    )
