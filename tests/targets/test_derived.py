"""Contracts that are derived from a reference: the error of a case does not depend on the batch that it is in."""

from __future__ import annotations

import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases import draws
from diffuzz.cases.ranges import held

DERIVED = [
    name
    for name in targets.names()
    if (contract := targets.get(name).contract) is not None and contract.results is not None
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", DERIVED)
def test_rows_are_independent(name: str, dtype: str) -> None:
    """A case has the same exact result and the same allowance in a batch as alone, to the bit."""
    contract = targets.get(name).contract
    assert contract is not None
    assert contract.allowance is not None
    params = targets.get(name).contract_params({"dtype": dtype})
    space, rng = contract.space(params), np.random.default_rng(1)
    for draw in (draws.structured, draws.scattered):
        batch = draw(space, rng, 8)
        together = contract.exact(params, batch), contract.allowance(params, batch)
        for row in range(8):
            alone = {key: array[row : row + 1] for key, array in batch.items()}
            for whole, one in zip(
                together, (contract.exact(params, alone), contract.allowance(params, alone)), strict=True
            ):
                np.testing.assert_array_equal(whole[row : row + 1], one)


def test_a_form_is_measured_from_the_exact_result() -> None:
    """Forms are evaluated in float64 too, each with its own rounding: at logits of 1e4 that of z - (max + log(sum)) is
    1e-12, which a number half way between two of bfloat16 shows.
    """
    target = targets.get("log_softmax")
    assert target.contract is not None
    params = target.contract_params({"dtype": "bfloat16"})
    assert target.contract.allowance is not None
    for height in range(8000, 8020):
        arrays = {"z": np.full((1, 1, 2), height, np.float32)}
        exact, allowed = target.contract.exact(params, arrays), target.contract.allowance(params, arrays)
        assert (np.abs(-0.6953125 - exact) <= allowed).all()


@pytest.mark.parametrize("name", ["top_k", "log_softmax", "masked_softmax", "moe_gate", "attention", "softmax"])
def test_a_dtype_without_infinities_has_no_masked_logits(name: str) -> None:
    """float8_e4m3fn would make them NaN, which no function could answer."""
    target = targets.get(name)
    assert target.contract is not None
    given = {"dtype": "float8_e4m3fn"} | ({"mask": True} if name == "attention" else {})
    params = target.contract_params(given)
    space = target.contract.space(params)
    seen: list[np.ndarray] = []

    def function(*arrays: np.ndarray, **_: object) -> np.ndarray:
        seen.extend(np.asarray(each, np.float32) for each in arrays)
        raise _SeenError

    arrays = draws.uniform(space, np.random.default_rng(0), 2)
    for spec in space.tensors:
        if spec.kind == "logits":
            arrays[spec.name][...] = held(spec.holds, np.full(1, spec.low, np.float32))
        elif spec.name == "shift":
            arrays[spec.name][...] = 0
    with pytest.raises(_SeenError):
        target.contract.call(params, function, arrays)
    assert seen
    assert all(np.isfinite(each).all() for each in seen)


class _SeenError(Exception):
    """The function has seen its arguments."""
