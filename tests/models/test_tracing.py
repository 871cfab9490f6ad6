"""Two runs held against each other: drift, noise, outputs, and attribution that adds up."""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np
import pytest

from diffuzz.models import architectures, checking, forward, random_model, running, tracing
from diffuzz.models.checking import Report, known
from diffuzz.models.dump import Dump
from diffuzz.models.engines import get
from diffuzz.models.model import Model, ModelError
from diffuzz.models.running import Opened
from diffuzz.models.sequence import of_tokens
from diffuzz.models.tracing import Attributed, Run, Trace, attribution, compare, drift, outputs

TOKENS = (5, 17, 42, 99, 7, 200)
CHECKED: dict[int, tuple[Dump, Report]] = {}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model."""
    file = tmp_path_factory.mktemp("tracing") / "qwen2.gguf"
    random_model.write(file, layers=2)
    return file


@pytest.fixture(scope="module")
def found(path: Path) -> Opened:
    """The model, opened."""
    return running.opened(path)


@pytest.fixture(autouse=True)
def checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks that were made already are not made again: most of the time of these tests."""
    check = checking.check

    def known_or_checked(model: Model, dump: Dump, *, seed: int = 0) -> Report:
        if id(dump) not in CHECKED:
            # The dump is kept, so that no other has its id.
            CHECKED[id(dump)] = (dump, check(model, dump, seed=seed))
        return CHECKED[id(dump)][1]

    monkeypatch.setattr(checking, "check", known_or_checked)


@pytest.fixture(scope="module")
def apr(path: Path) -> Dump:
    """A run in float32."""
    return get("apr")(path, TOKENS)


@pytest.fixture(scope="module")
def ggml(path: Path) -> Dump:
    """A run with 8-bit activations."""
    return get("ggml")(path, TOKENS)


@pytest.fixture(scope="module")
def traced(found: Opened, apr: Dump, ggml: Dump) -> Trace:
    """The two, compared."""
    return compare(found, Run("apr", apr), Run("ggml", ggml), attribute=True)


def with_fault(path: Path, engine: str, tap: str, factor: float) -> Dump:
    """A run in which the first number of each token of one tap was multiplied, and read so by what follows."""
    plain = get(engine)(path, TOKENS)
    wrong = plain.taps[tap].copy()
    wrong[:, 0] *= np.float32(factor)
    after = get(engine)(path, TOKENS, patch=attrs.evolve(plain, taps={tap: wrong}))
    return attrs.evolve(after, taps={**after.taps, tap: wrong})


def test_a_run_and_itself_are_the_same(found: Opened, ggml: Dump) -> None:
    """No drift at any tap, no distance of the outputs."""
    same = compare(found, Run("a", ggml), Run("b", ggml))
    assert same.same
    assert not same.wrong
    assert same.outputs is not None
    assert not same.outputs.kl.any()
    assert not same.outputs.flips.any()


def test_drift_is_by_token_and_tap(found: Opened, apr: Dump, ggml: Dump, traced: Trace) -> None:
    """The accumulated drift is the relative L2 of each token; scores count where they are seen."""
    by_tap = {each.step.tap: each for each in traced.drifts}
    assert set(apr.taps) == set(by_tap)
    a, b = (dump.taps["blk.1.down"].astype(np.float64) for dump in (apr, ggml))
    wanted = np.linalg.norm(b - a, axis=1) / np.linalg.norm(a, axis=1)
    np.testing.assert_allclose(by_tap["blk.1.down"].accumulated, wanted, rtol=1e-12)
    probs = by_tap["blk.1.probs"].accumulated
    assert 0 == probs[0]  # the first token sees itself only
    assert (probs[1:] > 0).all()


def test_isolated_drift_is_that_of_one_step(found: Opened, apr: Dump, traced: Trace) -> None:
    """On A's inputs float32 steps of B agree with A's, quantising ones differ, and nothing accumulates."""
    for each in traced.drifts:
        assert each.isolated is not None
        if each.step.op in ("attn_norm", "scores", "glu", "l_out"):
            assert each.isolated.max() < 1e-6
        if each.step.op in ("q", "down", "up", "logits"):
            assert 1e-4 < each.isolated.min() <= each.isolated.max() < 0.05


def test_isolation_by_an_engine_is_that_of_its_own_pass(path: Path, found: Opened, apr: Dump, traced: Trace) -> None:
    """A run of B with A's taps as a patch gives what our pass in B's arithmetic gives."""
    patched = get("ggml")(path, TOKENS, patch=apr)
    by_engine = drift.isolated_by(found, apr, patched)
    for each in traced.drifts:
        np.testing.assert_allclose(by_engine[each.step.tap], each.isolated, rtol=1e-3, atol=1e-6)


def test_the_floor_is_there_for_sides_that_quantise(traced: Trace) -> None:
    """Replicates of an 8-bit pass are apart by more than rounding makes; the drift to float32 is of that size."""
    a, b = traced.sides
    assert a.floor is None
    assert b.floor is not None
    assert (8, len(TOKENS)) == b.floor.taps["blk.1.l_out"].shape
    assert np.median(b.floor.taps["blk.1.l_out"]) > 1e-4
    assert traced.excess is not None
    assert 0.1 < traced.excess < 10


def test_the_floor_of_float32_runs_is_rounding(path: Path, found: Opened, apr: Dump) -> None:
    """Where neither side quantises, the floor is that of float32."""
    exact = get("exact")(path, TOKENS)
    both = compare(found, Run("exact", exact), Run("apr", apr))
    floor = both.floor_of("logits")
    assert floor is not None
    assert 1e-8 < floor.max() < 1e-5
    assert both.sides[0].floor is both.sides[1].floor


@pytest.mark.parametrize("tap", ["blk.1.up", "blk.0.attn"])
def test_the_wrong_side_is_named(path: Path, found: Opened, apr: Dump, tap: str) -> None:
    """A fault of B, a number off by 1 %, is found in B at its step, though runs differ by as much everywhere."""
    faulty = with_fault(path, "ggml", tap, 1.01)
    found_out = compare(found, Run("apr", apr), Run("faulty", faulty))
    a, b = found_out.sides
    assert not a.wrong
    assert b.wrong
    assert [tap] == [culprit.judged.span.last.tap for culprit in b.report.culprits if culprit.certain]


def test_massive_tokens_stand_apart(found: Opened, apr: Dump) -> None:
    """A token whose activations are a hundred times larger is marked at that tap."""
    large = apr.taps["blk.1.l_out"].copy()
    large[0] *= 100
    changed = attrs.evolve(apr, taps={**apr.taps, "blk.1.l_out": large})
    by_tap = {each.step.tap: each for each in drift.of_taps(found, changed, apr)}
    assert [0] == by_tap["blk.1.l_out"].massive.nonzero()[0].tolist()
    assert not by_tap["blk.0.l_out"].massive.any()


def test_only_like_is_compared_with_like(found: Opened, path: Path, apr: Dump) -> None:
    """Other tokens or positions, and runs without a common tap, are errors; what one run lacks is named."""
    other = get("apr")(path, (5, 17, 42, 99, 7, 201))
    with pytest.raises(ModelError, match="other tokens"):
        compare(found, Run("a", apr), Run("b", other))
    with pytest.raises(ModelError, match="no tap in common"):
        compare(
            found,
            Run("a", attrs.evolve(apr, taps={"embd": apr.taps["embd"]})),
            Run("b", attrs.evolve(apr, taps={"logits": apr.taps["logits"]})),
        )
    fewer = {tap: value for tap, value in apr.taps.items() if tap != "blk.1.q"}
    less = compare(found, Run("a", apr), Run("b", attrs.evolve(apr, taps=fewer)))
    assert ("blk.1.q",) == less.only


def test_taps_of_some_tokens_are_compared_where_both_have_them(found: Opened, apr: Dump, ggml: Dump) -> None:
    """NaN stands for a token that one of the runs does not have; outputs are of the tokens that both have."""
    last = np.array([2, 5], np.int32)
    pruned = attrs.evolve(
        ggml, taps={**ggml.taps, "logits": ggml.taps["logits"][last]}, rows={"logits": last}
    )  # fmt: skip
    some = compare(found, Run("a", apr), Run("b", pruned), attribute=True)
    assert [2, 5] == np.flatnonzero(~np.isnan(some.drifts[-1].accumulated)).tolist()
    assert (2, 5) == some.output_tokens
    assert isinstance(some.attributed, Attributed)
    assert some.attributed.own.shares.sum() == pytest.approx(1, abs=1e-9)
    assert [2, 5] == some.attributed.own.squares.sum(axis=0).nonzero()[0].tolist()


def test_outputs_by_hand() -> None:
    """KL, total variation, top-1 and margins of two distributions of three tokens."""
    p, q = np.array([[0.5, 0.25, 0.25]]), np.array([[0.25, 0.5, 0.25]])
    said = outputs.compare(np.log(p), np.log(q) + 3)
    assert said.kl[0] == pytest.approx(0.25 * np.log(2))
    assert said.variation[0] == pytest.approx(0.25)
    assert (0, 1, True) == (said.top_a[0], said.top_b[0], said.flips[0])
    assert said.margin_a[0] == pytest.approx(np.log(2))
    assert said.margin_b[0] == pytest.approx(np.log(2))
    same = outputs.compare(np.log(p), np.log(p))
    assert (0, False) == (same.kl[0], same.flips[0])
    assert same.margin_a[0] == pytest.approx(np.log(2))


def test_no_number_is_infinitely_far(found: Opened) -> None:
    """NaN beside a number is infinity, beside NaN nothing."""
    step = found.steps[0]
    a, b = np.ones((2, 3)), np.ones((2, 3))
    b[0, 1] = np.nan
    assert [np.inf, 0] == drift.relative(a, b, step, of_tokens([1, 2])).tolist()
    assert [0, 0] == drift.relative(b, b, step, of_tokens([1, 2])).tolist()
    assert [0, 0] == drift.relative(np.zeros((2, 3)), np.zeros((2, 3)), step, of_tokens([1, 2])).tolist()


def test_shares_add_up(found: Opened, ggml: Dump, traced: Trace) -> None:
    """Signed shares and energies are each 1 in all, of the whole drift and of each token's."""
    made = traced.attributed
    assert isinstance(made, Attributed)
    for each in (made.own, made.replica):
        assert each.shares.sum() == pytest.approx(1, abs=1e-6)
        assert each.energies.sum() == pytest.approx(1, abs=1e-12)
        np.testing.assert_allclose(each.shares_by_token.sum(axis=0), 1, atol=1e-6)
        assert sum(each.by(each.shares, "op").values()) == pytest.approx(1, abs=1e-6)
    exact = forward.taps_of(found.steps, of_tokens(TOKENS), "exact")["logits"]
    whole = np.linalg.norm(ggml.taps["logits"] - exact) / np.linalg.norm(exact)
    assert made.own.relative == pytest.approx(whole, rel=1e-9)


def test_a_share_is_what_finishing_exactly_gives(found: Opened, ggml: Dump, traced: Trace) -> None:
    """The share of one step, from two whole passes that are finished after it and before it."""
    assert isinstance(traced.attributed, Attributed)
    own = traced.attributed.own
    exact = forward.taps_of(found.steps, of_tokens(TOKENS), "exact")["logits"]
    place = next(i for i, step in enumerate(own.steps) if step.tap == "blk.1.v")

    def finished(last: str) -> np.ndarray:
        order = [step.tap for step in found.steps]
        kept = {tap: ggml.taps[tap] for tap in order[: order.index(last) + 1]}
        *_, (_, logits) = forward.run(found.steps, of_tokens(TOKENS), "exact", taps=kept)
        return logits

    difference = finished("blk.1.v") - finished(own.steps[place - 1].tap)
    np.testing.assert_allclose((difference**2).sum(axis=1), own.squares[place], rtol=1e-9)
    np.testing.assert_allclose((difference * (ggml.taps["logits"] - exact)).sum(axis=1), own.inner[place], rtol=1e-6,
                               atol=1e-9)  # fmt: skip


def test_attribution_in_pieces_is_the_same(
    found: Opened, ggml: Dump, traced: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many runs go through the model at once changes nothing but memory."""
    assert isinstance(traced.attributed, Attributed)
    monkeypatch.setattr(attribution, "_AT_ONCE", 5 * 8 * 512 * len(TOKENS))
    again = attribution.attribute(found, ggml)[0]
    np.testing.assert_allclose(traced.attributed.own.inner, again.inner, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(traced.attributed.own.squares, again.squares, rtol=1e-7, atol=1e-15)


def test_attribution_of_few_taps(found: Opened, ggml: Dump) -> None:
    """A dump of the outputs of layers: each has what its whole layer adds, and the shares add up."""
    few = {tap: value for tap, value in ggml.taps.items() if tap.endswith("l_out") or tap in ("embd", "logits")}
    own = attribution.attribute(found, attrs.evolve(ggml, taps=few))[0]
    assert [f"blk.{i}.l_out" for i in range(2)] + ["logits"] == [step.tap for step in own.steps]
    assert own.shares.sum() == pytest.approx(1, abs=1e-9)


def test_a_planted_error_has_all_of_the_drift(path: Path, found: Opened) -> None:
    """In a float32 run with one wrong step, that step's share and energy are 1."""
    own = attribution.attribute(found, with_fault(path, "apr", "blk.0.down", 1.5))[0]
    place = next(i for i, step in enumerate(own.steps) if step.tap == "blk.0.down")
    assert own.shares[place] == pytest.approx(1, abs=1e-3)
    assert own.energies[place] == pytest.approx(1, abs=1e-3)


def test_what_cannot_be_attributed_is_said(found: Opened, apr: Dump, ggml: Dump) -> None:
    """Without logits, and with something that is no number."""
    without = {tap: value for tap, value in ggml.taps.items() if tap != "logits"}
    with pytest.raises(ModelError, match="attribution needs the logits of the run, which the dump does not have"):
        attribution.attribute(found, attrs.evolve(ggml, taps=without))
    broken = ggml.taps["blk.1.up"].copy()
    broken[3, 7] = np.nan
    said = compare(found, Run("a", apr), Run("b", attrs.evolve(ggml, taps={**ggml.taps, "blk.1.up": broken})),
                   attribute=True)  # fmt: skip
    assert isinstance(said.attributed, str)
    assert said.attributed.startswith("blk.1.up has something that is no number")
    assert said.sides[1].wrong


def test_an_exact_run_has_no_drift(path: Path, found: Opened) -> None:
    """Nothing to attribute, and no division by zero."""
    own = attribution.attribute(found, get("exact")(path, TOKENS))[0]
    assert own.relative < 1e-14


def test_decoding_steps_are_compared(found: Opened, path: Path) -> None:
    """Runs over tokens that follow others in a cache."""

    def decoded(engine: str) -> Dump:
        whole = get(engine)(path, TOKENS)
        steps = architectures.steps(found.model, past=True)
        where = attrs.evolve(of_tokens(TOKENS[4:]), positions=np.array([4, 5], np.int32), past=4)
        past = {}
        for layer in range(2):
            past[f"blk.{layer}.k_past"] = whole.taps[f"blk.{layer}.k_rope"][:4]
            past[f"blk.{layer}.v_past"] = whole.taps[f"blk.{layer}.v"][:4]
        taps = {step.tap: made for step, made in forward.run(steps, where, engine, taps=past)}
        np.testing.assert_allclose(taps["logits"], whole.taps["logits"][4:], rtol=1e-2, atol=0.1)
        return attrs.evolve(whole, tokens=where.tokens, positions=where.positions, taps={**taps, **past})

    a, b = decoded("apr"), decoded("ggml")
    both = compare(found, Run("a", a), Run("b", b), attribute=True)
    assert not both.wrong
    assert known.names(a) - {tap for tap in a.taps if tap.endswith("past")} == {each.step.tap for each in both.drifts}
    assert isinstance(both.attributed, Attributed)
    assert both.attributed.own.shares.sum() == pytest.approx(1, abs=1e-6)


def test_a_run_is_compared_with_more_cached_tokens_only_if_both_have_them(found: Opened, apr: Dump) -> None:
    """Caches of different lengths are no like for like."""
    past = {"blk.0.k_past": np.zeros((2, 128), np.float32), "blk.0.v_past": np.zeros((2, 128), np.float32)}
    cached = attrs.evolve(apr, taps={**apr.taps, **past})
    with pytest.raises(ModelError, match="caches"):
        tracing.compare(found, Run("a", apr), Run("b", cached))
