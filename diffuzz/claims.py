"""The published claims: each one reproduced to its published digits, then searched, bounded and judged.

A public pull request on an inference engine (paiml/aprender, #1545) asked which operation amplifies a drift of 0.077 %
between two ways to run one model, and decided each candidate by one input. Here each row is an experiment: the
published input again, the largest value that a search finds on the stated domain, the proven limit, and one of three
verdicts. Variants ask the same operation in another measure, or on a wider domain, where the answer differs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from diffuzz import corpus as store
from diffuzz import interruption, model, report, reproductions, targets
from diffuzz.published import PUBLISHED_DRIFT
from diffuzz.reproductions import Figures
from diffuzz.search import SearchResult, entry_of, search
from diffuzz.verdict import judge

# The chain's rule: more than 5x is an amplification.
AMPLIFIES = 5.0
NO_MODEL = "UNRESOLVED: no model given"


@attrs.frozen
class Row:
    """One claim: what was published, how to reproduce it, and the search that settles it.

    ``limit`` is the T of "more than T". A row without a target is about a model: ``from_model(path)`` computes it.
    """

    id: str
    claim: str
    published: str
    reproduce: Callable[[], Figures] | None = None
    target: str | None = None
    params: dict[str, Any] = attrs.field(factory=dict)
    limit: float | None = None
    variant: bool = attrs.field(default=False, kw_only=True)
    from_model: Callable[[Path], Figures] | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class Settled:
    """A row, the figures of its published input, what the search found, and the verdict with its witness."""

    row: Row
    reproduced: Figures
    found: float | None
    bound: float | None
    measure: str | None
    verdict: str
    witness: Path | None = None


ROWS = (
    Row(
        "FFN-GGUF-005", "the float32 matmul is not deterministic (128 to 512)", "byte-identical: FALSIFIED",
        reproductions.matmul, "matmul", {"kernel": "apr", "n": 128, "m": 512, "tokens": 4},
    ),
    Row(
        "FFN-GGUF-005b", "the float32 matmul is not deterministic (128 to 64)", "byte-identical: FALSIFIED",
        reproductions.small_matmul, "matmul", {"kernel": "apr", "n": 128, "m": 64, "tokens": 1},
    ),
    Row(
        "FFN-GGUF-006", "8-lane FMA and left-fold dot products differ (n = 128)", "equal bits: FALSIFIED",
        reproductions.dot_order, "dot-order", {"n": 128}, 0.0,
    ),
    Row(
        "FFN-GGUF-007", "the two Q4_K dequantisers differ", "byte-identical: FALSIFIED",
        reproductions.dequantisers, "dequantize", {"format": "q4_K"},
    ),
    Row(
        "FFN-GGUF-008", "the two paths of one matvec differ, by more than 0.077 %", "0.077 %: CONFIRMED",
        reproductions.matvec, "matvec", {"format": "q4_K", "n": 256}, PUBLISHED_DRIFT,
    ),
    Row(
        "FFN-GGUF-009", "over 5 matvecs the drift grows by more than 5x", "super-linear growth",
        reproductions.chain, "chain", {"steps": 5}, 5 * PUBLISHED_DRIFT,
    ),
    Row(
        "FFN-GGUF-010", "block scales change the drift by more than 5x (dmin = 0)", "1.00x: FALSIFIED",
        reproductions.block_scale, "block-scale", {"mins": False}, AMPLIFIES,
    ),
    Row(
        "FFN-GGUF-010", "the same, with minimums", "not looked at",
        None, "block-scale", {"mins": True}, AMPLIFIES, variant=True,
    ),
    Row(
        "FFN-GGUF-011", "softmax amplifies by more than 5x (n = 7, |z| <= 10)", "0.0113x: FALSIFIED",
        reproductions.softmax, "softmax", {"n": 7, "max_abs": 10}, AMPLIFIES,
    ),
    Row(
        "FFN-GGUF-012", "RoPE's score amplifies by more than 5x, relative to max(|s|, 1e-3 |q||k|)", "1.00x: FALSIFIED",
        reproductions.rope, "rope", {"perturb": "q", "floor": 1e-3}, AMPLIFIES,
    ),
    Row(
        "FFN-GGUF-012", "the same, relative to |q||k|", "1.00x: FALSIFIED",
        lambda: reproductions.rope(0.0), "rope", {"perturb": "q", "floor": 0}, AMPLIFIES, variant=True,
    ),
    Row(
        "FFN-GGUF-013", "a batch of 7 tokens moves the std-ratio by more than 5x", "more than per token",
        reproductions.batch, "batch", {"tokens": 7}, AMPLIFIES,
    ),
    Row(
        "FFN-GGUF-014", "a real weight block amplifies by more than 5x", "5.56x: PARTIAL",
        from_model=lambda path: model.amplification(path, layer=3),
    ),
    Row(
        "FFN-GGUF-015", "RMSNorm amplifies by more than 5x", "1.0000x: FALSIFIED",
        reproductions.rmsnorm, "rmsnorm", {}, AMPLIFIES,
    ),
    Row(
        "FFN-GGUF-015", "the same with a gain of 0.01 to 10, componentwise", "not looked at",
        None, "rmsnorm", {"gain": True}, AMPLIFIES, variant=True,
    ),
    Row(
        "FFN-GGUF-015", "the same with a gain of 0.01 to 10, normwise", "not looked at",
        None, "rmsnorm", {"gain": True, "perturbation": "normwise"}, AMPLIFIES, variant=True,
    ),
    Row(
        "FFN-GGUF-016", "some layer of the first 5 drifts by more than 5 x 0.077 %", "0.029 % to 0.780 %",
        from_model=lambda path: model.layers(path, 5),
    ),
    Row(
        "FFN-GGUF-017", "some layer of 28 drifts by more than 5 x 0.077 %", "0.030 % to 442 %",
        from_model=lambda path: model.layers(path, 28),
    ),
)  # fmt: skip


def settle(
    seconds: float,
    seed: int,
    *,
    corpus: Path | None,
    model_path: Path | None = None,
    on_row: Callable[[Settled], None] | None = None,
) -> list[Settled]:
    """Reproduce every row and search it for at most ``seconds``; the rows that are finished if the user interrupts.
    Witnesses go to ``corpus`` unless it is None.

    Rows about a model are computed from the GGUF file ``model_path``, or stay unresolved. Raises ModelError.
    """
    if model_path is not None:
        # Before the searches: a wrong path should not cost their time.
        model.amplification(model_path, layer=3)
    settled = []
    for row in ROWS:
        try:
            done = _settled(row, seconds, seed, corpus, model_path)
        except KeyboardInterrupt:
            break
        settled.append(done)
        if on_row:
            on_row(done)
    return settled


def _settled(row: Row, seconds: float, seed: int, corpus: Path | None, model_path: Path | None) -> Settled:
    interruption.check()
    if row.target is None:
        return _with_model(row, model_path)
    result = search(targets.get(row.target), row.params, seconds=seconds, seed=seed, limit=row.limit)
    if result.interrupted:
        # What a search found by then is no answer to the claim.
        raise KeyboardInterrupt
    return Settled(
        row,
        row.reproduce() if row.reproduce else {},
        result.value,
        None if result.bound is None else result.bound.value,
        result.measurement.measure,
        result.verdict.value,
        _saved(result, corpus),
    )


def _saved(result: SearchResult, corpus: Path | None) -> Path | None:
    if corpus is None or result.case is None:
        return None
    return store.save(entry_of(result), corpus)


def _with_model(row: Row, path: Path | None) -> Settled:
    if path is None or row.from_model is None:
        return Settled(row, {}, None, None, None, NO_MODEL)
    figures = row.from_model(path)
    found = figures.get("amplification", figures.get("rel_diff_max", 0.0) / PUBLISHED_DRIFT)
    # One block and one input can confirm; without a bound they decide nothing else.
    verdict = judge(AMPLIFIES, found).value
    return Settled(row, figures, found, None, "|A - B| / |A| over 0.00077, one input", verdict)


def as_json(settled: list[Settled]) -> dict[str, Any]:
    """``{"claims": [...], "variants": [...], "interrupted": false}``: the published rows, the same operations asked
    otherwise, and whether some are missing.
    """

    def rows(variant: bool) -> list[dict[str, Any]]:
        return [
            {
                "id": one.row.id,
                "claim": one.row.claim,
                "published": one.row.published,
                "reproduced": {name: _json_figure(value) for name, value in one.reproduced.items()},
                "found": None if one.found is None else report.json_number(one.found),
                "bound": None if one.bound is None else report.json_number(one.bound),
                "measure": one.measure,
                "verdict": one.verdict,
                "witness": str(one.witness) if one.witness else None,
            }
            for one in settled
            if one.row.variant is variant
        ]

    return {"claims": rows(False), "variants": rows(True), "interrupted": len(settled) < len(ROWS)}


def _json_figure(value: Any) -> Any:
    # A model's weights may be anything, and so the figures that are made of them.
    return report.json_number(value) if isinstance(value, float) else value
