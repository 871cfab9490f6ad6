"""Cases: exact bits, read-only, equal by content."""

from __future__ import annotations

import numpy as np
import pytest

from diffuzz.cases.case import Case, stack, unstack


def _case(**changes: np.ndarray) -> Case:
    return Case({"x": np.arange(3, dtype=np.float32), "position": np.array([7], np.int32)} | changes)


def test_arrays_are_copied_and_read_only() -> None:
    """Neither the caller's array nor the case's can change the case."""
    x = np.arange(3, dtype=np.float32)
    case = Case({"x": x})
    x[0] = 9
    assert case["x"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="read-only"):
        case["x"][0] = 9
    with pytest.raises(TypeError):
        case.arrays["y"] = x  # type: ignore[index]


def test_names_are_in_order() -> None:
    """The order in which arrays are given does not matter."""
    assert list(_case().arrays) == ["position", "x"]
    assert _case().digest == Case({"position": _case()["position"], "x": _case()["x"]}).digest


@pytest.mark.parametrize(
    "other",
    [
        {"x": np.array([0, 1, np.nextafter(np.float32(2), np.float32(3))], np.float32)},
        {"x": np.array([-0.0, 1, 2], np.float32)},
        {"x": np.arange(3, dtype=np.int32)},
        {"x": np.arange(3, dtype=np.float32).reshape(3, 1)},
        {"y": np.arange(3, dtype=np.float32)},
    ],
    ids=["one ULP", "sign of zero", "dtype", "shape", "another array"],
)
def test_equality_is_of_bits(other: dict[str, np.ndarray]) -> None:
    """Cases differ in digest, hash and == by one ULP, a signed zero, a dtype, a shape or a name."""
    assert _case() == _case()
    assert hash(_case()) == hash(_case())
    assert _case() != _case(**other)
    assert _case().digest != _case(**other).digest
    assert _case() != "a string"


def test_digest_is_stable() -> None:
    """The digest of a case names corpus files: it must never change."""
    expected = "ffa88247428aabc5a6aad61608eff54a7b077393409b4326508579dc1f8d347d"
    assert expected == _case().digest


def test_not_a_number_keeps_its_payload() -> None:
    """Two NaNs with different bits are different cases, one with the same bits the same."""
    bits = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    assert Case({"x": bits[:1]}) == Case({"x": bits[:1]})
    assert Case({"x": bits[:1]}) != Case({"x": bits[1:]})


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "bool", "object"])
def test_other_dtypes_are_rejected(dtype: str) -> None:
    """The message names the array, its dtype and what would be right."""
    with pytest.raises(ValueError, match=f"'x' has dtype {dtype}: a case holds float32, int32, uint8"):
        Case({"x": np.zeros(2, dtype)})


def test_replace() -> None:
    """Replacing an array leaves the others and the original alone."""
    case = _case()
    new = case.replace(x=np.ones(1, np.float32))
    assert new["x"].tolist() == [1]
    assert case["x"].tolist() == [0, 1, 2]
    assert new["position"].tolist() == [7]


def test_batches_round_trip() -> None:
    """Stacking cases and taking a row back gives the case; a batch of one is ``batch()``."""
    cases = [_case(), _case(x=np.array([4, 5, 6], np.float32))]
    batch = stack(cases)
    assert batch["x"].shape == (2, 3)
    assert cases == [unstack(batch, 0), unstack(batch, 1)]
    assert cases[0].batch()["x"].shape == (1, 3)
