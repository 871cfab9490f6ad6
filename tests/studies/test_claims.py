"""The published claims: figures to the published digits and bits, verdicts that a search or a proof decides."""

from __future__ import annotations

import json

import numpy as np
import pytest

from diffuzz.cli.claims import claims_json, claims_text
from diffuzz.corpus import files
from diffuzz.corpus.record import Keeper
from diffuzz.studies.claims import reproductions, settling


def rounded(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"


def test_both_matmuls_are_identical() -> None:
    """FFN-GGUF-005, 005b: byte-identical."""
    assert reproductions.matmul() == {"identical": True}
    assert reproductions.small_matmul() == {"identical": True}


def test_dot_orders_give_the_published_bits() -> None:
    """FFN-GGUF-006: both 0x44191e70."""
    assert reproductions.dot_order() == {"bits_scalar": "0x44191e70", "bits_simd": "0x44191e70"}


def test_dequantisers_are_identical() -> None:
    """FFN-GGUF-007: byte-identical."""
    assert reproductions.dequantisers() == {"identical": True}


def test_matvec_gives_the_published_bits() -> None:
    """FFN-GGUF-008: -18882.443, -18897.059, 0.077 %."""
    found = reproductions.matvec()
    assert (found["path_a_bits"], found["path_b_bits"]) == ("0xc69384e3", "0xc693a21e")
    assert rounded(100 * found["rel_diff"], 3) == "0.077"


def test_chain_grows_as_the_decomposition_says() -> None:
    """FFN-GGUF-009: 5.70 is the factor that the published decomposition gives to the chain."""
    found = reproductions.chain()
    assert rounded(found["growth"], 2) == "5.70"
    assert found["growth"] == found["rel_l2"] / 0.00077


def test_block_scale_gives_the_published_factor() -> None:
    """FFN-GGUF-010: 0.0919 % at each scale to 1e-6, factor 1.00."""
    found = reproductions.block_scale()
    assert rounded(100 * found["rel_diff_min"], 4) == "0.0919"
    assert found["rel_diff_max"] == pytest.approx(0.000919, abs=1.1e-6)
    assert rounded(found["factor"], 2) == "1.00"


def test_smooth_operations_give_the_published_amplifications() -> None:
    """FFN-GGUF-011, 012, 015: 0.0113x, 1.00x, 1.0000x."""
    assert rounded(reproductions.softmax()["amplification"], 4) == "0.0113"
    assert rounded(reproductions.rope()["amplification"], 2) == "1.00"
    assert rounded(reproductions.rmsnorm()["amplification"], 4) == "1.0000"


def test_batch_is_below_the_chain_but_its_statistic_is_not() -> None:
    """FFN-GGUF-013: less per token than 009, a std-ratio drift tens of times the drift of one matvec."""
    found = reproductions.batch()
    assert found["ratio_to_009"] < 1
    assert found["mean_rel_l2"] == pytest.approx(found["ratio_to_009"] * reproductions.chain()["rel_l2"])
    assert 10 < found["std_ratio_drift"] / 0.00077 < 100


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> list[settling.Settled]:
    return settling.settle(1.0, 0, save=Keeper(tmp_path_factory.mktemp("corpus")))


VERDICTS = {
    "FFN-GGUF-005": "FALSIFIED",
    "FFN-GGUF-005b": "FALSIFIED",
    "FFN-GGUF-006": "CONFIRMED",
    "FFN-GGUF-007": "FALSIFIED",
    "FFN-GGUF-008": "CONFIRMED",
    "FFN-GGUF-009": "CONFIRMED",
    "FFN-GGUF-010": "FALSIFIED",
    "FFN-GGUF-011": "CONFIRMED",
    "FFN-GGUF-012": "CONFIRMED",
    "FFN-GGUF-013": "CONFIRMED",
    "FFN-GGUF-014": settling.NO_MODEL,
    "FFN-GGUF-015": "FALSIFIED",
    "FFN-GGUF-016": settling.NO_MODEL,
    "FFN-GGUF-017": settling.NO_MODEL,
}


def test_verdicts(settled: list[settling.Settled]) -> None:
    """Every row is settled by a witness or a proof; what needs a model says so."""
    assert {one.row.id: one.verdict for one in settled if not one.row.variant} == VERDICTS


def test_variants_differ_where_the_measure_or_the_domain_does(settled: list[settling.Settled]) -> None:
    """Minimums amplify where scales do not; a normalised score does not; a gain does normwise only."""
    variants = [(one.row.id, one.verdict) for one in settled if one.row.variant]
    assert variants == [
        ("FFN-GGUF-010", "CONFIRMED"),
        ("FFN-GGUF-012", "FALSIFIED"),
        ("FFN-GGUF-015", "FALSIFIED"),
        ("FFN-GGUF-015", "CONFIRMED"),
    ]


def test_softmax_comes_within_one_percent_of_its_limit(settled: list[settling.Settled]) -> None:
    """The claim that one input had falsified at 0.0113x is confirmed next to the limit 35, by a witness that loads."""
    row = next(one for one in settled if one.row.id == "FFN-GGUF-011")
    assert row.bound == 35
    assert row.found is not None
    assert 0.99 * 35 <= row.found <= 35
    assert row.witness is not None
    assert files.load(row.witness).value == row.found


def test_json(settled: list[settling.Settled]) -> None:
    """The JSON has the fields of the contract, once for each published row, and is JSON."""
    stored = json.loads(json.dumps(claims_json(settled), allow_nan=False))
    assert [claim["id"] for claim in stored["claims"]] == list(VERDICTS)
    assert stored["interrupted"] is False
    fields = {"id", "claim", "published", "reproduced", "found", "bound", "measure", "verdict", "witness"}
    assert all(set(claim) == fields for claim in stored["claims"] + stored["variants"])


def test_any_figure_is_json() -> None:
    """NaN and infinity of a model are strings, like everywhere."""
    row = settling.ROWS[0]
    one = settling.Settled(
        row, {"a": np.nan, "same": True, "bits": "0x0", "layers": 2}, np.inf, np.nan, None, "CONFIRMED"
    )
    stored = json.loads(json.dumps(claims_json([one]), allow_nan=False))["claims"][0]
    assert (stored["reproduced"], stored["found"], stored["bound"]) == (
        {"a": "nan", "same": True, "bits": "0x0", "layers": 2}, "inf", "nan",
    )  # fmt: skip


def test_table(settled: list[settling.Settled]) -> None:
    """The table has a line for every row and its verdict."""
    text = claims_text(settled)
    assert all(one.row.id.removeprefix("FFN-GGUF-") in text and one.verdict in text for one in settled)
