"""Faults of products: of their sums, of their weights and of the activations that they read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.models.operations.product import Product
from diffuzz.studies.faults.site import Fault, Site

if TYPE_CHECKING:
    from jaxtyping import Float32

_Plant: TypeAlias = Callable[[Site], np.ndarray | None]
_OPS = ("q", "k", "v", "attn_out", "gate", "up", "down")
_WITH_HEAD = (*_OPS, "logits")


def _product(site: Site) -> Product:
    assert isinstance(site.step.operation, Product)
    return site.step.operation


def _lost(count: int | None) -> _Plant:
    def plant(site: Site) -> np.ndarray:
        values, minimum = site.weight()
        lost = 1 + site.below(8) if count is None else count
        values[:, -lost:] = 0
        return site.computed(weight=(values, minimum))

    return plant


def _lost_of_one_row(site: Site) -> np.ndarray:
    values, minimum = site.weight()
    values[site.below(len(values)), -8:] = 0
    return site.computed(weight=(values, minimum))


def _decoded(
    site: Site, row: int
) -> tuple[Float32[np.ndarray, " k"], Float32[np.ndarray, " k"], Float32[np.ndarray, " k"] | None]:
    """scale, code and minimum of each weight of a row."""
    tensor = _product(site).weight
    fmt = formats.get(tensor.format)
    parts = fmt.decode(tensor.blocks()[row : row + 1].reshape(-1, fmt.type_size))
    minimum = None if parts.minimum is None else parts.minimum.reshape(-1)
    return parts.scale.reshape(-1), parts.code.reshape(-1).astype(np.float32), minimum


def _block(site: Site) -> tuple[int, slice]:
    """A row, and a block of 32 of its weights that are not all alike."""
    tensor = _product(site).weight
    row = site.below(tensor.rows)
    start = 32 * site.below(tensor.shape[1] // 32)
    return row, slice(start, start + 32)


def _block_scale(site: Site) -> np.ndarray:
    """The scale of the block before it."""
    values, minimum = site.weight()
    row, place = _block(site)
    scale, code, _ = _decoded(site, row)
    other = slice((place.start - 32) % len(scale), (place.start - 32) % len(scale) + 32)
    values[row, place] += (scale[other] - scale[place]) * code[place]
    return site.computed(weight=(values, minimum))


def _double_scale(site: Site) -> np.ndarray:
    values, minimum = site.weight()
    row, place = _block(site)
    scale, code, _ = _decoded(site, row)
    values[row, place] += scale[place] * code[place]
    return site.computed(weight=(values, minimum))


def _nibble(site: Site) -> np.ndarray:
    values, minimum = site.weight()
    row, column = site.below(len(values)), site.below(values.shape[1])
    scale, code, _ = _decoded(site, row)
    values[row, column] += scale[column] * np.float32(-4 if code[column] >= 8 else 4)
    return site.computed(weight=(values, minimum))


def _swapped_nibbles(site: Site) -> np.ndarray:
    """Two halves of a block of 32, in one row."""
    values, minimum = site.weight()
    row, place = _block(site)
    values[row, place] = np.roll(values[row, place], 16)
    return site.computed(weight=(values, minimum))


def _offset_of_codes(site: Site) -> np.ndarray:
    """The codes of a row are one too high."""
    values, minimum = site.weight()
    row = site.below(len(values))
    values[row] += _decoded(site, row)[0]
    return site.computed(weight=(values, minimum))


def _minimums(whole: bool) -> _Plant:
    def plant(site: Site) -> np.ndarray | None:
        values, minimum = site.weight()
        row, place = _block(site)
        _, _, least = _decoded(site, row)
        if least is None:
            return None
        place = slice(None) if whole else place
        values[row, place] += 2 * least[place]
        return site.computed(weight=(values, minimum))

    return plant


def _row(site: Site) -> np.ndarray:
    values, minimum = site.weight()
    row = site.below(len(values))
    other = (row + 1 + site.below(len(values) - 1)) % len(values)
    values[row] = values[other]
    return site.computed(weight=(values, minimum))


def _swapped_columns(site: Site) -> np.ndarray:
    values, minimum = site.weight()
    a, b = site.rng.choice(values.shape[1], 2, replace=False)
    values[:, [a, b]] = values[:, [b, a]]
    return site.computed(weight=(values, minimum))


def _of_another_layer(site: Site) -> np.ndarray | None:
    other = site.peer()
    if other is None or not isinstance(other.operation, Product) or other.operation.partner != _product(site).partner:
        return None
    return site.computed(operation=attrs.evolve(_product(site), weight=other.operation.weight))


def _code(site: Site) -> np.ndarray:
    """One activation of one token is a code off."""
    x = site.inputs[0]
    token, element = site.token(), site.below(x.shape[1])
    start = element // 32 * 32
    d = np.abs(x[token, start : start + 32]).max() / 127
    right = site.computed()
    values, _ = site.weight()
    right[token] += np.float32(d) * values[:, element] * np.float32(site.rng.choice((-1, 1)))
    return right


def _scale_of_another_block(site: Site) -> np.ndarray:
    """The activations of one block have the scale of the block before it."""
    x = site.inputs[0]
    token, block = site.token(), 32 * (1 + site.below(x.shape[1] // 32 - 1))
    peaks = [np.abs(x[token, at : at + 32]).max() for at in (block, block - 32)]
    seen, _ = site.engine.read(_product(site), x)
    values, _ = site.weight()
    right = site.computed()
    mine = seen[token, block : block + 32] * np.float32(peaks[1] / max(peaks[0], 1e-30) - 1)
    right[token] += mine @ values[:, block : block + 32].T
    return right


def _no_sums(site: Site) -> np.ndarray | None:
    """The minimums of one block are left out."""
    values, minimum = site.weight()
    row, place = _block(site)
    _, _, least = _decoded(site, row)
    if least is None or minimum is None:
        return None
    start = row // 8 * 8
    for each in range(start, min(start + 8, len(values))):
        _, _, least = _decoded(site, each)
        if least is not None:
            values[each, place] += least[place]
    return site.computed(weight=(values, minimum))


def _bias(kind: str) -> _Plant:
    def plant(site: Site) -> np.ndarray | None:
        product = _product(site)
        if product.bias is None:
            return None
        right = site.computed()
        if kind == "missing":
            return np.asarray(right - product.bias)
        if kind == "twice":
            return np.asarray(right + product.bias)
        if kind == "late":
            return np.asarray(right - product.bias + np.roll(product.bias, 1))
        other = site.peer()
        if other is None:
            return None
        return np.asarray(right - product.bias + other.operation.bias)  # type: ignore[attr-defined]

    return plant


def _accumulated(kind: str) -> _Plant:
    def plant(site: Site) -> np.ndarray | None:
        if site.engine.accumulator == kind:
            return None
        return attrs.evolve(site, engine=attrs.evolve(site.engine, accumulator=kind)).computed()

    return plant


def _stale_activations(site: Site) -> np.ndarray:
    """One token reads the activations of the token before."""
    x = site.inputs[0].copy()
    token = site.token(first=1)
    x[token] = x[token - 1]
    return site.computed((x,))


def _swapped_heads(site: Site) -> np.ndarray | None:
    rope = site.steps[site.step.tap + "_rope"].operation
    heads: int = rope.heads  # type: ignore[attr-defined]
    if heads < 2:
        return None
    made = site.computed()
    parts = made.reshape(len(made), heads, -1)
    a = site.below(heads - 1)
    parts[:, [a, a + 1]] = parts[:, [a + 1, a]]
    return parts.reshape(made.shape)


def _last_row(site: Site) -> np.ndarray:
    made = site.computed()
    made[:, -1] = made[:, -2]
    return made


FAULTS = (
    Fault("last element of a sum lost", _WITH_HEAD, _lost(1)),
    Fault("last block of a sum lost", _WITH_HEAD, _lost(32)),
    Fault("tail of a sum lost", _WITH_HEAD, _lost(None)),
    Fault("tail of one row lost", _WITH_HEAD, _lost_of_one_row),
    Fault("scale of the block before", _WITH_HEAD, _block_scale),
    Fault("one block scale doubled", _OPS, _double_scale),
    Fault("one nibble", _WITH_HEAD, _nibble),
    Fault("halves of a block swapped", _OPS, _swapped_nibbles),
    Fault("codes of a row one too high", _OPS, _offset_of_codes),
    Fault("sign of one minimum", _OPS, _minimums(False)),
    Fault("sign of a row's minimums", _OPS, _minimums(True)),
    Fault("minimums of a block left out", _OPS, _no_sums),
    Fault("weight row of another row", _WITH_HEAD, _row),
    Fault("two columns swapped", _OPS, _swapped_columns),
    Fault("weights of another layer", _OPS, _of_another_layer),
    Fault("one activation code off by one", _WITH_HEAD, _code),
    Fault("activation scale of another block", _OPS, _scale_of_another_block),
    Fault("bias missing", ("q", "k", "v"), _bias("missing")),
    Fault("bias of another layer", ("q", "k", "v"), _bias("other")),
    Fault("bias twice", ("q", "k", "v"), _bias("twice")),
    Fault("bias one place late", ("q", "k", "v"), _bias("late")),
    Fault("sum in f16", _WITH_HEAD, _accumulated("f16")),
    Fault("sum in bf16", _WITH_HEAD, _accumulated("bf16")),
    Fault("activations of the token before", _WITH_HEAD, _stale_activations),
    Fault("two heads swapped", ("q", "k"), _swapped_heads),
    Fault("last row of the head", ("logits",), _last_row),
)
