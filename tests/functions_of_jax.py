"""Functions of jax.nn, jax.numpy and jax.lax that inference is written with, each with inputs: what an
analysis has to know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_RNG = np.random.default_rng(0)
# By name: a function and its inputs. Float inputs are float64 numbers that float32 holds.
CASES: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {}


def add(name: str, function: Callable[..., Any], *inputs: np.ndarray) -> None:
    """One more case."""
    CASES[name] = (
        function,
        tuple(each.astype(np.float32).astype(np.float64) if each.dtype.kind == "f" else each for each in inputs),
    )


def normal(shape: int | tuple[int, ...]) -> np.ndarray:
    """Normally distributed numbers."""
    return _RNG.standard_normal(shape)


def positive(*shape: int) -> np.ndarray:
    """Numbers from 0.1 on."""
    return np.abs(_RNG.standard_normal(shape)) + 0.1


def inside(*shape: int) -> np.ndarray:
    """Numbers between -0.95 and 0.95."""
    return _RNG.uniform(-0.95, 0.95, shape)


def index(end: int, *shape: int) -> np.ndarray:
    """Whole numbers below the end."""
    return _RNG.integers(0, end, shape).astype(np.int32)


for n in [
    "relu",
    "relu6",
    "sigmoid",
    "softplus",
    "sparse_plus",
    "sparse_sigmoid",
    "soft_sign",
    "silu",
    "swish",
    "log_sigmoid",
    "leaky_relu",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "elu",
    "celu",
    "selu",
    "gelu",
    "squareplus",
    "mish",
    "softmax",
    "log_softmax",
    "logsumexp",
    "standardize",
    "identity",
]:
    if hasattr(jax.nn, n):
        add("nn." + n, getattr(jax.nn, n), normal((5, 9)) * 3)
add("nn.gelu_erf", lambda x: jax.nn.gelu(x, approximate=False), normal((5, 9)) * 3)
add("nn.glu", jax.nn.glu, normal((5, 8)))
add("nn.one_hot", lambda i: jax.nn.one_hot(i, 7), index(7, 5))
add(
    "nn.dot_product_attention",
    lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True),
    normal((2, 5, 4, 8)),
    normal((2, 5, 2, 8)),
    normal((2, 5, 2, 8)),
)
for n in [
    "abs",
    "absolute",
    "negative",
    "positive",
    "sign",
    "square",
    "sqrt",
    "cbrt",
    "reciprocal",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log2",
    "log10",
    "log1p",
    "sin",
    "cos",
    "tan",
    "sinc",
    "arctan",
    "sinh",
    "cosh",
    "tanh",
    "arcsinh",
    "ceil",
    "floor",
    "trunc",
    "rint",
    "round",
    "fix",
    "deg2rad",
    "rad2deg",
    "degrees",
    "radians",
    "isfinite",
    "isinf",
    "isnan",
    "signbit",
    "logical_not",
    "fabs",
    "i0",
    "nan_to_num",
    "conj",
    "real",
]:
    if hasattr(jnp, n):
        add(n, getattr(jnp, n), positive(5, 9) * 2)
for n in ["arcsin", "arccos", "arctanh"]:
    add(n, getattr(jnp, n), inside(5, 9))
add("ldexp", jnp.ldexp, normal((5, 9)), index(5, 5, 9))
add("arccosh", jnp.arccosh, positive(5, 9) + 1)
for n in [
    "add",
    "subtract",
    "multiply",
    "divide",
    "true_divide",
    "power",
    "float_power",
    "floor_divide",
    "mod",
    "remainder",
    "fmod",
    "maximum",
    "minimum",
    "fmax",
    "fmin",
    "arctan2",
    "hypot",
    "logaddexp",
    "logaddexp2",
    "copysign",
    "nextafter",
    "heaviside",
    "equal",
    "not_equal",
    "less",
    "less_equal",
    "greater",
    "greater_equal",
    "logical_and",
    "logical_or",
    "logical_xor",
    "divmod",
]:
    add(n, getattr(jnp, n), positive(5, 9), positive(5, 9) * 2)
for n in [
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "left_shift",
    "right_shift",
    "add",
    "subtract",
    "multiply",
    "floor_divide",
    "mod",
    "gcd",
    "lcm",
    "power",
]:
    add("int." + n, getattr(jnp, n), index(20, 5, 9) + 1, index(5, 5, 9) + 1)
add("bitwise_not", jnp.bitwise_not, index(20, 5))
add("bitwise_count", jnp.bitwise_count, index(200, 5))
add("clz", lax.clz, index(200, 5))
add("population_count", lax.population_count, index(200, 5))
add("shift_logical", lax.shift_right_logical, index(200, 5) - 100, index(5, 5))
for n in [
    "sum",
    "prod",
    "mean",
    "max",
    "min",
    "amax",
    "amin",
    "any",
    "all",
    "var",
    "std",
    "median",
    "argmax",
    "argmin",
    "ptp",
    "nansum",
    "nanmean",
    "nanmax",
    "nanmin",
    "nanprod",
    "nanvar",
    "nanstd",
    "count_nonzero",
    "nanargmax",
    "nanargmin",
    "nanmedian",
    "average",
]:
    add("red." + n, lambda x, n=n: getattr(jnp, n)(x, axis=-1), normal((5, 9)))
    add("red0." + n, lambda x, n=n: getattr(jnp, n)(x, axis=0), normal((5, 9)))
add("quantile", lambda x: jnp.quantile(x, jnp.array([0.1, 0.5, 0.77]), axis=-1), normal((5, 9)))
add("percentile", lambda x: jnp.percentile(x, 33.0, axis=-1), normal((5, 9)))
for n in [
    "cumsum",
    "cumprod",
    "nancumsum",
    "nancumprod",
    "diff",
    "sort",
    "argsort",
    "flip",
    "fliplr",
    "flipud",
    "ediff1d",
]:
    add(
        "cum." + n,
        lambda x, n=n: getattr(jnp, n)(x, **({} if n in ("ediff1d", "fliplr", "flipud") else {"axis": -1})),
        normal((5, 9)),
    )
for n in ["cummax", "cummin", "cumlogsumexp", "cumsum", "cumprod"]:
    add("lax." + n, lambda x, n=n: getattr(lax, n)(x, axis=1, reverse=True), normal((5, 9)))
    add("laxf." + n, lambda x, n=n: getattr(lax, n)(x, axis=0), normal((5, 9)))
add("associative_scan", lambda x: lax.associative_scan(jnp.add, x, axis=1), normal((5, 9)))
add("logsumexp", lambda x: jax.scipy.special.logsumexp(x, axis=-1), normal((5, 9)))
for n in [
    "erf",
    "erfc",
    "erfinv",
    "gammaln",
    "digamma",
    "expit",
    "logit",
    "xlogy",
    "xlog1py",
    "entr",
    "log_ndtr",
    "ndtr",
    "ndtri",
    "i0e",
    "i1e",
]:
    f = getattr(jax.scipy.special, n)
add(
    "sp." + n,
    f,
    *(
        [positive(5, 9) * 0.4, positive(5, 9)]
        if n in ("xlogy", "xlog1py")
        else [np.clip(positive(5, 9) * 0.4, 0.05, 0.9)]
    ),
)
add("matmul", jnp.matmul, normal((5, 9)), normal((9, 4)))
add("matmul_b", jnp.matmul, normal((3, 5, 9)), normal((3, 9, 4)))
add("dot", jnp.dot, normal(9), normal(9))
add("vdot", jnp.vdot, normal((3, 4)), normal((3, 4)))
add("inner", jnp.inner, normal((3, 4)), normal((5, 4)))
add("outer", jnp.outer, normal(4), normal(5))
add("tensordot", lambda a, b: jnp.tensordot(a, b, 2), normal((3, 4, 5)), normal((4, 5, 6)))
add("kron", jnp.kron, normal((2, 3)), normal((3, 2)))
add("cross", jnp.cross, normal((4, 3)), normal((4, 3)))
add("einsum1", lambda a, b: jnp.einsum("bhsd,bhtd->bhst", a, b), normal((2, 3, 4, 5)), normal((2, 3, 6, 5)))
add("einsum2", lambda a, b, c: jnp.einsum("ij,jk,ki->", a, b, c), normal((3, 4)), normal((4, 5)), normal((5, 3)))
add("einsum3", lambda a: jnp.einsum("iij->j", a), normal((3, 3, 4)))
add("trace", jnp.trace, normal((4, 4)))
add("norm", lambda x: jnp.linalg.norm(x, axis=-1), normal((5, 9)))
add("norm1", lambda x: jnp.linalg.norm(x, ord=1, axis=-1), normal((5, 9)))
add("norminf", lambda x: jnp.linalg.norm(x, ord=jnp.inf, axis=-1), normal((5, 9)))
add("matrix_power", lambda x: jnp.linalg.matrix_power(x, 3), normal((4, 4)))
add("multi_dot", lambda a, b: jnp.linalg.multi_dot([a, b, a]), normal((3, 4)), normal((4, 3)))
add("det?", lambda x: x.T @ x, normal((3, 4)))
add("int_matmul", jnp.matmul, index(9, 4, 5), index(9, 5, 3))
add(
    "ragged_dot",
    lambda a, b, g: lax.ragged_dot(a, b, g),
    normal((6, 4)),
    normal((3, 4, 5)),
    np.array([2, 3, 1], np.int32),
)
add(
    "batch_matmul_pref",
    lambda a, b: lax.dot_general(
        a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32
    ),
    normal((4, 8)),
    normal((8, 5)),
)
for d, (xs, ws, dn) in {
    "1d": ((2, 3, 12), (4, 3, 3), ("NCH", "OIH", "NCH")),
    "2d": ((2, 3, 8, 9), (4, 3, 3, 2), ("NCHW", "OIHW", "NCHW")),
    "2dnhwc": ((2, 8, 9, 3), (3, 2, 3, 4), ("NHWC", "HWIO", "NHWC")),
    "3d": ((1, 2, 5, 5, 5), (3, 2, 2, 2, 2), ("NCDHW", "OIDHW", "NCDHW")),
}.items():
    k = len(xs) - 2
    add(
        "conv" + d,
        lambda x, w, dn=dn, k=k: lax.conv_general_dilated(x, w, (2,) * k, "SAME", dimension_numbers=dn),
        normal(xs),
        normal(ws),
    )
    add(
        "convdil" + d,
        lambda x, w, dn=dn, k=k: lax.conv_general_dilated(
            x, w, (1,) * k, [(1, 2)] * k, rhs_dilation=(2,) * k, dimension_numbers=dn
        ),
        normal(xs),
        normal(ws),
    )
    add(
        "convlhsdil" + d,
        lambda x, w, dn=dn, k=k: lax.conv_general_dilated(
            x, w, (1,) * k, [(1, -1)] * k, lhs_dilation=(3,) * k, dimension_numbers=dn
        ),
        normal(xs),
        normal(ws),
    )
add(
    "conv_grouped",
    lambda x, w: lax.conv_general_dilated(
        x, w, (1,), "VALID", feature_group_count=2, dimension_numbers=("NCH", "OIH", "NCH")
    ),
    normal((2, 4, 8)),
    normal((6, 2, 3)),
)
add(
    "conv_depthwise",
    lambda x, w: lax.conv_general_dilated(
        x, w, (1,), "VALID", feature_group_count=4, dimension_numbers=("NCH", "OIH", "NCH")
    ),
    normal((2, 4, 8)),
    normal((4, 1, 3)),
)
add(
    "conv_batchgroup",
    lambda x, w: lax.conv_general_dilated(
        x, w, (1,), "VALID", batch_group_count=2, dimension_numbers=("NCH", "OIH", "NCH")
    ),
    normal((4, 3, 8)),
    normal((4, 3, 3)),
)
add(
    "conv_transpose",
    lambda x, w: lax.conv_transpose(x, w, (2,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")),
    normal((2, 6, 3)),
    normal((3, 3, 4)),
)
add("jnp.convolve", jnp.convolve, normal(9), normal(4))
add("correlate", jnp.correlate, normal(9), normal(4))
add("avg_pool", lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 2), (1, 2, 1), "SAME"), normal((2, 6, 7)))
add("max_pool", lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2), (1, 2, 1), "SAME"), normal((2, 6, 7)))
add("min_pool", lambda x: lax.reduce_window(x, jnp.inf, lax.min, (1, 2, 2), (1, 1, 1), "VALID"), normal((2, 6, 7)))
add("prod_pool", lambda x: lax.reduce_window(x, 1.0, lax.mul, (1, 2, 2), (1, 1, 1), "VALID"), normal((2, 6, 7)))
add("take", lambda x, i: jnp.take(x, i, axis=1), normal((5, 9)), index(9, 4))
add("take_along", lambda x, i: jnp.take_along_axis(x, i, 1), normal((5, 9)), index(9, 5, 3))
add("idx", lambda x, i: x[i], normal((5, 9)), index(5, 4))
add("idx2", lambda x, i, j: x[i, j], normal((5, 9)), index(5, 4), index(9, 4))
add("idxfill", lambda x, i: x.at[i].get(mode="fill", fill_value=0), normal((5, 9)), index(9, 4))
add("idxclip", lambda x, i: x.at[i].get(mode="clip"), normal((5, 9)), index(9, 4))
add("negidx", lambda x, i: x[i - 5], normal((5, 9)), index(5, 4))
add("embed3", lambda x, i: x[i], normal((5, 9)), index(5, 4, 2))
add("at_set", lambda x, i, v: x.at[i].set(v), normal((5, 9)), np.array([3, 1], np.int32), normal((2, 9)))
add("at_add", lambda x, i, v: x.at[i].add(v), normal((5, 9)), np.array([3, 1, 3], np.int32), normal((3, 9)))
add("at_mul", lambda x, i, v: x.at[i].multiply(v), normal((5, 9)), np.array([3, 1, 3], np.int32), normal((3, 9)))
add("at_max", lambda x, i, v: x.at[i].max(v), normal((5, 9)), np.array([3, 1, 3], np.int32), normal((3, 9)))
add("at_min", lambda x, i, v: x.at[:, i].min(v), normal((5, 9)), np.array([3, 1, 3], np.int32), normal((5, 3)))
add("at_drop", lambda x, i, v: x.at[i].set(v, mode="drop"), normal((5, 9)), np.array([3, 7], np.int32), normal((2, 9)))
add("segment_sum", lambda x, i: jax.ops.segment_sum(x, i, 4), normal((7, 3)), index(4, 7))
add("bincount", lambda i: jnp.bincount(i, length=6), index(6, 20))
add(
    "dynamic_slice", lambda x, i: lax.dynamic_slice(x, (i[0], i[1]), (2, 3)), normal((5, 9)), np.array([2, 8], np.int32)
)
add(
    "dus",
    lambda x, u, i: lax.dynamic_update_slice(x, u, (i[0], i[1])),
    normal((5, 9)),
    normal((2, 3)),
    np.array([4, 2], np.int32),
)
add("pad", lambda x: jnp.pad(x, ((1, 2), (0, 3)), constant_values=1.5), normal((5, 9)))
add("padneg", lambda x: lax.pad(x, 0.0, ((-1, 2, 1), (1, -3, 0))), normal((5, 9)))
add("padreflect", lambda x: jnp.pad(x, ((1, 2), (0, 3)), mode="reflect"), normal((5, 9)))
for n, f in {
    "concat": lambda x: jnp.concatenate([x, x * 2], 1),
    "stack": lambda x: jnp.stack([x, x]),
    "roll": lambda x: jnp.roll(x, 2, 1),
    "tile": lambda x: jnp.tile(x, (2, 3)),
    "repeat": lambda x: jnp.repeat(x, 3, axis=1),
    "split": lambda x: jnp.split(x, 3, axis=1),
    "tril": jnp.tril,
    "triu": jnp.triu,
    "diag": lambda x: jnp.diag(x[:5, :5]),
    "diagonal": jnp.diagonal,
    "swap": lambda x: jnp.swapaxes(x, 0, 1),
    "rot90": jnp.rot90,
    "where": lambda x: jnp.where(x > 0, x, 0),
    "clip": lambda x: jnp.clip(x, -1, 1),
    "select": lambda x: jnp.select([x > 1, x > 0], [x, x * 2], 0),
    "piecewise": lambda x: jnp.piecewise(x, [x < 0, x >= 0], [lambda y: -y, lambda y: y * 2]),
    "interp": lambda x: jnp.interp(x, jnp.arange(5.0), jnp.arange(5.0) ** 2),
    "searchsorted": lambda x: jnp.searchsorted(jnp.array([-1.0, 0.0, 1.0]), x),
    "digitize": lambda x: jnp.digitize(x, jnp.array([-1.0, 0.0, 1.0])),
    "argpartition": lambda x: jnp.partition(x, 3, axis=-1),
    "vander": lambda x: jnp.vander(x[0], 4),
    "polyval": lambda x: jnp.polyval(jnp.array([1.0, 2.0, 3.0]), x),
    "meshgrid": lambda x: jnp.meshgrid(x[0], x[:, 0]),
    "linspace": lambda x: jnp.linspace(0, x[0, 0], 5),
    "arange": lambda x: x + jnp.arange(9),
    "eye": lambda x: x @ jnp.eye(9),
    "cov": jnp.cov,
    "corrcoef": jnp.corrcoef,
    "gradient": lambda x: jnp.gradient(x, axis=1),
    "trapezoid": lambda x: jnp.trapezoid(x, axis=1),
    "topk": lambda x: lax.top_k(x, 3),
    "topk0": lambda x: lax.top_k(x.T, 3),
    "reduce_precision": lambda x: lax.reduce_precision(x, 5, 10),
    "unravel": lambda x: jnp.ravel(x),
    "lexsort": lambda x: jnp.lexsort((x[0], x[1])),
    "histogram": lambda x: jnp.histogram(x, 5)[0],
    "nanpad": lambda x: jnp.nan_to_num(x),
    "scan": lambda x: lax.scan(lambda c, y: (c * 0.5 + y, c + y), jnp.zeros(9), x),
    "fori": lambda x: lax.fori_loop(0, 4, lambda i, c: c * 0.9 + x[i], jnp.zeros(9)),
    "whil": lambda x: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(c[1])), (0, x)),
    "cond": lambda x: lax.cond(x.shape[0] > 3, jnp.sin, jnp.cos, x),
    "cond2": lambda x: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x),
    "switch": lambda x: lax.switch(jnp.argmax(x[0]) % 3, [jnp.sin, jnp.cos, jnp.tanh], x),
    "map": lambda x: lax.map(lambda r: jnp.sum(r * r), x),
    "remat": lambda x: jax.checkpoint(jnp.sin)(x),
    "bf16": lambda x: x.astype(jnp.bfloat16).astype(x.dtype) * 3,
    "f16": lambda x: (x.astype(jnp.float16) * 3).astype(jnp.float32),
    "f8": lambda x: x.astype(jnp.float8_e4m3fn).astype(x.dtype),
    "f85": lambda x: x.astype(jnp.float8_e5m2).astype(x.dtype),
    "toint": lambda x: (x * 10).astype(jnp.int32),
    "bitcast": lambda x: lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32),
    "bitcast2": lambda x: lax.bitcast_convert_type(
        lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32) + 1, jnp.float32
    ),
    "integer_pow": lambda x: x**5,
    "ipowneg": lambda x: x**-3,
    "quant": lambda x: jnp.clip(jnp.round(x / 0.05), -127, 127).astype(jnp.int8),
    "fakequant": lambda x: jnp.round(x / 0.05) * 0.05,
    "vmapcond": lambda x: jax.vmap(lambda r: lax.cond(r[0] > 0, jnp.sin, jnp.cos, r))(x),
    "vmapwhile": lambda x: jax.vmap(
        lambda r: lax.while_loop(lambda c: c[0] < 2.0, lambda c: (c[0] + 1, c[1] * 0.5), (jnp.abs(jnp.floor(r[0])), r))
    )(x),
    "dynroll": lambda x: jnp.roll(x, jnp.argmax(x[0]), 1),
    "argmaxtake": lambda x: jnp.take_along_axis(x, jnp.argmax(x, 1)[:, None], 1),
    "sorttake": lambda x: jnp.take_along_axis(x, jnp.argsort(x, 1), 1),
    "median": lambda x: jnp.median(x),
    "unwrap": lambda x: jnp.unwrap(x),
    "tri": lambda x: x * jnp.tri(5, 9),
    "block": lambda x: jnp.block([[x, x], [x, x]]),
    "apply": lambda x: jnp.apply_along_axis(jnp.sum, 1, x),
    "vecdot": lambda x: jnp.vecdot(x, x),
    "nanquant": lambda x: jnp.nanquantile(x, 0.3),
    "rank": lambda x: jnp.argsort(jnp.argsort(x, 1), 1),
    "onehotargmax": lambda x: jax.nn.one_hot(jnp.argmax(x, 1), 9),
    "isclose": lambda x: jnp.isclose(x, x + 1e-3),
    "allclose": lambda x: jnp.allclose(x, x),
    "moe": lambda x: (lambda v, i: jnp.take_along_axis(jax.nn.softmax(x), i, 1) / v.sum(-1, keepdims=True))(
        *lax.top_k(jax.nn.softmax(x), 3)
    ),
    "lerp": lambda x: x + 0.3 * (x[:1] - x),
    "deg": lambda x: jnp.degrees(x),
}.items():
    add("x." + n, f, normal((5, 9)) * 2)
