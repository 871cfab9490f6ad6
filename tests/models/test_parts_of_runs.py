"""Dumps of a part of a run: a step of decoding after a cache, and taps that are there for some tokens only. A planted
fault is named, and right runs are not flagged.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np
import pytest

from diffuzz.models import architectures, checking, model, random_model, sequence
from diffuzz.models.dump import Dump
from diffuzz.models.model import Model
from diffuzz.studies.faults import engines, faults, running

TOKENS = sequence.of_tokens([5, 17, 99, 200, 31, 77, 150, 8])
PAST = 5
# Tokens whose logits were asked for.
ASKED = np.array([2, 7], np.int32)
F32, Q8 = engines.DESCRIBED[:2]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("parts") / "small.gguf"
    random_model.write(path, layers=3)
    return model.open(path)


def ran(small: Model, engine: engines.Engine, tap: str | None = None, fault: str = "") -> dict[str, np.ndarray]:
    """All taps of a run, with a fault in one step."""
    steps = architectures.steps(small)
    kinds = {each.name: each for each in faults.FAULTS}
    planted = {} if tap is None else {tap: (kinds[fault], np.random.default_rng(0))}
    made = running.run(steps, TOKENS, engine, running.prepared(steps), faults=planted)
    assert made is not None
    return dict(made.taps)


def decoding(small: Model, engine: engines.Engine, taps: dict[str, np.ndarray]) -> Dump:
    """The last tokens, with what the cache held of those before."""
    some = slice(PAST, None)
    kept = {tap: made[:, some] if tap.endswith(("scores", "probs")) else made[some] for tap, made in taps.items()}
    for layer in range(3):
        kept[f"blk.{layer}.k_past"] = taps[f"blk.{layer}.k_rope"][:PAST]
        kept[f"blk.{layer}.v_past"] = taps[f"blk.{layer}.v"][:PAST]
    whole = running.dump(small, TOKENS, engine, kept, running.ALL, 0)
    return attrs.evolve(whole, tokens=TOKENS.tokens[some], positions=TOKENS.positions[some])


def pruned(small: Model, engine: engines.Engine, taps: dict[str, np.ndarray]) -> Dump:
    """The last layer, from the output of attention on, for some tokens only."""
    order = [step.tap for step in architectures.steps(small)]
    late = order[order.index("blk.2.attn_out") :]
    kept = taps | {tap: taps[tap][ASKED] for tap in late}
    whole = running.dump(small, TOKENS, engine, kept, running.ALL, 0)
    return attrs.evolve(whole, rows=dict.fromkeys(late, ASKED))


@pytest.mark.parametrize("part", [decoding, pruned])
@pytest.mark.parametrize("engine", [F32, Q8, engines.builds(Q8, 1)[1], engines.DESCRIBED[3], engines.UNUSUAL[1]])
def test_right_runs_are_not_flagged(
    small: Model, part: Callable[[Model, engines.Engine, dict[str, np.ndarray]], Dump], engine: engines.Engine
) -> None:
    """All steps are judged, and none is suspect."""
    report = checking.check(small, part(small, engine, ran(small, engine)))
    assert [] == [(each.judged.span.last.tap, each.because) for each in report.culprits]
    assert report.checked == report.steps


@pytest.mark.parametrize(
    ("tap", "fault"),
    [
        ("blk.1.k", "bias missing"),
        ("blk.0.q_rope", "one pair not rotated"),
        ("blk.2.scores", "heads read other keys or values"),
        ("blk.1.attn", "tile not written"),
        ("blk.0.ffn_norm", "eps a tenth"),
        ("blk.1.gate", "last element of a sum lost"),
        ("logits", "weight row of another row"),
    ],
)
@pytest.mark.parametrize("engine", [F32, Q8])
def test_a_fault_after_a_cache_is_named(small: Model, engine: engines.Engine, tap: str, fault: str) -> None:
    """The step, and no other."""
    report = checking.check(small, decoding(small, engine, ran(small, engine, tap, fault)))
    assert [tap] == [each.judged.span.last.tap for each in report.culprits]


@pytest.mark.parametrize(
    ("tap", "fault"),
    [
        ("blk.2.attn", "tile not written"),
        ("blk.2.attn_out", "last element of a sum lost"),
        ("blk.2.ffn_inp", "residual twice"),
        ("blk.2.ffn_norm", "tile not written"),
        ("blk.2.up", "codes of a row one too high"),
        ("blk.2.glu", "x sigmoid(1.702 x)"),
        ("final_norm", "tile not written"),
        ("logits", "weight row of another row"),
    ],
)
@pytest.mark.parametrize("engine", [F32, Q8])
def test_a_fault_of_some_tokens_is_named(small: Model, engine: engines.Engine, tap: str, fault: str) -> None:
    """Also where the step is the only one of its op for which few tokens are there."""
    report = checking.check(small, pruned(small, engine, ran(small, engine, tap, fault)))
    assert [tap] == [each.judged.span.last.tap for each in report.culprits]


def test_a_wrong_cache_is_no_fault_of_this_step_but_a_stale_one_is(small: Model) -> None:
    """Scores are held against the keys that the dump says were in the cache."""
    taps = ran(small, F32)
    right = decoding(small, F32, taps)
    stale = right.taps["blk.1.k_past"].copy()
    stale[3] = stale[2]
    report = checking.check(small, attrs.evolve(right, taps={**right.taps, "blk.1.k_past": stale}))
    assert ["blk.1.scores"] == [each.judged.span.last.tap for each in report.culprits]
    assert report.culprits[0].certain
