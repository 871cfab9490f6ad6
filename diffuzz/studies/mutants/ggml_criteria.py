r"""The criteria of ggml's own tests, restated here to see what they say about a function.

    test-quantize-fns   x_i = 0.1 + 2 cos(i), y_i = 0.1 + 2 cos(i + 1), 4096 of them. Product of x quantised and y:
                        |f - sum x y| / n < 0.02 (0.04 for q2_K). Round trip of x: sqrt(sum of squared errors) / n <
                        0.002 (0.0075 for q2_K, 0.004 for q3_K), and the same distance from the reference quantiser
                        < 0.0001.
    test-backend-ops    inputs uniform in [-1, 1], weights quantised from such; NMSE of all outputs of a case against
                        the CPU backend's at most 5e-4 (MUL_MAT: 16 rows of 256, one to nine activations), 1e-7
                        (others), 1e-6 (SOFT_MAX, CPY). RMS_NORM draws from [-10, 10] with eps 0, 1e-6, 1e-4, 0.1;
                        SWIGLU from [-150, 150]; ROPE positions below 512. The operations that are written as functions
                        of jax.numpy are tried in the same way, with the sizes that most cases have, against the exact
                        result: products of matrices and attention with 5e-4, norms from [-10, 10], activations from
                        [-150, 150]. Indices must be right.

The first test has fixed data, so its answer is always the same; the second draws new data in every run. For q2_K and
q3_K, whose ggml quantisers fit more closely than ours, the dot product is compared with that of the quantised weights.

Formats that ggml does not have are tested by neither, and of those that are newer here only the second is asked.

A function that is not made for some shapes (see diffuzz.cases.domain) is not called with them, as a backend of ggml
says which operations it supports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from diffuzz import formats, targets
from diffuzz.cases import domain
from diffuzz.cases.ranges import clip
from diffuzz.cases.space import TensorSpec
from diffuzz.kernels import apr, exact, ggml
from diffuzz.studies.mutants.mutants import Mutant
from diffuzz.studies.mutants.wrong_blocks import Change
from diffuzz.studies.mutants.wrong_dots import Matvec
from diffuzz.targets import distances
from diffuzz.targets.contract import checked
from diffuzz.targets.matvec import WEIGHT_FORMATS

FNS_ELEMENTS = 32 * 128
FNS_DOT, FNS_DOT_LOW = 0.02, 0.04
FNS_ROUND_TRIP = {"q2_K": 0.0075, "q3_K": 0.0040}
FNS_ROUND_TRIP_OTHERS = 0.002
FNS_REFERENCE = 1e-4
# Those that our quantisers fit as closely as ggml's do.
FNS_TESTED = (*WEIGHT_FORMATS, "q8_1", "q8_K")
FNS_OWN_WEIGHTS = ("q2_K", "q3_K")
OPS_NMSE = {
    "matvec": 5e-4, "matmat": 5e-4, "batched_matmul": 5e-4, "attention": 5e-4,
    "softmax": 1e-6, "masked_softmax": 1e-6, "quantize": 1e-6,
}  # fmt: skip
# Ends of the inputs' range, where it is not 1.
OPS_RANGE = {
    "silu": 150.0, "gelu": 150.0, "geglu": 150.0, "layer_norm": 10.0, "rmsnorm_gain": 10.0, "add_rmsnorm": 10.0,
}  # fmt: skip
OPS_POSITIONS = 512
# Cases of an operation that is a function of jax.numpy.
OPS_DECLARED = 4
OPS_NMSE_OTHERS = 1e-7

# (expected result, result of the mutant).
Pair: TypeAlias = tuple[np.ndarray, np.ndarray]


def fns_kills(mutant: Mutant) -> bool | None:
    """Whether test-quantize-fns fails with this function; None if it does not test the operation."""
    if "format" in mutant.params and mutant.params["format"] not in FNS_TESTED:
        return None
    with np.errstate(all="ignore"):
        if mutant.target == "matvec":
            if not _supports(mutant, m=1, k=FNS_ELEMENTS):
                return False
            return _fns_dot(mutant.params["format"], mutant.function)
        if mutant.target == "dequantize":
            return _fns_dequantiser(mutant.params["format"], mutant.function)
        if mutant.target == "quantize":
            return _fns_quantiser(mutant.params["format"], mutant.function)
    return None


def ops_kills(mutant: Mutant, rng: np.random.Generator) -> bool:
    """Whether one run of test-backend-ops fails with this function."""
    if not formats.of_ggml(mutant.params.get("format", "q8_0")):
        return False
    limit = OPS_NMSE.get(mutant.target, OPS_NMSE_OTHERS)
    with np.errstate(all="ignore"):
        for expected, got in _cases(mutant, rng):
            a, b = np.ravel(expected), np.ravel(got)
            if not np.isfinite(b).all() or not distances.nmse(a, b) <= limit:
                return True
    return False


def _cases(mutant: Mutant, rng: np.random.Generator) -> Iterator[Pair]:
    """The cases of the operation; those of rope are without what models add to it."""
    plain = mutant.target != "rope" or set(mutant.params) <= {"mode"}
    own = _CASES.get(mutant.target) if plain else None
    return own(mutant, rng) if own else _declared(mutant, rng)


def _supports(mutant: Mutant, **sizes: int) -> bool:
    """Whether a function is made for these sizes of dimensions, as its parameters say."""
    return all(
        one.low <= sizes[one.name] <= one.high and sizes[one.name] % one.step == 0
        for one in domain.restrictions(mutant.params)
        if one.name in sizes
    )


def _data(offset: float) -> np.ndarray:
    """The vector of test-quantize-fns, float32[FNS_ELEMENTS]."""
    return np.asarray((0.1 + 2 * np.cos(np.arange(FNS_ELEMENTS) + offset)).astype(np.float32))


def _quantised(format: str, values: np.ndarray) -> np.ndarray:
    """Rows float32[m, k] as rows of blocks."""
    fmt = formats.get(format)
    if fmt.quantize is None:
        raise ValueError(f"format {format!r} has no quantiser")
    return fmt.quantize(values.reshape(-1, fmt.block_size)).reshape(len(values), -1)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """array_rmse of ggml: the square root of the sum of squared differences, divided by n."""
    return float(np.sqrt(((a.astype(np.float64) - b) ** 2).sum()) / a.size)


def _fns_dot(format: str, f: Matvec) -> bool:
    x, y = _data(0.0), _data(1.0)
    weights = _quantised(format, x[None])
    result, expected = float(f(weights, y)[0]), float((x * y).astype(np.float64).sum())
    if format in FNS_OWN_WEIGHTS:
        expected = float(exact.vec_dot(format, weights, y[None])[0, 0])
    error = abs(result - expected) / FNS_ELEMENTS
    return not error < (FNS_DOT_LOW if format == "q2_K" else FNS_DOT)


def _fns_dequantiser(format: str, f: Change) -> bool:
    x = _data(0.0)
    blocks = _quantised(format, x[None]).reshape(-1, formats.get(format).type_size)
    return not _distance(x, np.ravel(f(blocks))) < FNS_ROUND_TRIP.get(format, FNS_ROUND_TRIP_OTHERS)


def _fns_quantiser(format: str, f: Change) -> bool:
    fmt, x = formats.get(format), _data(0.0)
    blocks = x.reshape(-1, fmt.block_size)
    ours, reference = fmt.dequantize(f(blocks)), fmt.dequantize(_quantised(format, blocks))
    limit = FNS_ROUND_TRIP.get(format, FNS_ROUND_TRIP_OTHERS)
    return not (_distance(blocks, ours) < limit and _distance(reference, ours) < FNS_REFERENCE)


def _uniform(rng: np.random.Generator, *shape: int, top: float = 1.0) -> np.ndarray:
    return rng.uniform(-top, top, shape).astype(np.float32)


def _mul_mat(mutant: Mutant, rng: np.random.Generator) -> Iterator[Pair]:
    format = mutant.params["format"]
    if not _supports(mutant, m=16, k=256):
        return
    for count in range(1, 10):
        weights, x = _quantised(format, _uniform(rng, 16, 256)), _uniform(rng, count, 256)
        # All outputs of a case count together, although each activation is a call of its own.
        got = np.stack([np.array(mutant.function(weights, row)) for row in x], axis=1)
        yield ggml.vec_dot(format, weights, x), got


def _get_rows(mutant: Mutant, rng: np.random.Generator) -> Iterator[Pair]:
    fmt = formats.get(mutant.params["format"])
    blocks = _quantised(fmt.name, _uniform(rng, 5, 256)).reshape(-1, fmt.type_size)
    yield fmt.dequantize(blocks), mutant.function(blocks)


def _copy(mutant: Mutant, rng: np.random.Generator) -> Iterator[Pair]:
    fmt = formats.get(mutant.params["format"])
    values = _uniform(rng, 24 * 256 // fmt.block_size, fmt.block_size)
    yield fmt.dequantize(_quantised(fmt.name, values)), fmt.dequantize(mutant.function(values))


def _soft_max(mutant: Mutant, rng: np.random.Generator) -> Iterator[Pair]:
    for n in (10, 16, 32, 1024):
        if not _supports(mutant, b=60, n=n):
            continue
        z = _uniform(rng, 60, n)
        yield apr.soft_max(z), mutant.function(z)


def _rms_norm(mutant: Mutant, rng: np.random.Generator) -> Iterator[Pair]:
    for n in (64, 1025):
        if not _supports(mutant, b=60, n=n):
            continue
        for eps in (0.0, 1e-6, 1e-4, 1e-1):
            x = _uniform(rng, 60, n, top=10.0)
            yield apr.rms_norm(x, eps), mutant.function(x, eps)


def _swiglu(mutant: Mutant, rng: np.random.Generator) -> Iterator[Pair]:
    for n in (128, 5):
        if not _supports(mutant, b=16, n=n):
            continue
        gate, up = _uniform(rng, 16, n, top=150.0), _uniform(rng, 16, n, top=150.0)
        yield apr.swiglu(gate, up), mutant.function(gate, up)


def _rope(mutant: Mutant, rng: np.random.Generator) -> Iterator[Pair]:
    mode = mutant.params.get("mode", "neox")
    for head_dim, heads in ((128, 32), (64, 12), (80, 32)):
        if not _supports(mutant, b=2, heads=heads, head_dim=head_dim):
            continue
        x, positions = _uniform(rng, 2, heads, head_dim), rng.integers(0, 512, 2).astype(np.int32)
        yield apr.rope(x, positions, 10000.0, mode), mutant.function(x, positions, 10000.0, mode)


def _declared(mutant: Mutant, rng: np.random.Generator) -> Iterator[Pair]:
    """Each floating-point result of a few cases of an operation that is a function of jax.numpy, and of its indices how
    many are wrong.
    """
    target = targets.get(mutant.target)
    contract, params = target.contract, target.contract_params(mutant.params)
    if contract is None or contract.results is None:
        return
    scalars, top = {one.array for one in contract.scalars}, OPS_RANGE.get(target.name, 1.0)
    arrays = {
        spec.name: _drawn(spec, rng, 0.0 if spec.name in scalars else top) for spec in contract.space(params).tensors
    }
    results = contract.results(params, arrays)
    function = checked(mutant.function, results, batched=contract.batched)
    exact, got = contract.exact(params, arrays), contract.call(params, function, arrays)
    right = got if contract.settled is None else contract.settled(params, arrays, got)
    place = 0
    for one in results:
        part = slice(place, place + int(np.prod(one.shape)))
        place = part.stop
        if one.dtype.startswith("int"):
            yield np.ones(1), 1.0 + (right[:, part] != exact[:, part]).sum(keepdims=True)
        else:
            yield from zip(exact[:, part], right[:, part], strict=True)


def _drawn(spec: TensorSpec, rng: np.random.Generator, top: float) -> np.ndarray:
    """Cases of a tensor, uniform in [-top, top] as far as its range goes; positions are those of ROPE's test."""
    shape = (OPS_DECLARED, *spec.array_shape())
    if spec.kind == "blocks":
        fmt = formats.get(spec.format or "")
        blocks = _uniform(rng, int(np.prod(shape)) // fmt.type_size, fmt.block_size)
        return _quantised(fmt.name, blocks).reshape(shape)
    if spec.kind == "positions":
        return rng.integers(0, min(int(spec.high), OPS_POSITIONS * int(top > 0)) + 1, shape).astype(np.int32)
    return clip(spec, _uniform(rng, *shape, top=top))


_CASES: dict[str, Callable[[Mutant, np.random.Generator], Iterator[Pair]]] = {
    "matvec": _mul_mat,
    "dequantize": _get_rows,
    "quantize": _copy,
    "softmax": _soft_max,
    "rmsnorm": _rms_norm,
    "swiglu": _swiglu,
    "rope": _rope,
}
