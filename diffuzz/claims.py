"""The published claims: each one reproduced to its published digits, then searched, bounded and judged.

A public pull request on an inference engine (paiml/aprender, #1545) asked which operation amplifies a drift of 0.077 %
between two ways to run one model, and decided each candidate by one input. Here each row is an experiment: the
published input again, the largest value that a search finds on the stated domain, the proven limit, and one of three
verdicts. Some rows have variants: the same operation in another measure or on a wider domain, where the answer differs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from diffuzz import corpus as store
from diffuzz import formats, measure, targets
from diffuzz.case import Case
from diffuzz.kernels import apr, gguf
from diffuzz.published import PUBLISHED_DRIFT, ramp, seed_block
from diffuzz.search import SearchResult, entry_of, search
from diffuzz.target import Measurement, evaluate

# The chain's rule for an amplification.
AMPLIFIES = 5.0
# The f16 block scales of FFN-GGUF-010: 0.001, 0.01, 0.05, 0.1, 0.5, 1 and 10.
SCALES = np.array([0x1410, 0x211F, 0x2933, 0x2E66, 0x3800, 0x3C00, 0x4900], np.uint16).view(np.float16)

Numbers = dict[str, Any]


@attrs.frozen
class Row:
    """One claim: what was published, how to reproduce it, and what to search (``target`` None: nothing without a
    model).
    """

    id: str
    claim: str
    published: str
    reproduce: Callable[[], Numbers]
    target: str | None = None
    params: dict[str, Any] = attrs.field(factory=dict)
    limit: float | None = None
    variant: str = ""


@attrs.frozen
class Settled:
    """A row, the figures reproduced from its published input, and what the search found (None without a target)."""

    row: Row
    reproduced: Numbers
    result: SearchResult | None
    witness: Path | None

    @property
    def verdict(self) -> str:
        """The verdict, and why where there is none."""
        return "UNRESOLVED: no model given" if self.result is None else self.result.verdict.value


def _measured(target_name: str, given: dict[str, Any], **arrays: Any) -> Measurement:
    target = targets.get(target_name)
    return evaluate(target, target.params(given), Case({name: np.asarray(a) for name, a in arrays.items()}))


def _float32(formula: Callable[[np.ndarray], np.ndarray], n: int) -> np.ndarray:
    return np.asarray(formula(np.arange(n, dtype=np.float32)), np.float32)


def _bits(value: Any) -> str:
    return f"0x{int(np.float32(value).view(np.uint32)):08x}"


def _matmul_twice(
    rows: int, x_period: int, x_shift: int, w_factor: int, w_period: int, w_shift: int, tokens: int
) -> Numbers:
    """The same float32 matmul twice, inputs in 128: x and w are periodic integers times 0.1 and 0.05."""
    x = np.arange(tokens * 128) % x_period - x_shift
    w = np.arange(rows * 128) * w_factor % w_period - w_shift
    x32 = (x.astype(np.float32) * np.float32(0.1)).reshape(tokens, 128)
    w32 = (w.astype(np.float32) * np.float32(0.05)).reshape(rows, 128)
    first, second = (apr.matmul(w32, x32) for _ in range(2))
    return {"identical": first.tobytes() == second.tobytes()}


def _dot_order() -> Numbers:
    """FFN-GGUF-006: both orders of one float32 dot product."""
    one = np.float32
    a = _float32(lambda i: (i - one(64)) * one(0.1) + np.mod(i, one(7)) * one(0.013), 128)
    b = _float32(lambda i: (one(0.7) * i - one(50)) * one(0.05) + np.mod(i, one(11)) * one(0.011), 128)
    return {
        "bits_scalar": _bits(apr.dot_fold(a[None], b[None])[0]),
        "bits_simd": _bits(apr.dot_simd(a[None], b[None])[0]),
    }


def _two_dequantisers() -> Numbers:
    """FFN-GGUF-007: aprender's own Q4_K dequantiser and the format's."""
    block = seed_block()[None]
    return {"identical": apr.dequantize("q4_K", block).tobytes() == formats.get("q4_K").dequantize(block).tobytes()}


def _two_paths(block: np.ndarray) -> tuple[np.float32, np.float32, float]:
    a = apr.vec_dot("q4_K", block[None], ramp()[None])[0, 0]
    b = gguf.vec_dot("q4_K", block[None], ramp()[None])[0, 0]
    return a, b, float(measure.rel_diff(a, b))


def _matvec() -> Numbers:
    a, b, drift = _two_paths(seed_block())
    return {"path_a_bits": _bits(a), "path_b_bits": _bits(b), "rel_diff": drift}


def _chain() -> Numbers:
    drift = _measured("chain", {}, x=ramp()).value
    return {"rel_l2": drift, "growth": drift / PUBLISHED_DRIFT}


def _block_scale() -> Numbers:
    drifts = []
    for scale in SCALES:
        block = seed_block()
        block[:4] = np.array([scale, 0.0], "<f2").view(np.uint8)
        drifts.append(_two_paths(block)[2])
    return {"rel_diff_min": min(drifts), "rel_diff_max": max(drifts), "factor": max(drifts) / min(drifts)}


def _softmax() -> Numbers:
    z = np.array([-1.5, 0.5, -0.8, 10.0, 1.2, -0.3, 0.7], np.float32)
    # A step of 0.0077 on one logit, as a share of the budget of the l1 model.
    step = 0.0077 / (PUBLISHED_DRIFT * float(np.abs(z.astype(np.float64)).sum()))
    direction = np.where(np.arange(7) == 3, step, 0).astype(np.float32)
    return {"amplification": _measured("softmax", {"n": 7, "perturbation": "l1"}, z=z, z_direction=direction).value}


def _rope(floor: float) -> Numbers:
    one = np.float32
    q = _float32(lambda i: (i - one(32)) * one(0.05) + np.mod(i, one(5)) * one(0.02), 64)
    k = _float32(lambda i: (i - one(32)) * one(0.04) + np.mod(i, one(7)) * one(0.015), 64)
    given = {"perturb": "q", "perturbation": "componentwise", "floor": floor}
    # q times 1.00077: every element moves away from zero.
    direction = np.where(q >= 0, one(1), one(-1))
    value = _measured("rope", given, q=q, k=k, q_direction=direction, positions=np.array([0, 1], np.int32)).value
    return {"amplification": value}


def _batch() -> Numbers:
    tokens = np.stack(
        [
            _float32(
                lambda i, k=k: (i - 128) * np.float32(0.05) + (np.mod(i, np.float32(7)) + k) * np.float32(0.01), 256
            )
            for k in range(7)
        ]
    )
    detail = _measured("batch", {"tokens": 7}, x=tokens).detail
    mean = detail["mean relative L2"]
    return {
        "mean_rel_l2": mean,
        "ratio_to_009": mean / _chain()["rel_l2"],
        "std_ratio_drift": detail["std ratio"] - 1,
    }


def _rmsnorm() -> Numbers:
    i = np.arange(256)
    direction = np.where((13 * i + 7) % 17 < 8, 1, -1).astype(np.float32)
    return {"amplification": _measured("rmsnorm", {}, x=ramp(), x_direction=direction).value}


ROWS = (
    Row(
        "FFN-GGUF-005",
        "the float32 matmul is not deterministic (128 to 512, 4 tokens)",
        "byte-identical: FALSIFIED",
        lambda: _matmul_twice(512, 17, 8, 31, 23, 11, 4),
        "matmul",
        {"kernel": "apr"},
    ),
    Row(
        "FFN-GGUF-005b",
        "the float32 matmul is not deterministic (128 to 64)",
        "byte-identical: FALSIFIED",
        lambda: _matmul_twice(64, 13, 6, 23, 19, 9, 1),
        "matmul",
        {"kernel": "apr"},
    ),
    Row(
        "FFN-GGUF-006",
        "the 8-lane FMA dot differs from the scalar left fold",
        "both 0x44191e70: FALSIFIED",
        _dot_order,
        "dot-order",
        {"n": 128},
        0.0,
    ),
    Row(
        "FFN-GGUF-007",
        "the two Q4_K dequantisers differ",
        "byte-identical: FALSIFIED",
        _two_dequantisers,
        "dequantize",
        {"format": "q4_K"},
    ),
    Row(
        "FFN-GGUF-008",
        "the two paths of one matvec differ by more than 0.077 %",
        "0.077 %: CONFIRMED",
        _matvec,
        "matvec",
        {"format": "q4_K", "n": 256},
        PUBLISHED_DRIFT,
    ),
    Row(
        "FFN-GGUF-009",
        "the drift grows more than linearly over 5 chained matvecs",
        "super-linear growth",
        _chain,
        "chain",
        {},
        5 * PUBLISHED_DRIFT,
    ),
    Row(
        "FFN-GGUF-010",
        "block-scale variance amplifies (dmin = 0, as published)",
        "factor 1.00: FALSIFIED",
        _block_scale,
        "block-scale",
        {"mins": False},
        AMPLIFIES,
    ),
    Row("FFN-GGUF-010", "", "", _block_scale, "block-scale", {"mins": True}, AMPLIFIES, variant="minimums searched"),
    Row(
        "FFN-GGUF-011",
        "softmax saturation amplifies (n = 7, |z| <= 10)",
        "0.0113x: FALSIFIED",
        _softmax,
        "softmax",
        {"n": 7, "max_abs": 10},
        AMPLIFIES,
    ),
    Row(
        "FFN-GGUF-012",
        "RoPE phase amplifies the score, relative above 1e-3",
        "1.00x: FALSIFIED",
        lambda: _rope(1e-3),
        "rope",
        {"perturb": "q", "floor": 1e-3},
        AMPLIFIES,
    ),
    Row(
        "FFN-GGUF-012",
        "",
        "",
        lambda: _rope(0.0),
        "rope",
        {"perturb": "q", "floor": 0},
        AMPLIFIES,
        variant="normalised score",
    ),
    Row(
        "FFN-GGUF-013",
        "a batch of 7 tokens amplifies the std-ratio",
        "std-ratio drift tens of times larger than per token",
        _batch,
        "batch",
        {"tokens": 7},
        AMPLIFIES,
    ),
    Row("FFN-GGUF-014", "real weights amplify", "5.56x: PARTIAL", dict),
    Row(
        "FFN-GGUF-015",
        "RMSNorm's reciprocal square root amplifies",
        "1.0000x: FALSIFIED",
        _rmsnorm,
        "rmsnorm",
        {},
        AMPLIFIES,
    ),
    Row("FFN-GGUF-015", "", "", _rmsnorm, "rmsnorm", {"gain": True}, AMPLIFIES, variant="with a gain, componentwise"),
    Row(
        "FFN-GGUF-015",
        "",
        "",
        _rmsnorm,
        "rmsnorm",
        {"gain": True, "perturbation": "normwise"},
        AMPLIFIES,
        variant="with a gain, normwise",
    ),
    Row("FFN-GGUF-016", "cumulative layers amplify (5 layers)", "0.029 % to 0.780 %", dict),
    Row("FFN-GGUF-017", "cumulative layers amplify (28 layers)", "0.030 % to 442 %", dict),
)


def settle(
    seconds: float,
    seed: int,
    *,
    corpus: Path | None,
    on_row: Callable[[Settled], None] | None = None,
) -> list[Settled]:
    """Reproduce every row and search it for ``seconds``; witnesses go to ``corpus`` unless it is None."""
    settled = []
    for row in ROWS:
        settled.append(_settle(row, seconds, seed, corpus))
        if on_row:
            on_row(settled[-1])
    return settled


def _settle(row: Row, seconds: float, seed: int, corpus: Path | None) -> Settled:
    reproduced = row.reproduce()
    if row.target is None:
        return Settled(row, reproduced, None, None)
    result = search(targets.get(row.target), row.params, seconds=seconds, seed=seed, limit=row.limit)
    saved = store.save(entry_of(result), corpus) if corpus is not None and result.case is not None else None
    return Settled(row, reproduced, result, saved)
