"""Mutants: functions that a user could hand in as ``--candidate``, each wrong in one way that has shipped or could.

    Mutant("silu-overflow", "swiglu", {}, function, "0 times infinity for x < -88", source="ds4#498")

A source names the project and issue where the bug was found; a mutant without a source is of the same family.
``params`` are those that a user of the function would give: a format, an arithmetic, a mode. Controls (``correct``) are
functions that differ from the references without being wrong: another order of a sum, the other rule for ties, float64
inside.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.kernels import Implementation, apr, ggml, gguf
from diffuzz.studies.mutants import (
    libraries,
    styles,
    wrong_activations,
    wrong_angles,
    wrong_attention,
    wrong_formats,
    wrong_formats_quantise,
    wrong_limits,
    wrong_norms,
    wrong_ordering,
    wrong_places,
    wrong_products,
    wrong_reductions,
    wrong_sizes,
    wrong_softmaxes,
    wrong_tokens,
)
from diffuzz.studies.mutants import wrong_dots as dots
from diffuzz.studies.mutants import wrong_rows as rows
from diffuzz.studies.mutants.wrong_blocks import WRONG, dequantiser, flushed
from diffuzz.targets.contract import Function
from diffuzz.targets.matvec import WEIGHT_FORMATS
from diffuzz.targets.parameter import Params


@attrs.frozen
class Mutant:
    """A function to test, its target and parameters, what is wrong with it, and where such a bug was found."""

    name: str
    target: str
    params: Params
    function: Function
    wrong: str
    source: str = ""
    correct: bool = False


# (name, target, params, function, what is wrong, source) of mutants.
_Table: TypeAlias = tuple[tuple[str, str, Params, Function, str, str], ...]
# Controls in the same order, without a source.
_Controls: TypeAlias = list[tuple[str, str, Params, Function, str]]

# Where the functions are that are wrong, or right, for the operations that have a file each.
_OPERATIONS = (
    wrong_norms,
    wrong_activations,
    wrong_softmaxes,
    wrong_attention,
    wrong_products,
    wrong_ordering,
    wrong_reductions,
    wrong_tokens,
    wrong_angles,
)

# Wrong decoders: (name in WRONG, formats to use it in, what is wrong, source).
_DECODERS = (
    ("scale12-contiguous", "q4_K q5_K", "12 scale bytes as consecutive fields", "trueno#182"),
    ("scale12-high-bits", "q4_K q5_K", "upper bits of scales 4-7 lost", ""),
    ("scale12-nibbles", "q4_K q5_K", "scale and minimum nibbles 4-7 exchanged", ""),
    ("scale12-min-bits", "q4_K", "upper bits of minimums 4-7 from the scales", ""),
    (
        "nibble-interleave",
        "q4_0 q4_1 q4_K q5_1 mxfp4",
        "byte i holds elements 2i, 2i+1",
        "kekzl/imp#722, aprender#2127",
    ),
    ("nibble-swap", "q4_0 q5_0 q4_K q6_K iq4_nl mxfp4", "high nibbles first", ""),
    ("q5k-layout", "q5_K", "neighbours in one byte, 5th bit from qh[4s + l/8]", "aprender PMAT-1101"),
    ("q6k-combine", "q6_K", "ql + 4 qh - 32", "aprender#199"),
    ("pairs-in-order", "q2_K q3_K", "four neighbours in one byte", ""),
    ("fifth-bit-lost", "q5_0 q5_1 q5_K", "qh not read", ""),
    ("fifth-bit-first-half", "q5_0 q5_1", "bits 0-15 of qh for both halves", ""),
    ("hmask-inverted", "q3_K", "third bit inverted", ""),
    ("scale6-high-bits", "q3_K", "upper bits of the scales lost", ""),
    ("scale6-no-offset", "q3_K", "scales without -32", ""),
    ("scale6-pairs", "q3_K", "upper bits of the next four scales", ""),
    ("scale8-unsigned", "q6_K", "int8 scales as uint8", ""),
    ("code-unsigned", "q8_0", "int8 codes as uint8", ""),
    ("code-saturated", "q8_0", "code -128 as -127", ""),
    ("offset-by-one", "q4_0 q6_K", "offset of the codes one less", ""),
    ("header-without-minimum", "q4_1 q5_1 q2_K q4_K q5_K", "minimum not read", "MLX#3664"),
    ("minimum-sign", "q4_1 q2_K q5_K", "minimum with the other sign", ""),
    ("d-and-dmin", "q2_K q4_K q5_1", "the two f16 of the header exchanged", ""),
    ("scale-and-minimum", "q2_K", "nibbles of scale and minimum exchanged", ""),
    ("last-scale", "q2_K q3_K q6_K", "last sub-block with the scale before", ""),
    ("f16-flush", "q4_0 q8_0 q3_K q4_K q6_K", "subnormal d as 0", "aprender#2073, surogate#162"),
    ("f16-flush-minimum", "q4_1 q5_K", "subnormal minimum as 0", ""),
    ("f16-subnormal-normal", "q5_0 q4_K", "subnormal d with a hidden bit", ""),
    ("f16-sign", "q5_0 q6_K", "sign of d lost", ""),
    ("f16-as-bf16", "q5_1 q5_K", "d cut to bf16", ""),
    ("level-next", "iq4_nl mxfp4", "table index one too large", ""),
    ("level-sign", "mxfp4 iq4_nl", "upper bit of the code lost", ""),
    ("levels-evenly", "iq4_nl", "codes minus 8, as in q4_0", ""),
    ("exponent-by-one", "mxfp4", "scale 2^(byte - 127)", ""),
    ("exponent-as-f16", "mxfp4", "scale byte and the next one as f16", ""),
)


def _decoders() -> list[Mutant]:
    """Each wrong decoder as a dequantiser and inside a dot product, of both arithmetics in turn."""
    made = []
    for name, seeded, wrong, source in _DECODERS:
        for index, format in enumerate(seeded.split()):
            decode = WRONG[name]
            made.append(
                Mutant(f"{name}/{format}", "dequantize", {"format": format}, dequantiser(format, decode), wrong, source)
            )
            quantised = index % 2 == 0
            product = dots.matvec(format, decode=decode) if quantised else dots.float_matvec(format, decode=decode)
            params = {"format": format} if quantised else {"format": format, "arithmetic": "apr"}
            suffix = "dot" if quantised else "apr"
            made.append(Mutant(f"{name}/{format}/{suffix}", "matvec", params, product, wrong, source))
    # A dot product with an activation never has scales as small as these.
    flushed_exponent = dequantiser("mxfp4", WRONG["exponent-flush"])
    made.append(
        Mutant("exponent-flush/mxfp4", "dequantize", {"format": "mxfp4"}, flushed_exponent, "subnormal scales as 0")
    )
    return made


def _first_peak(x: np.ndarray) -> np.ndarray:
    return np.repeat(np.abs(x[:1]).max(axis=1), len(x))


def _four_elements_lost(format: str) -> dots.Matvec:
    return dots.matvec(format, elements_used=formats.get(format).block_size - 4)


def _dots() -> list[Mutant]:
    """Dot products of quantised activations."""
    stored = partial(dots.activation, scale=dots.stored_scale)
    halved = dots.activation(scale=lambda d, partner: dots.half(d))
    rules: tuple[tuple[str, str, str, str, Callable[[str], dots.Matvec]], ...] = (
        ("activation-trunc", "q4_0 q5_1 q4_K q6_K", "code trunc(x/d)", "sglang-jax#1598",
         partial(dots.matvec, quantise=dots.activation(np.trunc, dots.stored_scale))),
        ("activation-floor", "q8_0 q2_K", "code floor(x/d)", "",
         partial(dots.matvec, quantise=dots.activation(np.floor, dots.stored_scale))),
        ("activation-f16-scale", "q4_K q6_K", "activation scale rounded to f16", "generic",
         partial(dots.matvec, quantise=halved)),
        ("activation-f16-flush", "q4_0 q4_1", "subnormal f16 activation scale as 0", "",
         partial(dots.matvec, quantise=dots.activation(scale=lambda d, partner: dots.half_flushed(d, partner)))),
        ("activation-wrap", "q4_K q5_0", "d = max/128, code 128 wraps", "",
         partial(dots.matvec, quantise=stored(levels=128, wrap=True))),
        ("activation-peak", "q5_K q8_0", "max x for max |x|", "",
         partial(dots.matvec, quantise=stored(peak=lambda x: np.maximum(x.max(axis=1), 0)))),
        ("activation-peak-tail", "q3_K q5_1", "last element not in max |x|", "",
         partial(dots.matvec, quantise=stored(peak=lambda x: np.abs(x[:, :-1]).max(axis=1)))),
        ("activation-first-scale", "q4_0 q4_K", "scale of the first block for all", "",
         partial(dots.matvec, quantise=stored(peak=_first_peak))),
        ("int16-wrap", "q4_K q5_K", "sub-block sum in int16", "candle#1526",
         partial(dots.matvec, sums=dots.wrapped(16), group=32)),
        ("int16-wrap", "q8_0 q6_K", "sub-block sum in int16", "", partial(dots.matvec, sums=dots.wrapped(16))),
        ("int16-saturate", "q8_0 q6_K", "sub-block sum saturated to int16", "",
         partial(dots.matvec, sums=dots.saturated(16))),
        ("int8-bsums", "q2_K q4_K", "sums of codes in int8", "",
         partial(dots.matvec, minimum_sums=lambda totals, scale: dots.wrapped(8)(totals))),
        ("bsums-index", "q2_K q5_K", "bsums of the sub-block before", "",
         partial(dots.matvec, minimum_sums=lambda totals, scale: np.roll(totals, 1, axis=-1))),
        ("minimum-without-scale", "q4_1 q4_K", "minimum times codes, not times x", "",
         partial(dots.matvec, minimum_sums=lambda totals, scale: totals / np.where(scale > 0, scale, 1)[:, None])),
        ("odd-block-tail", "q4_0 q8_0 q4_K q6_K mxfp4", "last odd block lost", "llama.cpp#29131",
         partial(dots.matvec, blocks_used=lambda count: slice(count - count % 2))),
        ("first-block-twice", "q5_0 q3_K", "second block not added, first twice", "",
         partial(dots.matvec, blocks_used=lambda count: [0, 0, *range(2, count)])),
        ("element-tail", "q4_1 q5_K", "last four elements of a block lost", "", _four_elements_lost),
        ("gemv-transpose", "q4_K q5_0 q8_0", "W read as [k, n]", "aprender#1651",
         partial(dots.matvec, order=dots.transposed)),
        ("row-offset", "q6_K q4_1", "last row is the one before", "", partial(dots.matvec, order=dots.next_row)),
        ("row-stride", "q4_0 q2_K", "rows begin a block early", "", partial(dots.matvec, order=dots.block_short)),
    )  # fmt: skip
    return [
        Mutant(f"{name}/{format}", "matvec", {"format": format}, make(format), wrong, source)
        for name, seeded, wrong, source, make in rules
        for format in seeded.split()
    ]


def _float_dots() -> list[Mutant]:
    """Dot products of float32 activations."""
    rules: tuple[tuple[str, str, str, str, Callable[[str], dots.Matvec]], ...] = (
        ("apr-odd-block", "q4_K", "last odd block lost", "",
         partial(dots.float_matvec, used=lambda k: slice(k - k % 512))),
        ("apr-tail-lost", "q5_0", "only whole vectors of 64", "",
         partial(dots.float_matvec, used=lambda k: slice(k - k % 64))),
        ("apr-transpose", "q4_0 q3_K", "W read as [k, n]", "aprender#1651",
         partial(dots.float_matvec, order=dots.transposed)),
        ("apr-f16-weights", "q4_K q6_K", "dequantised to f16", "", partial(dots.float_matvec, weight=rows.half)),
        ("apr-bf16-weights", "q8_0", "dequantised to bf16", "", partial(dots.float_matvec, weight=rows.bfloat)),
        ("apr-bf16-x", "q5_1", "x cut to bf16", "", partial(dots.float_matvec, value=rows.bfloat)),
        ("apr-f16-x", "q2_K", "x in f16", "", partial(dots.float_matvec, value=rows.half)),
        ("apr-f16-sums", "q5_K", "sum in f16", "", partial(dots.float_matvec, add=dots.half_sums)),
    )  # fmt: skip
    return [
        Mutant(
            f"{name}/{format}", "matvec", {"format": format, "arithmetic": "apr"},
            make(format), wrong, source,
        )
        for name, seeded, wrong, source, make in rules
        for format in seeded.split()
    ]  # fmt: skip


def _softmaxes() -> list[Mutant]:
    """Softmax."""
    table: _Table = (
        ("softmax-no-max", "softmax", {}, rows.soft_max(peak=np.zeros_like), "exp without the maximum", "uTensor#175"),
        ("softmax-max-zero", "softmax", {}, rows.soft_max(peak=lambda z: np.maximum(z.max(axis=1, keepdims=True), 0)),
         "running maximum starts at 0", ""),
        ("softmax-max-tail", "softmax", {},
         rows.soft_max(peak=lambda z: rows.tail_lost(4)(z).max(axis=1, keepdims=True)),
         "maximum of whole vectors only", ""),
        ("softmax-max-of-magnitudes", "softmax", {},
         rows.soft_max(peak=lambda z: np.abs(z).max(axis=1, keepdims=True)), "max |z| for max z", ""),
        ("softmax-sum-tail", "softmax", {}, rows.soft_max(total=lambda e: rows.fold(rows.tail_lost(4)(e))),
         "sum of whole vectors only", ""),
        ("softmax-exp-flush", "softmax", {}, rows.soft_max(exp=rows.exp_clamped(-16)), "exp(x) = 0 for x < -16", ""),
        ("softmax-exp-clamp", "softmax", {}, rows.soft_max(exp=rows.exp_limited(-64)), "exp(max(x, -64))", ""),
        ("softmax-exp-f16", "softmax", {}, rows.soft_max(exp=lambda x: rows.half(np.exp(x))), "exp in f16", ""),
        ("softmax-sum-f16", "softmax", {}, rows.soft_max(whole=rows.half), "sum rounded to f16", ""),
        ("softmax-log2e", "softmax", {}, rows.soft_max(exp=rows.exp_base_two(1.4427)), "log2 e = 1.4427", ""),
        ("softmax-schraudolph", "softmax", {}, rows.soft_max(exp=rows.exp_schraudolph), "exp by bits", ""),
        ("softmax-eps", "softmax", {}, rows.soft_max(whole=lambda s: s + np.float32(1e-5)), "sum + 1e-5", ""),
        ("softmax-not-rescaled", "softmax", {}, rows.online_soft_max(rescaled=False), "online sum not rescaled", ""),
        ("softmax-masked-start", "softmax", {}, rows.online_soft_max(guarded=False),
         "exp(-inf - -inf) at the start", ""),
        ("softmax-masked-centred", "softmax", {}, rows.soft_max(peak=lambda z: z.mean(axis=1, keepdims=True)),
         "mean for max: -inf where one is masked", ""),
    )  # fmt: skip
    return [Mutant(*row) for row in table]


def _norms() -> list[Mutant]:
    """RMSNorm."""
    table: _Table = (
        ("eps-constant", "rmsnorm", {}, rows.rms_norm(eps_of=lambda eps: 1e-6), "eps fixed at 1e-6", "llama.cpp#2373"),
        ("eps-outside", "rmsnorm", {}, rows.rms_norm(inverse=lambda mean, eps: 1 / (np.sqrt(mean) + np.float32(eps))),
         "eps outside of the root", ""),
        ("eps-forgotten", "rmsnorm", {}, rows.rms_norm(eps_of=lambda eps: 0.0), "without eps", ""),
        ("eps-maximum", "rmsnorm", {},
         rows.rms_norm(inverse=lambda mean, eps: 1 / np.sqrt(np.maximum(mean, np.float32(eps)))), "max(mean, eps)", ""),
        ("eps-f16", "rmsnorm", {}, rows.rms_norm(eps_of=lambda eps: float(np.float16(eps))), "eps in f16", ""),
        ("norm-tail", "rmsnorm", {}, rows.rms_norm(total=lambda s: rows.fold(rows.tail_lost(8)(s))),
         "squares of whole vectors only", ""),
        ("norm-count", "rmsnorm", {}, rows.rms_norm(count=lambda n: n - 1), "mean over n - 1", ""),
        ("norm-centred", "rmsnorm", {}, rows.rms_norm(value=lambda x: x - x.mean(axis=1, keepdims=True)),
         "mean subtracted", ""),
        ("norm-f16-square", "rmsnorm", {}, rows.rms_norm(square=lambda x: rows.half(x * x)), "squares in f16", ""),
        ("norm-rough-root", "rmsnorm", {}, rows.rms_norm(inverse=rows.rough_root), "12 bits of rsqrt", ""),
        ("norm-clamped-root", "rmsnorm", {},
         rows.rms_norm(inverse=lambda mean, eps: np.minimum(1 / np.sqrt(mean + np.float32(eps)), 1000)),
         "1 / rms at most 1000", ""),
    )  # fmt: skip
    return [Mutant(*row) for row in table]


def _swiglus() -> list[Mutant]:
    """SwiGLU."""
    table: _Table = (
        ("silu-overflow", "swiglu", {}, rows.swiglu(gate=rows.sigmoid_newton), "0 times infinity for x < -88",
         "ds4#498"),
        ("silu-growing", "swiglu", {}, rows.swiglu(gate=rows.sigmoid_growing), "infinity by infinity for x > 88", ""),
        ("silu-flush", "swiglu", {}, rows.swiglu(gate=rows.sigmoid_clamped), "0 for x < -20", ""),
        ("silu-clamp", "swiglu", {}, rows.swiglu(gate=rows.sigmoid_limited), "exponent clamped to 10", ""),
        ("silu-tanh", "swiglu", {}, rows.swiglu(gate=rows.sigmoid_tanh), "tanh form cancels for x < -10", ""),
        ("silu-gelu", "swiglu", {}, rows.swiglu(gate=rows.gelu_sigmoid), "GELU", ""),
        ("silu-quick", "swiglu", {}, rows.swiglu(gate=lambda x: rows.sigmoid(np.float32(1.702) * x)), "S(1.702 x)", ""),
        ("silu-f16", "swiglu", {}, rows.swiglu(gate=lambda x: rows.half(rows.sigmoid(x))), "sigmoid in f16", ""),
        ("swiglu-exchanged", "swiglu", {}, rows.swiglu(arguments=lambda g, u: (u, g)), "gate and up exchanged", ""),
        ("swiglu-tail", "swiglu", {}, rows.swiglu(whole=8), "up of the tail lost", ""),
        ("swiglu-bf16", "swiglu", {}, rows.swiglu(result=rows.bfloat), "result cut to bf16", ""),
    )  # fmt: skip
    return [Mutant(*row) for row in table]


def _ropes() -> list[Mutant]:
    """RoPE."""
    norm, neox = {"mode": "norm"}, {"mode": "neox"}
    table: _Table = (
        ("neox-for-norm", "rope", norm, rows.rope(mode_of=lambda mode: "neox"), "pairs (i, i + d/2)",
         "aprender PMAT-797"),
        ("norm-for-neox", "rope", neox, rows.rope(mode_of=lambda mode: "norm"), "pairs (2i, 2i + 1)", ""),
        ("rope-off-by-one", "rope", norm, rows.rope(position=lambda p: p + 1), "position + 1", ""),
        ("rope-half-position", "rope", neox, rows.rope(position=lambda p: rows.half(p)), "position in f16", ""),
        ("rope-bf16-position", "rope", norm, rows.rope(position=lambda p: rows.bfloat(p.astype(np.float32))),
         "position in bf16", ""),
        ("rope-clamped", "rope", norm, rows.rope(position=lambda p: np.minimum(p, 2047)), "position at most 2047", ""),
        ("rope-base-constant", "rope", {"base": 500000}, rows.rope(base_of=lambda base: 10000.0), "base 10000", ""),
        ("rope-exponent", "rope", norm, rows.rope(exponent=lambda i, d: i / d), "base^(-i/d)", ""),
        ("rope-exponent-short", "rope", neox, rows.rope(exponent=lambda i, d: 2 * i / (d - 2)), "base^(-2i/(d-2))", ""),
        ("rope-inverse", "rope", neox, rows.rope(sign=-1.0), "turned the other way", ""),
        ("rope-last-pair", "rope", norm, rows.rope(pairs=lambda count: count - 1), "last pair not turned", ""),
        ("rope-one-head", "rope", neox, rows.rope(heads=1), "only the first head turned", ""),
        ("rope-f16-table", "rope", neox, rows.rope(table=rows.half), "cos and sin in f16", ""),
        ("rope-f16-angle", "rope", norm, rows.rope(angle=rows.half), "angle in f16", ""),
    )  # fmt: skip
    return [Mutant(*row) for row in table]


def _quantisers() -> list[Mutant]:
    """Activation quantisers."""
    wrong = rows.quantiser

    def bsums_shifted(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return fields | {"bsums": np.roll(fields["bsums"], 1, axis=1)}

    def sum_without_d(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return fields | {"s": fields["codes"].sum(axis=1).astype(np.float16)}

    table: tuple[tuple[str, str, Function, str, str], ...] = (
        *((f"quantize-trunc/{f}", f, wrong(f, rounding=np.trunc), "code trunc(x/d)", "sglang-jax#1598")
          for f in ("q8_0", "q8_1", "q8_K")),
        ("quantize-floor/q8_0", "q8_0", wrong("q8_0", rounding=np.floor), "code floor(x/d)", ""),
        ("quantize-levels/q8_0", "q8_0", wrong("q8_0", levels=128, wrap=True), "d = max/128, code 128 wraps", ""),
        ("quantize-levels/q8_1", "q8_1", wrong("q8_1", levels=128), "d = max/128", ""),
        *((f"quantize-flush/{f}", f, wrong(f, scale=lambda d: flushed(d.astype(np.float16).astype(np.float32))),
           "subnormal d as 0", "") for f in ("q8_0", "q8_1")),
        ("quantize-f16-scale/q8_K", "q8_K", wrong("q8_K", scale=rows.half), "d rounded to f16", "generic"),
        ("quantize-peak/q8_0", "q8_0", wrong("q8_0", peak=lambda x: np.maximum(x.max(axis=1), 0)), "max x", ""),
        ("quantize-peak-tail/q8_1", "q8_1", wrong("q8_1", peak=lambda x: np.abs(x[:, :-1]).max(axis=1)),
         "last element not in max |x|", ""),
        ("quantize-zero/q8_0", "q8_0", wrong("q8_0", guarded=False), "0 / 0 in a block of zeros", ""),
        ("quantize-zero/q8_K", "q8_K", wrong("q8_K", guarded=False), "0 / 0 in a block of zeros", ""),
        ("quantize-sum-int8/q8_1", "q8_1", wrong("q8_1", code_sums=dots.wrapped(8)), "sum of codes in int8", ""),
        ("quantize-sum-without-d/q8_1", "q8_1", wrong("q8_1", fields=sum_without_d),
         "sum not times d", ""),
        ("quantize-bsums-int8/q8_K", "q8_K", wrong("q8_K", code_sums=dots.wrapped(8)), "bsums in int8", ""),
        ("quantize-bsums-index/q8_K", "q8_K", wrong("q8_K", fields=bsums_shifted), "bsums of the group before", ""),
    )  # fmt: skip
    return [
        Mutant(name, "quantize", {"format": format, "ties": "any"}, f, what, source)
        for name, format, f, what, source in table
    ]


def _policies() -> list[Mutant]:
    """Functions that are wrong under a policy, too: it does not allow everything."""
    eight_one = {"activation": "q8_1"}
    truncated = dots.activation(np.trunc, dots.stored_scale)
    flushed_scale = dots.activation(scale=lambda d, partner: dots.half_flushed(d, partner))

    def unscaled(x: np.ndarray, d: np.ndarray, codes: np.ndarray) -> np.ndarray:
        return np.asarray(codes.sum(axis=1))

    def shifted(x: np.ndarray, d: np.ndarray, codes: np.ndarray) -> np.ndarray:
        return np.roll(dots.half(x.sum(axis=1)), 1)

    table: _Table = (
        ("softmax-clamp-32/clamp-64", "softmax", {"policy": "clamp-64"}, rows.soft_max(exp=rows.exp_limited(-32)),
         "exp(max(x, -32))", ""),
        ("softmax-log-f16", "softmax", {}, rows.log_soft_max(log=lambda s: rows.half(np.log(s))),
         "logarithm of the sum in f16", ""),
        ("softmax-log-no-max", "softmax", {}, rows.log_soft_max(peak=np.zeros_like), "log sum exp, no maximum", ""),
        ("silu-f16/tanh", "swiglu", {"policy": "tanh"}, rows.swiglu(gate=lambda x: rows.half(rows.sigmoid_tanh(x))),
         "sigmoid in f16", ""),
        ("silu-clamp-10/clamp-18", "swiglu", {"policy": "clamp-18"}, rows.swiglu(gate=rows.sigmoid_limited),
         "exponent clamped to 10", ""),
        ("eps-inside/eps-outside", "rmsnorm", {"policy": "eps-outside"}, rows.rms_norm(), "eps inside of the root", ""),
        ("eps-forgotten/eps-outside", "rmsnorm", {"policy": "eps-outside"}, rows.rms_norm(eps_of=lambda eps: 0.0),
         "without eps", ""),
        ("quantize-wrap/saturate", "quantize", {"format": "q8_K", "ties": "any", "policy": "saturate"},
         rows.quantiser("q8_K", levels=128, wrap=True), "code 128 wraps", ""),
        ("activation-wrap/saturate", "matvec", {"format": "q4_K", "policy": "saturate"},
         dots.matvec("q4_K", quantise=dots.saturating(wrap=True)), "code 128 wraps", ""),
        ("activation-trunc/q8_1", "matvec", {"format": "q4_K", **eight_one},
         dots.blocks_of_32("q4_K", quantise=truncated), "code trunc(x/d)", ""),
        ("activation-f16-flush/q8_1", "matvec", {"format": "q6_K", **eight_one},
         dots.blocks_of_32("q6_K", quantise=flushed_scale), "subnormal f16 scale as 0", ""),
        ("int16-wrap/q8_1", "matvec", {"format": "q5_0", **eight_one},
         dots.blocks_of_32("q5_0", sums=dots.wrapped(16)), "sum of a block in int16", ""),
        ("block-sum-unscaled/q8_1", "matvec", {"format": "q4_0", **eight_one},
         dots.blocks_of_32("q4_0", block_sum=unscaled), "offset times the sum of codes, without d", ""),
        ("block-sum-index/q8_1", "matvec", {"format": "q5_K", **eight_one},
         dots.blocks_of_32("q5_K", block_sum=shifted), "sum of the block before", ""),
    )  # fmt: skip
    return [Mutant(*row) for row in table]


def _places() -> list[Mutant]:
    """Functions that are wrong in one place only."""
    made = [
        Mutant(f"{name}/{format}", "dequantize", {"format": format}, wrong_places.decoder(name, format), wrong)
        for name, (seeded, wrong, _) in wrong_places.DECODERS.items()
        for format in seeded.split()
    ]
    return made + [Mutant(*row) for row in wrong_places.TABLE]


def _paths(kernels: Implementation, format: str) -> dots.Matvec:
    return lambda weights, x: kernels.vec_dot(format, weights, x[None])[:, 0]


def _lanes(format: str) -> dots.Matvec:
    return lambda weights, x: apr.vec_dot(format, weights, x[None], order="simd")[:, 0]


def _correct_dots() -> _Controls:
    """Dot products and dequantisers in other orders and precisions."""
    kept = dots.activation()
    away = dots.activation(dots.round_half_away, dots.stored_scale)
    made: _Controls = []
    for format in WEIGHT_FORMATS:
        given = {"format": format}
        made += [
            (f"ggml/{format}", "matvec", given, _paths(ggml, format), "ggml's order"),
            (f"wide/{format}", "matvec", given, dots.matvec(format), "float64 between blocks"),
            (f"dequantize/{format}", "dequantize", given, partial(apr.dequantize, format), "aprender's dequantiser"),
            (f"apr-fold/{format}", "matvec", given | {"arithmetic": "apr"}, _paths(apr, format), "left fold"),
        ]
    for format in ("q4_0", "q8_0", "q4_K", "q5_K"):
        made += [
            (f"away/{format}", "matvec", {"format": format}, dots.matvec(format, quantise=away), "ties away from zero"),
            (f"f32-scale/{format}", "matvec", {"format": format}, dots.matvec(format, quantise=kept), "f32 scale kept"),
            (f"float-x/{format}", "matvec", {"format": format}, _paths(apr, format), "x not quantised"),
        ]
    for format in ("q4_1", "q5_0", "q6_K", "q3_K"):
        given = {"format": format, "arithmetic": "apr"}
        made += [
            (
                f"pairwise/{format}",
                "matvec",
                {"format": format},
                dots.matvec(format, add=dots.pairwise),
                "pairwise sum",
            ),
            (f"backwards/{format}", "matvec", {"format": format}, dots.matvec(format, add=dots.backwards), "backwards"),
            (f"apr-pairwise/{format}", "matvec", given, dots.float_matvec(format, add=dots.pairwise), "pairwise sum"),
            (f"apr-backwards/{format}", "matvec", given, dots.float_matvec(format, add=dots.backwards), "backwards"),
            (f"apr-wide/{format}", "matvec", given, dots.float_matvec(format), "float64 sum"),
            (f"apr-lanes/{format}", "matvec", given, _lanes(format), "eight lanes"),
        ]
    made += [
        (f"gguf/{f}", "matvec", {"format": f}, _paths(gguf, f), "aprender's GGUF path")
        for f in ("q4_0", "q8_0", "q4_K", "q5_K", "q6_K")
    ]
    return made


def _correct_rows() -> _Controls:
    """Softmax, RMSNorm, SwiGLU and RoPE in other orders and precisions."""
    made: _Controls = []
    for name, kernels in (("apr", apr), ("ggml", ggml), ("gguf", gguf)):
        made += [
            (f"softmax/{name}", "softmax", {}, kernels.soft_max, f"{name}'s form"),
            (f"rmsnorm/{name}", "rmsnorm", {}, kernels.rms_norm, f"{name}'s form"),
            (f"swiglu/{name}", "swiglu", {}, kernels.swiglu, f"{name}'s form"),
            (f"rope-norm/{name}", "rope", {"mode": "norm"}, kernels.rope, f"{name}'s form"),
            (f"rope-neox/{name}", "rope", {"mode": "neox"}, kernels.rope, f"{name}'s form"),
        ]
    made += [
        ("softmax/pairwise", "softmax", {}, rows.soft_max(total=rows.pairwise), "pairwise sum"),
        ("softmax/backwards", "softmax", {}, rows.soft_max(total=rows.backwards), "backwards"),
        ("softmax/wide", "softmax", {}, rows.soft_max(dtype=np.float64), "float64 inside"),
        ("softmax/online", "softmax", {}, rows.online_soft_max(), "one pass"),
        ("softmax/base-two", "softmax", {}, rows.soft_max(exp=rows.exp_base_two(1.4426950408889634)), "exp2"),
        ("rmsnorm/pairwise", "rmsnorm", {}, rows.rms_norm(total=rows.pairwise), "pairwise sum"),
        ("rmsnorm/backwards", "rmsnorm", {}, rows.rms_norm(total=rows.backwards), "backwards"),
        ("rmsnorm/wide", "rmsnorm", {}, rows.rms_norm(dtype=np.float64), "float64 inside"),
        ("swiglu/wide", "swiglu", {}, rows.swiglu(dtype=np.float64), "float64 inside"),
        ("swiglu/plain", "swiglu", {}, rows.swiglu(), "x times sigmoid"),
        ("rope/wide", "rope", {"mode": "norm"}, rows.rope(dtype=np.float64), "float64 inside"),
        ("rope/plain", "rope", {"mode": "neox"}, rows.rope(), "float32 angle"),
    ]
    return made


def _correct_styles() -> _Controls:
    """Functions in other styles, and quantisers."""
    made: _Controls = [
        ("softmax/kahan", "softmax", {}, rows.soft_max(total=styles.kahan), "compensated sum"),
        ("softmax/exp2-split", "softmax", {}, rows.soft_max(exp=styles.exp_split), "exp2, log2 e in two parts"),
        ("softmax/base-two-scaled", "softmax", {}, styles.scaled_soft_max, "exp2, logits scaled first"),
        ("softmax/base-two-log", "softmax", {}, styles.scaled_log_soft_max, "exp2 less log2 of the sum"),
        ("softmax/base-two-online", "softmax", {}, styles.flash_soft_max, "exp2 of an fma, running maximum"),
        ("softmax/logsumexp", "softmax", {}, rows.log_soft_max(), "exp(z - logsumexp(z))"),
        ("softmax/log-softmax", "softmax", {}, rows.log_soft_max(joined=False), "exp((z - max) - log(sum))"),
        ("softmax/exp-ends", "softmax", {}, rows.soft_max(exp=rows.exp_clamped(-86.9)), "exp ends at 2^-125.5"),
        ("softmax/clamp-87", "softmax", {}, rows.soft_max(exp=rows.exp_limited(-87)), "exp(max(x, -87))"),
        (
            "softmax/clamp-64",
            "softmax",
            {"policy": "clamp-64"},
            rows.soft_max(exp=rows.exp_limited(-64)),
            "exp(max(x, -64))",
        ),
        ("swiglu/exp-ends", "swiglu", {}, rows.swiglu(gate=styles.sigmoid_flushed), "0 below a sigmoid of 2^-125.5"),
        ("swiglu/clamp-87", "swiglu", {}, rows.swiglu(gate=styles.sigmoid_ending), "sigmoid(max(x, -87))"),
        ("swiglu/tanh", "swiglu", {"policy": "tanh"}, rows.swiglu(gate=rows.sigmoid_tanh), "(1 + tanh(x / 2)) / 2"),
        (
            "swiglu/clamp-18",
            "swiglu",
            {"policy": "clamp-18"},
            rows.swiglu(gate=styles.sigmoid_rational),
            "ONNX Runtime's logistic function",
        ),
        (
            "rmsnorm/eps-outside",
            "rmsnorm",
            {"policy": "eps-outside"},
            rows.rms_norm(inverse=styles.eps_outside),
            "eps outside of the root",
        ),
        (
            "quantize/saturate",
            "quantize",
            {"format": "q8_K", "ties": "any", "policy": "saturate"},
            rows.quantiser("q8_K", levels=128, rounding=dots.round_half_away),
            "-128 / max, as in candle",
        ),
        ("rmsnorm/kahan", "rmsnorm", {}, rows.rms_norm(total=styles.kahan), "compensated sum"),
        ("rmsnorm/newton", "rmsnorm", {}, rows.rms_norm(inverse=styles.newton_root), "rsqrt and a Newton step"),
        ("swiglu/two-sided", "swiglu", {}, styles.two_sided_swiglu, "exp(-|g|)"),
        ("rope/complex", "rope", {"mode": "norm"}, styles.complex_rope, "complex product"),
        ("rope-neox/complex", "rope", {"mode": "neox"}, styles.complex_rope, "complex product"),
        ("dequantize-table/q4_K", "dequantize", {"format": "q4_K"}, styles.table_q4_k, "a table"),
        ("dequantize-table/mxfp4", "dequantize", {"format": "mxfp4"}, styles.table_mxfp4, "a table, NaN as in OCP"),
    ]
    for format in ("q4_K", "q6_K"):
        given = {"format": format, "policy": "saturate"}
        made.append(
            (f"saturate/{format}", "matvec", given, dots.matvec(format, quantise=dots.saturating()), "-128 / max")
        )
    for format in ("q4_0", "q5_0", "q8_0", "q2_K", "q3_K", "q4_K", "q5_K", "q6_K"):
        given = {"format": format, "activation": "q8_1"}
        made.append((f"blocks-of-32/{format}", "matvec", given, dots.blocks_of_32(format), "x in q8_1, with its sums"))
    for format in ("q4_0", "q5_0", "q8_0", "q3_K", "q6_K"):
        given = {"format": format, "arithmetic": "apr"}
        made.append((f"offset/{format}", "matvec", given, styles.offset_matvec(format), "codes from 0 on"))
    for format in ("q8_0", "q8_1", "q8_K"):
        given = {"format": format, "ties": "any"}
        made += [
            (f"quantize/{format}", "quantize", given, rows.quantiser(format), "ties to even, float64 quotient"),
            (
                f"quantize-away/{format}",
                "quantize",
                given,
                rows.quantiser(format, rounding=dots.round_half_away),
                "ties away",
            ),
        ]
    return made


def _controls() -> list[Mutant]:
    """Correct functions."""
    made = [*_correct_dots(), *_correct_rows(), *_correct_styles(), *wrong_sizes.RIGHT]
    made += [row for module in _OPERATIONS for row in module.RIGHT]
    made += libraries.RIGHT
    made += [*wrong_formats.RIGHT, *wrong_formats_quantise.RIGHT]
    return [Mutant(name, target, params, f, what, correct=True) for name, target, params, f, what in made]


def mutants() -> tuple[Mutant, ...]:
    """Every mutant, and then every control."""
    return (
        *_decoders(),
        *_dots(),
        *_float_dots(),
        *_softmaxes(),
        *_norms(),
        *_swiglus(),
        *_ropes(),
        *_quantisers(),
        *_places(),
        *_policies(),
        *(Mutant(*row) for row in (*wrong_sizes.WRONG, *wrong_formats.WRONG, *wrong_formats_quantise.WRONG)),
        *(Mutant(*row) for module in (*_OPERATIONS, wrong_limits) for row in module.WRONG),
        *_controls(),
    )
