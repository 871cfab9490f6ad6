"""Planted faults are named, right runs are not flagged, and what is counted is counted right."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import numpy as np
import pytest

from diffuzz.cli.main import main
from diffuzz.models import architectures, checking, model, random_model, sequence
from diffuzz.models.model import Model
from diffuzz.models.operations.embedding import Embedding
from diffuzz.studies.faults import baselines, engines, faults, running, scoring
from diffuzz.studies.faults.running import ALL, HALF, LEVELS, OUTPUTS, SIX

TOKENS = sequence.of_tokens([5, 17, 99, 200, 31, 77, 150])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A random model of two layers."""
    path = tmp_path_factory.mktemp("faults") / "small.gguf"
    random_model.write(path, layers=3)
    return model.open(path)


def test_every_kind_of_fault_is_somewhere(tmp_path: Path) -> None:
    """Every kind can be planted in some step of one of the architectures, and their names are different."""
    there: set[str] = set()
    for architecture in ("qwen2", "gemma3"):
        random_model.write(tmp_path / f"{architecture}.gguf", architecture=architecture)
        steps = architectures.steps(model.open(tmp_path / f"{architecture}.gguf"))
        there |= {fault.name for fault in faults.FAULTS if faults.places(fault, steps)}
        if architecture == "qwen2":
            assert not any(isinstance(step.operation, Embedding) and step.operation.scale != 1 for step in steps)
    assert {fault.name for fault in faults.FAULTS} == there
    assert len(there) == len(faults.FAULTS) >= 60


def test_a_right_engine_is_the_forward_pass(small: Model) -> None:
    """The simulated f32 engine is within float32 of the exact pass."""
    from diffuzz.models import forward

    steps = architectures.steps(small)
    made = running.run(steps, TOKENS, engines.DESCRIBED[0], running.prepared(steps))
    assert made is not None
    exact = forward.taps_of(steps, TOKENS, "exact")["logits"]
    assert np.linalg.norm(made.taps["logits"] - exact) < 3e-6 * np.linalg.norm(exact)


def test_a_fault_changes_its_tap_and_nothing_before(small: Model) -> None:
    """Taps before the faulty step are those of the right run, the faulty one and the logits are not."""
    steps = architectures.steps(small)
    weights = running.prepared(steps)
    right = running.run(steps, TOKENS, engines.DESCRIBED[0], weights)
    fault = next(each for each in faults.FAULTS if each.name == "bias missing")
    assert right is not None
    wrong = running.run(
        steps, TOKENS, engines.DESCRIBED[0], weights, before=right.taps,
        faults={"blk.1.k": (fault, np.random.default_rng(0))},
    )  # fmt: skip
    assert wrong is not None
    changed = [step.tap for step in steps if not np.array_equal(wrong.taps[step.tap], right.taps[step.tap])]
    assert changed[0] == "blk.1.k"
    assert "logits" in changed
    assert wrong.effect > 0.1


def test_levels_dump_what_they_say(small: Model) -> None:
    """f16 taps are f16, six taps are six a layer and what is outside, outputs are outputs and logits."""
    steps = architectures.steps(small)
    made = running.run(steps, TOKENS, engines.DESCRIBED[0], running.prepared(steps))
    assert made is not None
    dumps = {level: running.dump(small, TOKENS, engines.DESCRIBED[0], made.taps, level, 0).taps for level in LEVELS}
    assert len(dumps[ALL]) == len(steps)
    assert {array.dtype for array in dumps[HALF].values()} == {np.dtype(np.float16)}
    assert len(dumps[SIX]) == 6 * 3 + 3
    assert sorted(dumps[OUTPUTS]) == ["blk.0.l_out", "blk.1.l_out", "blk.2.l_out", "logits"]


@pytest.mark.parametrize("level", LEVELS)
def test_right_runs_are_not_flagged(small: Model, level: str) -> None:
    """Builds of two described engines, an unusual one, and one that is not described."""
    steps = architectures.steps(small)
    weights = running.prepared(steps)
    for engine in (
        engines.DESCRIBED[0],
        engines.builds(engines.DESCRIBED[1], 0)[1],
        engines.UNUSUAL[1],
        engines.UNDESCRIBED[1],
    ):
        made = running.run(steps, TOKENS, engine, weights)
        assert made is not None
        report = checking.check(small, running.dump(small, TOKENS, engine, made.taps, level, 0))
        assert report.culprits == ()


@pytest.mark.parametrize("tap", ["blk.0.q", "blk.1.attn", "blk.2.l_out"])
@pytest.mark.parametrize("value", ["a NaN", "an infinity"])
def test_only_the_step_that_makes_it_is_named_for_a_nan(small: Model, tap: str, value: str) -> None:
    """Not those that read it."""
    steps = architectures.steps(small)
    fault = next(each for each in faults.FAULTS if each.name == value)
    made = running.run(
        steps, TOKENS, engines.DESCRIBED[1], running.prepared(steps), faults={tap: (fault, np.random.default_rng(1))}
    )
    assert made is not None
    report = checking.check(small, running.dump(small, TOKENS, engines.DESCRIBED[1], made.taps, ALL, 0))
    assert [each.judged.span.last.tap for each in report.culprits] == [tap]
    assert report.culprits[0].certain


@pytest.mark.quality
def test_most_faults_are_named_at_every_level(small: Model) -> None:
    """A few dozen faults, one after another, in two engines."""
    settings = tuple(
        attrs.evolve(setting, engines=setting.engines[:1]) for setting in scoring.SETTINGS if setting.faults == 1
    )
    rows = list(scoring.score(small, count=4, seed=3, settings=settings))
    rates = scoring.rates(rows, settings)
    assert [rate.setting for rate in rates] == list(settings)
    assert all(rate.flagged == 0 and rate.controls == 4 for rate in rates)
    assert sum(rate.named for rate in rates) >= 0.85 * sum(rate.planted for rate in rates)


def test_a_missing_name_counts_against_the_mark() -> None:
    """98 of 100 is what 0.98 asks for, and one flagged control is one too many."""
    setting = scoring.SETTINGS[0]

    def rows(named: int, flagged: int) -> list[scoring.Row]:
        none = dict.fromkeys(baselines.METHODS, False)
        wrong = [
            scoring.Row(setting.name, "", ("f",), ("logits",), 1.0, 1.0, 0.0, (), index < named, none, 0.0)
            for index in range(100)
        ]
        right = [
            scoring.Row(setting.name, "", (), (), 0.0, 0.0, 0.0, (), index >= flagged, {}, 0.0) for index in range(5)
        ]
        return wrong + right

    assert scoring.rates(rows(98, 0))[0].met
    assert not scoring.rates(rows(97, 0))[0].met
    assert not scoring.rates(rows(98, 1))[0].met


def test_others_blame_the_first_tap_that_is_far(small: Model) -> None:
    """A tap off by a tenth is beyond 1e-3 and 5e-4, and its cosine is not."""
    steps = architectures.steps(small)[:3]
    healthy = {step.tap: np.ones((2, 4)) for step in steps}
    got = healthy | {steps[1].tap: healthy[steps[1].tap] * np.array([1.1, 0.9, 1.1, 0.9])}
    blamed = baselines.blamed(steps, got, healthy)
    assert blamed == {
        "relative > 1e-3": steps[1].tap, "NMSE > 5e-4": steps[1].tap, "cosine < 0.99": None,
        "largest jump": steps[1].tap,
    }  # fmt: skip


def test_the_command_prints_rates(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One level and engine, two faults: a JSON object with the rate and every run."""
    setting = next(each for each in scoring.SETTINGS if each.level == SIX)
    monkeypatch.setattr(scoring, "SETTINGS", (attrs.evolve(setting, engines=setting.engines[:1]),))
    with pytest.raises(SystemExit) as left:
        main(["bench", "faults", "--faults", "2", "--level", "six taps", "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [rate["setting"] for rate in found["settings"]] == ["six taps a layer"]
    assert len(found["rows"]) == found["settings"][0]["planted"] + found["settings"][0]["controls"]
    assert left.value.code == (0 if found["met"] else 1)


def test_faults_are_named_with_all_taps(small: Model) -> None:
    """A dozen, one after another, in one engine."""
    settings = (attrs.evolve(scoring.SETTINGS[0], engines=engines.DESCRIBED[1:2]),)
    (rate,) = scoring.rates(list(scoring.score(small, count=12, seed=3, settings=settings)), settings)
    assert rate.met
    assert rate.planted >= 9


@pytest.mark.quality
@pytest.mark.slow
def test_marks_are_met(tmp_path: Path) -> None:
    """Sixteen faults of each setting, on the random qwen2 model. Of arithmetics that nobody knows, which are so
    few here that one more or less decides about the mark, most have to be named, and none of the right runs.
    """
    random_model.write(tmp_path / "qwen2.gguf")
    rates = scoring.rates(list(scoring.score(model.open(tmp_path / "qwen2.gguf"), count=16, seed=0)))
    assert [rate.setting.name for rate in rates if not rate.met and "unknown" not in rate.setting.name] == []
    (other,) = (rate for rate in rates if "unknown" in rate.setting.name)
    assert other.flagged == 0
    assert 2 * other.named > other.planted
