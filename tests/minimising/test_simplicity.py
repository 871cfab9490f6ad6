"""The cost of a case: what a reader would call simpler is cheaper."""

from __future__ import annotations

import numpy as np
import pytest

from diffuzz import formats
from diffuzz.cases import parts as case_parts
from diffuzz.cases.parts import Part
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.minimising import simplicity

VECTOR = Part("x", "x", ("n",), np.dtype(np.float32), -12.0, 12.0)


def cost(*numbers: float) -> float:
    return float(simplicity.part_cost(VECTOR, np.array([numbers], np.float32))[0])


@pytest.mark.parametrize(
    ("simple", "other"),
    [
        ((5, 5, 5, 3, 3), (5, 3, 5, 3, 5)),
        ((1, 1, -1, -1), (1, 1, 2, 2)),
        ((2, 2, 1, 1), (-2, -2, -1, -1)),
        ((5, 5, 5, 3), (5, 5, 3, 1)),
        ((1, 1, 0, 0), (1, 1, 3, 3)),
        ((0.1, 0.1), (1 / 3, 1 / 3)),
        ((12, 12), (11, 11)),
        ((1, 1), (1024, 1024)),
        ((5, 5), (5, 5, 5, 5)),
        ((0.0, 1.0), (-0.0, 1.0)),
        ((1, 0, 0, 0), (1, 1, 0, 0)),
    ],
    ids=[
        "runs",
        "sign",
        "minus",
        "levels",
        "zero",
        "decimal",
        "end of range",
        "exponent",
        "shape",
        "negative zero",
        "few others",
    ],
)
def test_what_reads_simpler_costs_less(simple: tuple[float, ...], other: tuple[float, ...]) -> None:
    """Fewer runs, levels, magnitudes, digits and elements cost less, each by itself."""
    assert cost(*simple) < cost(*other)


def test_cost_is_what_the_docstring_says() -> None:
    """Two runs, two levels, one minus, one magnitude that is an end of the range, log2 of eight elements, and an eighth
    of log2(1 + 3): three elements are not the commonest.
    """
    expected = 2 + 2 + 1 / 8 + (1 + 1) + 3 + 2 / 8
    assert expected == pytest.approx(cost(12, 12, 12, -12, -12, -12, -12, -12))


def test_rows_are_independent() -> None:
    """The cost of a row is the same alone and in a batch."""
    rng = np.random.default_rng(0)
    batch = np.round(rng.standard_normal((20, 30)) * 3).astype(np.float32)
    expected = [simplicity.part_cost(VECTOR, row[None])[0] for row in batch]
    assert expected == simplicity.part_cost(VECTOR, batch).tolist()


@pytest.mark.parametrize(("number", "bits"), [(0, 0), (1, 1), (-1, 1), (12, 1), (3, 2.125), (0.1, 3.8219), (7, 3.25)])
def test_complexity(number: float, bits: float) -> None:
    """Binary digits, or decimal ones where they are fewer, and an eighth of the exponent."""
    assert bits == pytest.approx(float(simplicity.complexity(np.array([number], np.float32), VECTOR)[0]), abs=1e-4)


def test_complexity_of_extreme_floats_is_finite() -> None:
    """Subnormals and the largest float32 are just numbers with long exponents."""
    numbers = np.array([np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max, 3e-39], np.float32)
    assert np.isfinite(simplicity.complexity(numbers, VECTOR)).all()


def test_blocks_are_read_by_their_fields() -> None:
    """``join`` undoes ``split`` for random blocks, and every field of the format is a part."""
    rows, cols = Dim("m", 2, fixed=True), Dim("k", 512, step=256)
    spec = TensorSpec("weights", kind="blocks", shape=(rows, cols), format="q4_K")
    x = TensorSpec("x", kind="activations", shape=(cols,), low=-1.0, high=1.0)
    parts = case_parts.parts_of(Space((spec, x)))
    rng = np.random.default_rng(0)
    fmt = formats.get("q4_K")
    blocks = rng.integers(0, 256, (3 * 2 * 2, fmt.type_size), dtype=np.uint8)
    batch = {"weights": blocks.reshape(3, 2, -1), "x": rng.random((3, 512)).astype(np.float32)}
    values = case_parts.split(parts, batch)
    assert {f"weights.{field}" for field in fmt.unpack(blocks)} | {"x"} == set(values)
    joined = case_parts.join(parts, values)
    assert batch.keys() == joined.keys()
    for name, array in batch.items():
        np.testing.assert_array_equal(array, joined[name])
        assert array.dtype == joined[name].dtype


def test_scales_are_fitted_to_what_is_stored() -> None:
    """A part that is a scale field holds what its format holds: f16 numbers, or powers of two in the space's range."""
    numbers = np.array([-3.0, 0.0, 0.1, 1e9])
    for format, expected in (("q4_0", [-3.0, 0.0, float(np.float16(0.1)), 65504.0]), ("mxfp4", [0.5, 0.5, 0.5, 2**15])):
        least = 0.5 if format == "mxfp4" else 0.0
        spec = TensorSpec("w", kind="blocks", shape=(Dim("k", 32),), format=format, smallest_scale=least)
        part = next(part for part in case_parts.parts_of(Space((spec,))) if part.name == "w.d")
        assert expected == part.fit(numbers).tolist()


def test_case_cost_is_the_sum_of_its_parts() -> None:
    """Arrays add up."""
    n = Dim("n", 4)
    specs = [TensorSpec(name, kind="activations", shape=(n,), low=-12.0, high=12.0) for name in "ab"]
    a, b = np.array([1, 1, 2, 2], np.float32), np.array([5, 5, 5, 5], np.float32)
    assert cost(*a) + cost(*b) == pytest.approx(simplicity.case_cost(Space(tuple(specs)), {"a": a, "b": b}))


def test_an_array_that_may_be_absent_costs_nothing_where_it_is() -> None:
    """ "z = 120" is simpler than "z = 0" with a shift of all logits: a reader does not see what is absent."""
    row = (Dim("row", 1, fixed=True),)
    shift = TensorSpec("shift", kind="activations", shape=row, low=-1e6, high=1e6, absent=0.0)
    space = Space((TensorSpec("z", kind="logits", shape=row, low=-120.0, high=120.0), shift))

    def cost_of(z: float, shift: float) -> float:
        arrays = {"z": np.array([z], np.float32), "shift": np.array([shift], np.float32)}
        return simplicity.case_cost(space, arrays)

    assert cost_of(120, 0) < cost_of(0, 1e6)
    assert cost_of(0, 0) == simplicity.case_cost(Space(space.tensors[:1]), {"z": np.zeros(1, np.float32)})
