"""The published experiments, repeated on their published inputs: one function for each row of the claims.

Figures that were published in float32 are computed in float32, in the order of the published code, so that digits and
bits agree. If the exact figure differs in a printed digit, it is given too, under the name ``exact``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from diffuzz import formats, targets
from diffuzz.cases.case import Case
from diffuzz.judging.problem import Measurement, evaluate
from diffuzz.kernels import apr, gguf
from diffuzz.targets import distances
from diffuzz.targets.block_scale import SCALES
from diffuzz.targets.parameter import Params
from diffuzz.targets.published import PUBLISHED_DRIFT, ramp, seed_block

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

# The figures of a reproduction by name: numbers, bits as hexadecimal text, or whether two results are identical.
Figures: TypeAlias = dict[str, float | str | bool]


def _measured(target_name: str, given: Params, **arrays: np.ndarray) -> Measurement:
    """One case of a target, by name of its arrays."""
    target = targets.get(target_name)
    return evaluate(target, target.params(given), Case(arrays))


def _vector(
    formula: Callable[[Float32[np.ndarray, " n"]], Float32[np.ndarray, " n"]], n: int
) -> Float32[np.ndarray, " n"]:
    """``formula(i)`` for i = 0 .. n-1."""
    return np.asarray(formula(np.arange(n, dtype=np.float32)), np.float32)


def _bits(value: Float32[np.ndarray, ""] | np.float32) -> str:
    """The bits of a float32 number, in hexadecimal."""
    return f"0x{int(np.float32(value).view(np.uint32)):08x}"


def _matmul_twice(rows: int, tokens: int, x: tuple[int, int], w: tuple[int, int, int]) -> Figures:
    """One float32 matrix product of 128 columns, computed twice.

    x[i] = ((i mod x0) - x1) 0.1 and w[i] = ((w0 i mod w1) - w2) 0.05.
    """
    ints = np.arange(rows * 128)
    x32 = ((ints[: tokens * 128] % x[0] - x[1]).astype(np.float32) * np.float32(0.1)).reshape(tokens, 128)
    w32 = ((w[0] * ints % w[1] - w[2]).astype(np.float32) * np.float32(0.05)).reshape(rows, 128)
    first, second = (apr.matmul(w32, x32) for _ in range(2))
    return {"identical": first.tobytes() == second.tobytes()}


def matmul() -> Figures:
    """FFN-GGUF-005: 4 tokens, 128 to 512."""
    return _matmul_twice(512, 4, (17, 8), (31, 23, 11))


def small_matmul() -> Figures:
    """FFN-GGUF-005b: one token, 128 to 64."""
    return _matmul_twice(64, 1, (13, 6), (23, 19, 9))


def dot_order() -> Figures:
    """FFN-GGUF-006: a left fold and 8 FMA lanes over the same 128 products."""
    one = np.float32
    a = _vector(lambda i: (i - one(64)) * one(0.1) + np.mod(i, one(7)) * one(0.013), 128)
    b = _vector(lambda i: (one(0.7) * i - one(50)) * one(0.05) + np.mod(i, one(11)) * one(0.011), 128)
    return {"bits_scalar": _bits(apr.dot_fold(a, b)), "bits_simd": _bits(apr.dot_lanes(a, b))}


def dequantisers() -> Figures:
    """FFN-GGUF-007: aprender's own Q4_K dequantiser, and that of the format."""
    block = seed_block()[None]
    return {"identical": apr.dequantize("q4_K", block).tobytes() == formats.get("q4_K").dequantize(block).tobytes()}


def two_paths(block: UInt8[np.ndarray, " type_size"], format: str = "q4_K") -> tuple[np.float32, np.float32, float]:
    """The results A and B of the two paths for one block and the ramp, and |A - B| / max(|A|, 1e-9)."""
    a = apr.vec_dot(format, block[None], ramp()[None])[0, 0]
    b = gguf.vec_dot(format, block[None], ramp()[None])[0, 0]
    return a, b, float(distances.rel_diff(a, b))


def matvec() -> Figures:
    """FFN-GGUF-008: the seed block and the ramp."""
    a, b, drift = two_paths(seed_block())
    return {"path_a_bits": _bits(a), "path_b_bits": _bits(b), "rel_diff": drift}


def chain() -> Figures:
    """FFN-GGUF-009: five chained matvecs, starting from the ramp."""
    drift = _measured("chain", {}, x=ramp()).value
    return {"rel_l2": drift, "growth": drift / PUBLISHED_DRIFT}


def block_scale() -> Figures:
    """FFN-GGUF-010: the seed block with dmin = 0 and each of the published scales."""
    drifts = []
    for scale in SCALES:
        block = seed_block()
        block[:4] = np.array([scale, 0.0], "<f2").view(np.uint8)
        drifts.append(two_paths(block)[2])
    return {"rel_diff_min": min(drifts), "rel_diff_max": max(drifts), "factor": max(drifts) / min(drifts)}


def softmax() -> Figures:
    """FFN-GGUF-011: one of seven logits moves by 0.0077. The figure is the L1 drift of the probabilities divided by the
    L1 drift of the logits.
    """
    z = np.array([-1.5, 0.5, -0.8, 10.0, 1.2, -0.3, 0.7], np.float32)
    moved = z.copy()
    moved[3] += np.float32(0.0077)
    drift_in = distances.relative_l1(z, moved)
    published = distances.l1(apr.soft_max(z), apr.soft_max(moved)) / drift_in
    step = np.where(np.arange(7) == 3, 0.0077 / (PUBLISHED_DRIFT * np.abs(z).sum()), 0).astype(np.float32)
    exact = _measured("softmax", {"n": 7, "perturbation": "l1", "delta": PUBLISHED_DRIFT}, z=z, z_direction=step)
    return {"amplification": float(published), "exact": exact.value}


def rope(floor: float = 1e-3) -> Figures:
    """FFN-GGUF-012: q scaled by 1.00077, at position 0, against k at position 1."""
    one = np.float32
    q = _vector(lambda i: (i - one(32)) * one(0.05) + np.mod(i, one(5)) * one(0.02), 64)
    k = _vector(lambda i: (i - one(32)) * one(0.04) + np.mod(i, one(7)) * one(0.015), 64)
    given = {"perturb": "q", "perturbation": "componentwise", "floor": floor, "delta": PUBLISHED_DRIFT}
    away = np.where(q >= 0, one(1), one(-1))
    positions = np.array([0, 1], np.int32)
    return {"amplification": _measured("rope", given, q=q, k=k, q_direction=away, positions=positions).value}


def batch() -> Figures:
    """FFN-GGUF-013: seven tokens through the chain; both statistics are over the same tokens on both paths."""
    one = np.float32
    i = np.arange(256, dtype=np.float32)
    tokens = [(i - one(128)) * one(0.05) + (np.mod(i, one(7)) + one(k)) * one(0.01) for k in range(7)]
    detail = _measured("batch", {"tokens": 7}, x=np.stack(tokens)).evidence.as_dict()
    mean = detail["mean relative L2"]
    return {
        "mean_rel_l2": mean,
        "ratio_to_009": mean / float(chain()["rel_l2"]),
        "std_ratio_drift": detail["std ratio"] - 1,
    }


def rmsnorm() -> Figures:
    """FFN-GGUF-015: every element of the ramp moves by 0.077 %, up or down in a fixed pattern."""
    i = np.arange(256)
    direction = np.where((13 * i + 7) % 17 < 8, 1, -1).astype(np.float32)
    return {"amplification": _measured("rmsnorm", {"delta": PUBLISHED_DRIFT}, x=ramp(), x_direction=direction).value}
