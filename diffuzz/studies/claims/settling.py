"""The published claims: each is reproduced to its published digits, then searched, bounded and judged.

A public pull request on an inference engine (paiml/aprender, #1545) asked which operation amplifies a drift of 0.077 %
between two ways to run one model, and decided the question for each operation by a single input. Here each row is an
experiment: the figures of the published input, the largest value that a search finds on the stated domain, the proven
bound, and one of three verdicts. A variant is the same operation in another measure, or on a wider domain, where the
answer differs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import interruption, targets
from diffuzz.judging.verdict import judge
from diffuzz.searching.result import SearchResult
from diffuzz.searching.search import search
from diffuzz.studies.claims import reproductions
from diffuzz.studies.claims.reproductions import Figures
from diffuzz.studies.claims.row import AMPLIFIES, Row
from diffuzz.targets.published import PUBLISHED_DRIFT
from diffuzz.telling import parts

if TYPE_CHECKING:
    from diffuzz.studies.claims.model import Subject

NO_MODEL = "UNRESOLVED: no model given"


@attrs.frozen
class Settled:
    """The result of a row: the figures of its published input, the largest value found, the bound, the measure in
    words, the verdict, and the file of the witness if one was saved.
    """

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
    ),
    Row(
        "FFN-GGUF-017", "some layer of 28 drifts by more than 5 x 0.077 %", "0.030 % to 442 %",
    ),
)  # fmt: skip


def rows(*, model: bool) -> tuple[Row, ...]:
    """The rows, in order. With a model, those about one ask it, and there are more of them."""
    if not model:
        return ROWS
    # What runs a model is loaded for whoever has one.
    from diffuzz.studies.claims import about_models

    names = {row.id for row in ROWS}
    found: list[Row] = []
    for row in ROWS:
        about = [one for one in about_models.ROWS if one.id == row.id]
        found += about if row.target is None else [row]
    return (*found, *(one for one in about_models.ROWS if one.id not in names))


def settle(
    seconds: float,
    seed: int,
    *,
    save: Callable[[SearchResult], Path | None] | None,
    subject: Subject | None = None,
    on_row: Callable[[Settled], None] | None = None,
) -> list[Settled]:
    """Reproduce every row, and search it for at most ``seconds``. If the user interrupts, return the finished rows.

    Args:
        seed: the random seed of each search.
        save: saves the witness of a search (see diffuzz.corpus.record.Keeper); None saves none.
        subject: a model for the rows about one, which stay unresolved without it.
        on_row: called with each finished row.
    """
    settled = []
    for row in parts(rows(model=subject is not None), "claims", lambda row: row.claim):
        try:
            done = _settled(row, seconds, seed, save, subject)
        except KeyboardInterrupt:
            break
        settled.append(done)
        if on_row:
            on_row(done)
    return settled


def _settled(
    row: Row,
    seconds: float,
    seed: int,
    save: Callable[[SearchResult], Path | None] | None,
    subject: Subject | None,
) -> Settled:
    interruption.check()
    if row.target is None:
        return _with_model(row, subject)
    result = search(targets.get(row.target), row.params, seconds=seconds, seed=seed, threshold=row.threshold)
    if result.interrupted:
        # The result of an unfinished search does not answer the claim.
        raise KeyboardInterrupt
    return Settled(
        row,
        row.reproduce() if row.reproduce else {},
        result.value,
        None if result.bound is None else result.bound.value,
        result.measurement.measure,
        result.verdict.value,
        None if save is None or result.case is None else save(result),
    )


def _with_model(row: Row, subject: Subject | None) -> Settled:
    if subject is None or row.from_model is None:
        return Settled(row, {}, None, None, None, NO_MODEL)
    # Weights may be anything: what is made of NaN is NaN, and confirms nothing.
    with np.errstate(all="ignore"):
        answer = row.from_model(subject)
    # One input, or one prompt, can only confirm a claim: without a bound, a small value decides nothing.
    verdict = judge(AMPLIFIES if row.threshold is None else row.threshold, answer.found, bound=answer.bound)
    bound = None if answer.bound is None else answer.bound.value
    return Settled(row, answer.figures, answer.found, bound, answer.measure, verdict.value)
