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

import attrs

from diffuzz import interruption, targets
from diffuzz.judging.verdict import judge
from diffuzz.searching.result import SearchResult
from diffuzz.searching.search import search
from diffuzz.studies.claims import model, reproductions
from diffuzz.studies.claims.reproductions import Figures
from diffuzz.targets.parameter import Params
from diffuzz.targets.published import PUBLISHED_DRIFT

# The threshold of the published claims: more than 5x is an amplification.
AMPLIFIES = 5.0
NO_MODEL = "UNRESOLVED: no model given"


@attrs.frozen
class Row:
    """One claim: what was published, how to reproduce it, and the search that settles it.

    id, claim, published   the published name, the claim in words, and the published figure and verdict
    reproduce              computes the figures of the published input; None for a variant
    target, params         what is searched; a row without a target is about a model
    threshold              the T of "value > T"; None for the default of the target
    variant                whether the row asks the claim before it in another measure or on another domain
    from_model(path)       computes the figures of a row about a model
    """

    id: str
    claim: str
    published: str
    reproduce: Callable[[], Figures] | None = None
    target: str | None = None
    params: Params = attrs.field(factory=dict)
    threshold: float | None = None
    variant: bool = attrs.field(default=False, kw_only=True)
    from_model: Callable[[Path], Figures] | None = attrs.field(default=None, kw_only=True)


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
    save: Callable[[SearchResult], Path | None] | None,
    model_path: Path | None = None,
    on_row: Callable[[Settled], None] | None = None,
) -> list[Settled]:
    """Reproduce every row, and search it for at most ``seconds``. If the user interrupts, return the finished rows.

    Args:
        seed: the random seed of each search.
        save: saves the witness of a search (see diffuzz.corpus.record.Keeper); None saves none.
        model_path: a GGUF file for the rows about a model, which stay unresolved without it.
        on_row: called with each finished row.

    Raises ModelError if the model cannot be used, before anything is searched.
    """
    if model_path is not None:
        # Checked before the searches, so that a wrong path does not cost their time.
        model.amplification(model_path, layer=3)
    settled = []
    for row in ROWS:
        try:
            done = _settled(row, seconds, seed, save, model_path)
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
    model_path: Path | None,
) -> Settled:
    interruption.check()
    if row.target is None:
        return _with_model(row, model_path)
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


def _with_model(row: Row, path: Path | None) -> Settled:
    if path is None or row.from_model is None:
        return Settled(row, {}, None, None, None, NO_MODEL)
    figures = row.from_model(path)
    if "amplification" in figures:
        found = float(figures["amplification"])
    else:
        found = float(figures["rel_diff_max"]) / PUBLISHED_DRIFT
    # One block and one input can only confirm the claim: without a bound, a small value decides nothing.
    verdict = judge(AMPLIFIES, found).value
    return Settled(row, figures, found, None, "|A - B| / |A| over 0.00077, one input", verdict)
