"""The built-in operations compute what they say, above all where public reports disagree about what that is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from diffuzz import formats, targets
from diffuzz.cases import draws
from diffuzz.formats import q8_0
from diffuzz.targets import attention, conv1d, embedding, gelu, layer_norm, matmat, moe_gate, silu, top_k
from diffuzz.targets.operation import Operation

OPERATIONS = {
    "add_rmsnorm", "attention", "batched_matmul", "conv1d", "cumsum", "embedding", "geglu", "gelu", "layer_norm",
    "log_softmax", "masked_softmax", "matmat", "mean_square", "moe_gate", "rmsnorm_gain", "silu", "sum", "top_k",
}  # fmt: skip


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """References are called in float64."""
    with jax.enable_x64(True):
        yield


def called(operation: Operation, *arrays: np.ndarray, **given: Any) -> np.ndarray:
    """The only result of the reference."""
    return np.asarray(operation.function(*arrays, **given))


def test_they_are_all_targets() -> None:
    """Each is found by its name, and judges functions."""
    assert set(targets.names()) >= OPERATIONS
    assert all(targets.get(name).contract is not None for name in OPERATIONS)


def plain_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, *, sinks: np.ndarray | None = None, mask: np.ndarray | None = None,
    causal: bool = False, window: int = 0, softcap: float = 0.0, scale: float = 0.0, window_beside: bool = False,
    softcap_first: bool = False, masked_rows: str = "any",
) -> np.ndarray:  # fmt: skip
    """Attention by its definition, one query and one key after another."""
    y = np.zeros(q.shape)
    s, t, d = q.shape[2], k.shape[2], q.shape[3]
    for b, h, i in np.ndindex(*q.shape[:3]):
        group, position = h // (q.shape[1] // k.shape[1]), t - s + i
        scores = []
        for j in range(t):
            score, factor = float(q[b, h, i] @ k[b, group, j]), scale or 1 / math.sqrt(d)
            if softcap and softcap_first:
                score = softcap * math.tanh(score / softcap)
            score *= factor
            if softcap and not softcap_first:
                score = softcap * math.tanh(score / softcap)
            score += 0.0 if mask is None else float(mask[b, i, j])
            too_late = causal and j > position
            too_early = window and j <= position - window - (1 if window_beside else 0)
            scores.append(-math.inf if too_late or too_early else score)
        sink = [] if sinks is None else [float(sinks[h])]
        top = max(scores + sink)
        if top == -math.inf:
            y[b, h, i] = 0.0 if masked_rows == "zero" else np.nan
            continue
        e = [math.exp(score - top) for score in scores]
        y[b, h, i] = np.array(e) @ v[b, group] / (sum(e) + sum(math.exp(one - top) for one in sink))
    return y


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"scale": 0.7},
        {"causal": True},
        {"causal": True, "window": 2},
        {"causal": True, "window": 2, "window_beside": True},
        {"window": 1},
        {"softcap": 1.5},
        {"softcap": 1.5, "softcap_first": True, "scale": 0.7},
        {"causal": True, "masked_rows": "zero"},
    ],
    ids=str,
)
@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize("with_mask", [False, True])
def test_attention_is_its_definition(given: dict[str, Any], with_sinks: bool, with_mask: bool) -> None:
    """Three queries at the end of five positions, two heads of q for each of k, with each argument and all kinds of
    masks: some keys, none, and all of a query.
    """
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal(shape) for shape in ((2, 4, 3, 8), (2, 2, 5, 8), (2, 2, 5, 8)))
    arrays: dict[str, np.ndarray] = {}
    if with_sinks:
        arrays["sinks"] = rng.standard_normal(4)
    if with_mask:
        arrays["mask"] = np.where(rng.random((2, 3, 5)) < 0.3, -np.inf, rng.standard_normal((2, 3, 5)))
        arrays["mask"][1, 1] = -np.inf
    expected = plain_attention(q, k, v, **arrays, **given)
    np.testing.assert_allclose(called(attention.TARGET, q, k, v, **arrays, **given), expected, rtol=1e-12, atol=1e-14)


def test_a_window_counts_the_own_key_unless_it_is_said_otherwise() -> None:
    """With equal scores the result is the mean of the values that are seen: of the last two, or the last three."""
    q, k, v = np.zeros((1, 1, 1, 8)), np.zeros((1, 1, 4, 8)), np.zeros((1, 1, 4, 8))
    v[0, 0, :, 0] = [1.0, 10.0, 100.0, 1000.0]
    for beside, expected in ((False, 550.0), (True, 370.0)):
        y = called(attention.TARGET, q, k, v, causal=True, window=2, window_beside=beside)
        assert expected == pytest.approx(y[0, 0, 0, 0])


@pytest.mark.parametrize(
    ("form", "at_one", "at_minus_three"),
    [
        ("erf", 0.8413447460685429, -0.004049694094890287),
        ("tanh", 0.8411919906082768, -0.003637392081773019),
        ("quick", 0.8457957659328212, -0.01807130970778597),
    ],
)
def test_gelu_has_three_formulas(form: str, at_one: float, at_minus_three: float) -> None:
    """Their values at 1 and -3, by mpmath, and those of the other way to compute each."""
    x = np.array([1.0, -3.0])
    for function in (gelu.TARGET.function, gelu.by_sums, gelu.in_base_two):
        np.testing.assert_allclose(np.asarray(function(x, form=form)), [at_one, at_minus_three], rtol=1e-10)


def arguments_of(name: str, rng: np.random.Generator) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Arrays that the references of forms are compared on."""
    if name == "matmat":
        return [rng.standard_normal((3, 64)), rng.standard_normal((2, 64))], {}
    if name == "layer_norm":
        return [5 * rng.standard_normal((2, 9)), rng.standard_normal(9), rng.standard_normal(9)], {}
    if name == "geglu":
        return [rng.standard_normal((2, 9)), rng.standard_normal((2, 9))], {}
    return [5 * rng.standard_normal((2, 9))], {}


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_forms_are_the_same_function(name: str) -> None:
    """Other formulas differ from the first by rounding only, for every choice of the parameters."""
    operation = __import__(f"diffuzz.targets.{name}", fromlist=["TARGET"]).TARGET
    choices = [{}, *({one.name: option} for one in operation.parameters for option in one.options)]
    for given in choices if operation.forms else []:
        if name == "matmat" and given:
            continue
        arrays, named = arguments_of(name, np.random.default_rng(2))
        exact = operation.function(*arrays, **named, **given)
        for form in operation.forms:
            for one, other in zip(
                jax.tree.leaves(exact), jax.tree.leaves(form(*arrays, **named, **given)), strict=True
            ):
                np.testing.assert_allclose(np.asarray(other), np.asarray(one), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("target", "policy"), [(layer_norm.TARGET, "one-pass"), (silu.TARGET, "tanh")])
def test_a_policy_allows_more_and_means_the_same(target: Operation, policy: str) -> None:
    """The result is that of the default but for rounding; the bound is never smaller by more than that, and far larger
    where the policy gives something up.
    """
    rng = np.random.default_rng(3)
    x = np.concatenate([100 + rng.standard_normal((1, 4, 16)), -30 + rng.standard_normal((1, 4, 16))])
    arrays = {"x": x.astype(np.float32), "gain": np.ones((2, 16), np.float32), "bias": np.zeros((2, 16), np.float32)}
    arrays["eps_exponent"] = np.zeros((2, 1), np.int32)
    contract = target.target.contract
    assert contract is not None
    used = {spec.name: arrays[spec.name] for spec in contract.space(target.target.contract_params({})).tensors}
    params = [target.target.contract_params(given) for given in ({}, {"policy": policy})]
    exact, other = (contract.exact(p, used) for p in params)
    assert contract.allowance is not None
    strict, lenient = (contract.allowance(p, used) for p in params)
    np.testing.assert_allclose(other, exact, rtol=1e-6)
    assert (lenient / strict).max() > 100


def test_top_k_and_moe_gate_take_any_of_equal_logits() -> None:
    """A tie may be broken either way, at the last place and within; a smaller logit is never right."""
    logits = np.array([[[3.0, 1.0, 3.0, 1.0, -120.0]]], np.float32)
    for target, weights in ((top_k.TARGET, [3.0, 3.0, 1.0]), (moe_gate.TARGET, None)):
        contract = target.target.contract
        assert contract is not None
        assert contract.settled is not None
        p = target.target.contract_params({"k": 3})
        exact = contract.exact(p, {"logits": logits})
        for indices, right in (([0, 2, 1], True), ([2, 0, 3], True), ([0, 1, 2], False), ([0, 2, 4], False)):
            got = exact.copy()
            got[0, 3:] = indices
            settled = contract.settled(p, {"logits": logits}, got)
            assert right == bool((settled == exact).all())
        if weights:
            assert weights == exact[0, :3].tolist()


def test_masked_logits_come_last_and_k_may_be_all_of_them() -> None:
    """The low end of the range means -inf; with k = n all are given, sorted."""
    contract = top_k.TARGET.target.contract
    assert contract is not None
    p = top_k.TARGET.target.contract_params({"k": 4})
    exact = contract.exact(p, {"logits": np.array([[[-120.0, 5.0, -7.0, 120.0]]], np.float32)})
    assert [120.0, 5.0, -7.0, -math.inf, 3, 1, 2, 0] == exact[0].tolist()


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 0), (1, 2), (3, 1)])
def test_conv1d_is_its_definition(stride: int, padding: int) -> None:
    """A sum over channels and taps at every stride-th place, with zeros beyond the ends; the kernel is not reversed."""
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((2, 3, 11)), rng.standard_normal((4, 3, 4))
    wide = np.pad(x, ((0, 0), (0, 0), (padding, padding)))
    places = range(0, wide.shape[2] - 3, stride)
    expected = np.stack([(wide[:, None, :, i : i + 4] * w).sum(axis=(2, 3)) for i in places], axis=2)
    np.testing.assert_allclose(called(conv1d.TARGET, x, w, stride=stride, padding=padding), expected, rtol=1e-12)


def test_ids_are_rows_of_the_table() -> None:
    """What functions are called with points into the table, whatever its size."""
    contract = embedding.TARGET.target.contract
    assert contract is not None
    p = embedding.TARGET.target.contract_params({})
    space, rng = contract.space(p), np.random.default_rng(5)
    for size in (1, 7, 300):
        made = space.resized({"v": size, "d": 3, "b": 4})
        given: list[tuple[np.ndarray, ...]] = []

        def keep(table: np.ndarray, ids: np.ndarray, given: list[Any] = given) -> np.ndarray:
            given.append((table, ids))
            return np.zeros(12)

        contract.call(p, keep, draws.structured(made, rng, 20))
        assert len(given) == 20
        assert all(ids.dtype == np.int32 and 0 <= ids.min() and ids.max() < len(table) for table, ids in given)


def test_matmat_quantises_tokens_as_the_format_does() -> None:
    """The numbers that codes and scales stand for are those of the format's own quantiser; a block of zeros stays."""
    rng = np.random.default_rng(6)
    x = (rng.standard_normal((3, 64)) * 10).astype(np.float32)
    x[1, :32] = 0
    fmt = formats.get("q8_0")
    stored = fmt.dequantize(q8_0.FORMAT.quantize(x.reshape(-1, 32)))  # type: ignore[misc]
    np.testing.assert_allclose(np.asarray(matmat.quantised(x.astype(np.float64), "q8_0")), stored.reshape(3, 64), 1e-6)
