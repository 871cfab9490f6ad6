"""Decoders with one bug each of the formats that are not among the first fourteen, and products built from them.

    Row = (name, target, parameters, function, what is wrong, source)

Most change the fields that a block stores (``_of_fields``) or the numbers that its values are computed from
(``_of_parts``) and decode the rest correctly. A dequantiser and a product are made of the same decoder in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from diffuzz import formats
from diffuzz.formats import Fields, Parts, bits, grids, int4_groups, nf4, small_floats
from diffuzz.kernels import Implementation, ggml
from diffuzz.studies.mutants import wrong_dots as dots
from diffuzz.studies.mutants.wrong_blocks import Change, Decoder, changed, dequantiser, flushed, right
from diffuzz.targets.contract import Function
from diffuzz.targets.parameter import Params

Row: TypeAlias = tuple[str, str, Params, Function, str, str]

_F = np.float32


def _of_fields(change: Callable[[Fields], Fields]) -> Decoder:
    """A decoder of blocks in which ``change`` has replaced some fields."""

    def decode(format: str, blocks: np.ndarray) -> Parts:
        fmt = formats.get(format)
        fields = fmt.unpack(blocks)
        return right(format, fmt.pack(fields | change(fields)))

    return decode


def _of_parts(**changes: Change) -> Decoder:
    """A decoder whose numbers are changed afterwards."""

    def decode(format: str, blocks: np.ndarray) -> Parts:
        parts = right(format, blocks)
        return changed(parts, **{name: change(getattr(parts, name)) for name, change in changes.items()})

    return decode


def _with_table(table: np.ndarray) -> Decoder:
    """A decoder whose stored codes are places of another table."""
    return lambda format, blocks: changed(
        right(format, blocks), code=table[formats.get(format).unpack(blocks)["codes"]].astype(np.float32)
    )


def _float8(exponent_bits: int, bias: int, *, flush: bool = False, hidden: bool = False) -> np.ndarray:
    """Values of 256 codes of eight bits; subnormal ones as 0 with ``flush``, with a leading 1 with ``hidden``."""
    code = np.arange(128)
    mantissa_bits = 7 - exponent_bits
    exponent, mantissa = code >> mantissa_bits, code & (2**mantissa_bits - 1)
    whole = mantissa + np.where((exponent > 0) | hidden, 2**mantissa_bits, 0)
    power = exponent if hidden else np.maximum(exponent, 1)
    values = np.ldexp(np.where((exponent == 0) & flush, 0, whole), power - bias - mantissa_bits)
    return np.concatenate([values, -values]).astype(np.float32)


def _sub_scales(table: np.ndarray) -> Decoder:
    """nvfp4, in both forms, whose e4m3 scales are those of another table of 256 values."""

    def decode(format: str, blocks: np.ndarray) -> Parts:
        parts, stored = right(format, blocks), formats.get(format).unpack(blocks)["scales"]
        # Those of ggml's are integers, in units of d = 2^-10 that stand for 2^-9.
        unit = 512 if format == "nvfp4" else 1
        return changed(parts, sub_scale=np.repeat(table[stored] * _F(unit), 16, axis=1).astype(parts.sub_scale.dtype))

    return decode


def _zero_of(change: Callable[[Fields], np.ndarray]) -> Decoder:
    """int4 groups with the zero points int32[b] that ``change(fields)`` gives."""

    def decode(format: str, blocks: np.ndarray) -> Parts:
        fields, parts = formats.get(format).unpack(blocks), right(format, blocks)
        return changed(parts, code=(parts.code + (fields["zeros"] - change(fields))[:, None]).astype(np.int32))

    return decode


def _permuted(order: tuple[int, ...]) -> Decoder:
    """Codes of each eight elements taken from these places."""
    return _of_fields(lambda f: {"codes": f["codes"].reshape(len(f["codes"]), -1, 8)[:, :, list(order)].reshape(
        f["codes"].shape)})  # fmt: skip


def _halves_for_neighbours(group: int) -> Decoder:
    """Codes of each 2 ``group`` elements: byte i holds elements 2 i and 2 i + 1, not i and i + group."""

    def change(f: Fields) -> Fields:
        codes = f["codes"].reshape(len(f["codes"]), -1, 2, group)
        return {"codes": np.swapaxes(codes, 2, 3).reshape(f["codes"].shape)}

    return _of_fields(change)


def _neighbours_swapped(f: Fields) -> Fields:
    codes = f["codes"]
    return {"codes": codes.reshape(len(codes), -1, 2)[:, :, ::-1].reshape(codes.shape)}


def _neighbours_for_halves(f: Fields) -> Fields:
    codes = f["codes"]
    return {"codes": np.swapaxes(codes.reshape(len(codes), -1, 2), 1, 2).reshape(codes.shape)}


def _digits_by_division(format: str, blocks: np.ndarray) -> Parts:
    """tq1_0 whose bytes are numbers in base 3, not fractions of 256."""
    raw, found = blocks.astype(np.int32), []
    for start, count, digits in ((0, 32, 5), (32, 16, 5), (48, 4, 4)):
        value = raw[:, start : start + count][:, None, :]
        found.append((value // 3 ** np.arange(digits - 1, -1, -1)[None, :, None] % 3).reshape(len(raw), -1))
    return changed(right(format, blocks), code=np.asarray(np.concatenate(found, axis=1) - 1))


def _grid_low(limit: int) -> Decoder:
    return _of_fields(lambda f: {"grid": f["grid"] & (limit - 1)})


def _scale_bits(change: Change) -> Decoder:
    return _of_fields(lambda f: {"scales": change(f["scales"])})


def _signs_without_parity(format: str, blocks: np.ndarray) -> Parts:
    """The eighth sign of every eight is always plus."""
    parts = right(format, blocks)
    eighth = np.arange(256) % 8 == 7
    return changed(parts, code=np.asarray(np.where(eighth, np.abs(parts.code), parts.code)))


def _iq1_m_scale_reversed(format: str, blocks: np.ndarray) -> Parts:
    words = grids.words(blocks[:, 48:56], np) >> 12
    low, high = words[:, 3] | (words[:, 2] << 4), words[:, 1] | (words[:, 0] << 4)
    return changed(right(format, blocks), d=bits.half_to_float(low, high) * _F(0.125))


def _tensor_scale_divided(format: str, blocks: np.ndarray) -> Parts:
    parts = right(format, blocks)
    return changed(parts, d=np.where(parts.d != 0, 1 / np.where(parts.d != 0, parts.d, 1), 0).astype(np.float32))


def _reversed_bytes(format: str, blocks: np.ndarray) -> Parts:
    return right(format, np.ascontiguousarray(blocks[:, ::-1]))


# What these lose is less than what rounding of x, and underflow, are allowed in a product.
_TOO_SMALL = ("bf16-flush", "table-f16")
_FP4 = np.array([0, 0.0052, 0.6667, 1, 0.3333, 0.5, 0.1667, 0.25, 0, -0.0052, -0.6667, -1, -0.3333, -0.5, -0.1667,
                 -0.25], np.float32)  # fmt: skip
_AWQ_BACK = tuple(int4_groups.AWQ_ORDER.index(i) for i in range(8))
_E4M3 = small_floats.float8(small_floats.E4M3)

# Wrong decoders: (name, formats, decoder, what is wrong, source).
_DECODERS: tuple[tuple[str, str, Decoder, str, str], ...] = (
    ("bf16-as-f16", "bf16", lambda f, b: changed(right(f, b), d=bits.half_at(b, 0, np)), "bits read as f16", ""),
    ("f16-as-bf16", "f16", lambda f, b: changed(right(f, b), d=bits.bfloat_at(b, 0, np)), "bits read as bf16", ""),
    ("f16-flush", "f16", _of_parts(d=flushed), "subnormal numbers as 0", ""),
    ("bf16-flush", "bf16", _of_parts(d=lambda d: np.where(np.abs(d) < 2.0**-126, _F(0), d)), "subnormals as 0", ""),
    ("bytes-swapped", "f16 bf16", _reversed_bytes, "high byte first", ""),
    ("f16-sign", "f16", _of_parts(d=np.abs), "sign lost", ""),
    ("e4m3-hidden-bit", "fp8_e4m3", _with_table(_float8(4, 7, hidden=True)), "subnormals as normal",
     "1bit-MONSTER#300"),
    ("e4m3-hidden-bit", "nvfp4 nvfp4_two_level", _sub_scales(_float8(4, 7, hidden=True)),
     "subnormal e4m3 scales as normal", "b12x#388"),
    ("e4m3-flush", "fp8_e4m3", _with_table(_float8(4, 7, flush=True)), "subnormals as 0", ""),
    ("e4m3-flush", "nvfp4 nvfp4_two_level", _sub_scales(_float8(4, 7, flush=True)), "subnormal scales as 0", ""),
    ("e4m3-fnuz", "fp8_e4m3", _with_table(_float8(4, 8)), "bias 8, as in e4m3fnuz", ""),
    ("e4m3-as-e5m2", "fp8_e4m3", _with_table(_float8(5, 15)), "codes read as e5m2", ""),
    ("e5m2-as-e4m3", "fp8_e5m2", _with_table(_float8(4, 7)), "codes read as e4m3", ""),
    ("e5m2-flush", "fp8_e5m2", _with_table(_float8(5, 15, flush=True)), "subnormals as 0", ""),
    ("float8-top-lost", "fp8_e4m3", _with_table(np.where(np.abs(_E4M3) >= 256, np.copysign(_F(240), _E4M3), _E4M3)),
     "256 and more as 240", ""),
    ("scale-inverted", "fp8_e4m3 fp8_e5m2 nvfp4_two_level", _tensor_scale_divided, "divided by the scale", ""),
    ("scale-ignored", "nvfp4_two_level", _of_parts(d=np.ones_like), "scale of the tensor not read", ""),
    ("scale-doubled", "nvfp4", _of_parts(d=lambda d: 2 * d), "levels not halved", ""),
    ("nibble-interleave", "nvfp4", _halves_for_neighbours(8), "byte i holds elements 2i, 2i+1", ""),
    ("nibble-halves", "nvfp4_two_level nf4", _of_fields(_neighbours_for_halves), "halves for neighbours", ""),
    ("nibble-swap", "nf4 nvfp4_two_level gptq_g128", _of_fields(_neighbours_swapped), "nibbles of a byte exchanged",
     ""),
    ("scale-next", "nvfp4", _scale_bits(lambda s: np.roll(s, 1, axis=1)), "scale of the sub-block before", ""),
    ("fp4-table", "nf4", _with_table(_FP4), "the table of fp4", "bitsandbytes#1160"),
    ("table-f16", "nf4", _with_table(nf4.LEVELS.astype(np.float16)), "levels rounded to f16", ""),
    ("zero-as-level", "nf4", _with_table(np.where(np.arange(16) == nf4.ZERO, _F(0.0398), nf4.LEVELS)), "no level 0",
     ""),
    ("zero-plus-one", "gptq_v2_g128 awq_g32", _zero_of(lambda f: f["zeros"] + 1), "zero point plus 1", ""),
    ("zero-minus-one", "gptq_g64 gptq_g128", _zero_of(lambda f: f["zeros"] - 1), "1 not added to the zero point", ""),
    ("zero-unmasked", "gptq_v2_g32 awq_g128", _zero_of(lambda f: f["zeros"] | f["others"] << 4),
     "zero point with that of its neighbour", ""),
    ("zero-of-neighbour", "gptq_g32 awq_g64", _zero_of(lambda f: f["others"]), "zero point of the next output", ""),
    ("zero-ignored", "gptq_g128", _zero_of(lambda f: np.full_like(f["zeros"], 7)), "8 for every zero point", ""),
    ("awq-order", "awq_g128 awq_g32", _permuted(int4_groups.AWQ_ORDER), "AWQ's order not undone", ""),
    ("awq-order-back", "awq_g64", _permuted(tuple(_AWQ_BACK[_AWQ_BACK[i]] for i in range(8))), "undone twice", ""),
    ("int4-signed", "gptq_v2_g64", _of_fields(lambda f: {"codes": f["codes"] ^ 8}), "codes as two's complement", ""),
    ("scale6-high-bits", "iq4_xs", _scale_bits(lambda s: (s + 32 & 15) - 32), "upper bits of the scales lost", ""),
    ("scale6-pairs", "iq4_xs", _scale_bits(lambda s: (s + 32 & 15 | np.roll(s + 32 >> 4, 1, axis=1) << 4) - 32),
     "upper bits of the scale before", ""),
    ("levels-evenly", "iq4_xs", lambda f, b: changed(right(f, b), code=formats.get(f).unpack(b)["codes"] - 8),
     "codes minus 8", ""),
    ("half-lost", "iq2_xxs iq2_xs iq3_xxs", _of_parts(sub_scale=lambda s: s - 1), "scale without 1/2", ""),
    ("scale-low-bits", "iq2_s iq3_s", _scale_bits(lambda s: s & 7), "upper bit of the scales lost", ""),
    ("scales-swapped", "iq2_xs iq2_s iq3_s",
     _scale_bits(lambda s: s.reshape(len(s), -1, 2)[:, :, ::-1].reshape(s.shape)), "nibbles of the scales exchanged",
     ""),
    ("parity-lost", "iq2_xxs iq2_xs iq3_xxs", _signs_without_parity, "eighth sign always plus", ""),
    ("grid-bits", "iq2_xs", _grid_low(256), "ninth bit of the number of a point lost", ""),
    ("grid-bits", "iq2_s iq3_s", _grid_low(256), "qh not read", ""),
    ("grid-bits", "iq1_s iq1_m", _grid_low(1024), "highest bit of the number of a point lost", ""),
    ("shift-lost", "iq1_s iq1_m", _of_fields(lambda f: {"shifts": 0 * f["shifts"]}), "always +1/8", ""),
    ("shift-missing", "iq1_s", lambda f,
     b: changed(right(f, b), code=np.rint(right(f, b).code / 8).astype(np.int32) * 8), "no shift of 1/8", ""),
    ("shift-next", "iq1_m", _of_fields(lambda f: {"shifts": np.roll(f["shifts"], 1, axis=1)}),
     "shift of the eight before", ""),
    ("d-reversed", "iq1_m", _iq1_m_scale_reversed, "nibbles of d in the other order", ""),
    ("f16-flush", "iq1_m iq2_xxs tq1_0", _of_parts(d=flushed), "subnormal d / 8 as 0", ""),
    ("digits-divided", "tq1_0", _digits_by_division, "bytes as numbers in base 3", ""),
    ("digits-backwards", "tq1_0",
     _of_fields(lambda f: {"codes": np.concatenate( [f["codes"][:, :160].reshape(-1, 5, 32)[:, ::-1].reshape(-1,
      160), f["codes"][:, 160:]], axis=1)}), "lowest digit first", ""),
    ("offset-by-one", "tq1_0 tq2_0", _of_parts(code=lambda code: code + 1), "codes 0, 1, 2", ""),
    ("pairs-in-order", "tq2_0",
     _of_fields(lambda f: {"codes": np.swapaxes( f["codes"].reshape(-1, 2, 4, 32), 2, 3).reshape(-1, 256)}),
     "four neighbours in one byte", ""),
)  # fmt: skip


def _decoders() -> list[Row]:
    made: list[Row] = []
    for name, seeded, decode, wrong, source in _DECODERS:
        for index, format in enumerate(seeded.split()):
            given = {"format": format}
            made.append((f"{name}/{format}", "dequantize", given, dequantiser(format, decode), wrong, source))
            if index == 0 and name not in _TOO_SMALL:
                product = dots.float_matvec(format, decode=decode)
                made.append((f"{name}/{format}/dot", "matvec", given, product, wrong, source))
    return made


def _first_of_pair(rows: np.ndarray) -> np.ndarray:
    """Every second block with the header, three bytes, of the block before it."""
    again = rows.copy()
    last = rows.shape[1] // 2 * 2
    again[:, 1:last:2, :3] = rows[:, 0:last:2, :3]
    return again


def _first_zero(rows: np.ndarray) -> np.ndarray:
    """Every block with the zero point of the first of its row."""
    again = rows.copy()
    again[:, :, 2] = rows[:, :1, 2]
    return again


def _first_scale(size: int) -> Change:
    """Every block with the scale of the first of its row, which has ``size`` bytes."""

    def order(rows: np.ndarray) -> np.ndarray:
        again = rows.copy()
        again[:, :, :size] = rows[:, :1, :size]
        return again

    return order


# Wrong products: (name, format, function, what is wrong, source).
_PRODUCTS: tuple[tuple[str, str, Function, str, str], ...] = (
    ("group-of-128", "gptq_g64", dots.float_matvec("gptq_g64", order=_first_of_pair), "groups of 128 assumed",
     "llm-awq#21, lmdeploy#322"),
    ("group-of-128", "awq_g32", dots.float_matvec("awq_g32", order=_first_of_pair), "groups of 64 assumed",
     "lmdeploy#322"),
    ("zero-of-first-group", "gptq_v2_g128", dots.float_matvec("gptq_v2_g128", order=_first_zero),
     "zero point of the first group", "oneDNN#5377"),
    ("scale-of-first-block", "nf4", dots.float_matvec("nf4", order=_first_scale(4)), "absmax of the first block", ""),
    ("scale-of-first-block", "fp8_e4m3", dots.float_matvec("fp8_e4m3", order=_first_scale(4)), "scale of the tensor",
     ""),
    ("tail-of-16", "nvfp4_two_level", dots.float_matvec("nvfp4_two_level", used=lambda k: slice(k - k % 32)),
     "k mod 32 = 16: last block lost", "mlx#3912"),
    ("tail-of-8", "f16", dots.float_matvec("f16", used=lambda k: slice(k - k % 8)), "last k mod 8 elements lost", ""),
    ("tail-of-16", "bf16", dots.float_matvec("bf16", used=lambda k: slice(k - k % 16)), "last k mod 16 elements lost",
     ""),
    ("half-sums", "f16", dots.float_matvec("f16", add=dots.half_sums), "f16 accumulator", "onnxruntime#29611"),
    ("half-sums", "gptq_g128", dots.float_matvec("gptq_g128", add=dots.half_sums), "f16 accumulator", ""),
    ("next-row", "awq_g128", dots.float_matvec("awq_g128", order=dots.next_row), "last row read one row early", ""),
    ("block-short", "iq4_xs", dots.float_matvec("iq4_xs", order=dots.block_short), "rows begin a block early", ""),
    ("transposed", "nf4", dots.float_matvec("nf4", order=dots.transposed), "W read as [n, m]", "bitsandbytes#1862"),
    ("int16-wrap", "iq4_xs", dots.matvec("iq4_xs", sums=dots.wrapped(16), group=32), "sums of 32 in int16", ""),
    ("odd-block-tail", "iq3_s", dots.matvec("iq3_s", blocks_used=lambda count: slice(count // 2 * 2)),
     "last odd block lost", ""),
    ("activation-trunc", "iq2_xxs", dots.matvec("iq2_xxs", quantise=dots.activation(np.trunc, dots.stored_scale)),
     "activation code trunc(x/d)", ""),
    ("activation-trunc", "tq2_0", dots.matvec("tq2_0", quantise=dots.activation(np.trunc, dots.stored_scale)),
     "activation code trunc(x/d)", ""),
)  # fmt: skip

WRONG: list[Row] = [
    *_decoders(),
    *(
        (f"{name}/{format}", "matvec", {"format": format}, f, what, source)
        for name, format, f, what, source in _PRODUCTS
    ),
]


def _paths(kernels: Implementation, format: str) -> dots.Matvec:
    return lambda weights, x: kernels.vec_dot(format, weights, x[None])[:, 0]


def _scaled_table(format: str) -> Change:
    """The 256 values of a float8 times the scale: a table for each block."""
    table = small_floats.float8(small_floats.E4M3 if format == "fp8_e4m3" else small_floats.E5M2)

    def f(blocks: np.ndarray) -> np.ndarray:
        d = np.ascontiguousarray(blocks[:, :4]).view("<f4")
        with np.errstate(all="ignore"):
            return np.take_along_axis(d * table, blocks[:, 4:].astype(np.int64), axis=1)

    return f


def _codes_then_scale(blocks: np.ndarray) -> np.ndarray:
    """nvfp4_two_level with the product of scale and code first, which is exact."""
    parts = right("nvfp4_two_level", blocks)
    with np.errstate(all="ignore"):
        return np.asarray(parts.d[:, None] * (parts.sub_scale * parts.code))


def _zero_apart(format: str) -> dots.Matvec:
    """d (sum q x - z sum x), as kernels of int4 have it that add up x once."""
    fmt = formats.get(format)

    def f(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
        raw = np.ascontiguousarray(weights).reshape(-1, fmt.type_size)
        fields, parts = fmt.unpack(raw), fmt.decode(raw)
        zero = (fields["codes"] - parts.code)[:, 0].reshape(len(weights), -1).astype(_F)
        groups = x.reshape(-1, fmt.block_size)
        codes = fields["codes"].astype(_F).reshape(len(weights), *groups.shape)
        sums = np.add.accumulate(codes * groups, axis=2)[:, :, -1] - zero * groups.sum(axis=1, dtype=_F)
        d = fields["d"].astype(_F).reshape(len(weights), -1)
        return np.add.accumulate(d * sums, axis=1)[:, -1]

    return f


_NEW = ("f16", "bf16", "iq4_xs", "tq1_0", "tq2_0", "nvfp4", "nvfp4_two_level", "fp8_e4m3", "fp8_e5m2", "nf4",
"gptq_g128",
        "gptq_v2_g64", "awq_g32", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq1_s", "iq1_m")  # fmt: skip


def _controls() -> list[tuple[str, str, Params, Function, str]]:
    made: list[tuple[str, str, Params, Function, str]] = []
    for index, name in enumerate(_NEW):
        given = {"format": name}
        made.append((f"ggml/{name}", "matvec", given, _paths(ggml, name), "ggml's order, or one lane"))
        made.append((f"dequantize/{name}", "dequantize", given, dequantiser(name, right), "float32 products"))
        add, what = ((dots.pairwise, "pairwise sum"), (dots.backwards, "backwards"), (dots.forwards, "left fold"))[
            index % 3
        ]
        made.append((f"float-x/{name}", "matvec", given, dots.float_matvec(name, add=add), f"x not quantised, {what}"))
    for name in ("gptq_g128", "awq_g32"):
        made.append((f"zero-apart/{name}", "matvec", {"format": name}, _zero_apart(name), "zero point times sum of x"))
    for name in ("fp8_e4m3", "fp8_e5m2"):
        made.append((f"dequantize-table/{name}", "dequantize", {"format": name}, _scaled_table(name), "a table"))
    either = {"format": "nvfp4_two_level"}
    made.append(("codes-first/nvfp4_two_level", "dequantize", either, _codes_then_scale, "d (s q)"))
    for name in ("iq4_xs", "tq2_0", "iq2_xs", "iq3_s", "iq1_m"):
        made.append((f"wide/{name}", "matvec", {"format": name}, dots.matvec(name), "float64 between blocks"))
    return made


RIGHT = _controls()
