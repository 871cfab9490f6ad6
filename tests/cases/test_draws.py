"""Batches drawn from a space are admissible, reproducible, and hold the structures that searches start from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from diffuzz import formats
from diffuzz.cases import draws, ranges
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.searching import moves

K = Dim("k", 512, step=256)
SPACE = Space(
    (
        TensorSpec("weights", kind="blocks", shape=(Dim("m", 1), K), format="q4_K", largest_scale=100.0),
        TensorSpec(
            "x",
            kind="activations",
            shape=(K,),
            low=-3.0,
            high=3.0,
            smallest_peak=0.1,
            quantiser="q8_K",
            against="weights",
        ),
        TensorSpec("x_direction", kind="direction", shape=(K,), low=-1.0, high=1.0, smallest_peak=2.0**-10),
        TensorSpec("gain", kind="gain", shape=(K,), low=0.1, high=7.0),
        TensorSpec("z", kind="logits", shape=(Dim("n", 5),), low=-10.0, high=10.0),
        TensorSpec("positions", kind="positions", shape=(Dim("p", 2),), low=0, high=1000),
    )
)
ROWS = 200


@pytest.mark.parametrize("draw", [draws.uniform, draws.structured])
def test_draws_are_admissible(draw: object) -> None:
    """Nearly every row is in the space, and every array has its dtype and largest shape."""
    batch = draw(SPACE, np.random.default_rng(0), ROWS)  # type: ignore[operator]
    for spec in SPACE.tensors:
        assert (batch[spec.name].shape, str(batch[spec.name].dtype)) == ((ROWS, *spec.array_shape()), spec.dtype)
    assert SPACE.admissible(batch).mean() > 0.95


@pytest.mark.parametrize("draw", [draws.uniform, draws.structured])
def test_equal_seeds_draw_equal_bits(draw: object) -> None:
    """A batch depends on nothing but the generator."""
    first, second = (draw(SPACE, np.random.default_rng(7), 20) for _ in range(2))  # type: ignore[operator]
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


def test_loud_ends_outweigh_the_rest_of_a_row() -> None:
    """The last of the numbers are the largest by far, and all stay in the space."""
    rng = np.random.default_rng(0)
    space = Space(tuple(spec for spec in SPACE.tensors if spec.name in ("x", "z")))
    batch = draws.structured(space, rng, ROWS)
    loud = draws.loud_ends(space, rng, batch)
    assert space.admissible(loud).all()
    x, z = np.abs(loud["x"]), loud["z"]
    # At most 64 elements are at the end, all of one size.
    rest = np.where(x == x[:, -1:], 0, x)
    assert (x[:, -1] > 2**3 * rest.max(axis=1)).all()
    assert (x == x[:, -1:]).sum(axis=1).max() <= 64
    assert (z[:, -1] == 10.0).all()
    assert (z[:, 0] <= -6.0).all()


def test_loud_ends_are_not_shifted() -> None:
    """An array that a case may lack is lacking: beside a large shift of all logits a sum has few digits left."""
    shift = TensorSpec("shift", kind="activations", shape=(Dim("row", 1, fixed=True),), low=-1e6, high=1e6, absent=0.0)
    space, rng = Space((SPACE["z"], shift)), np.random.default_rng(0)
    batch = draws.structured(space, rng, ROWS)
    assert batch["shift"].any()
    assert not draws.loud_ends(space, rng, batch)["shift"].any()


def test_structured_draws_have_few_levels() -> None:
    """A good share of structured vectors has at most eight distinct numbers, and some have one spike."""
    x = draws.structured(SPACE, np.random.default_rng(0), ROWS)["x"]
    levels = np.array([len(np.unique(row)) for row in x])
    spikes = [(np.unique(row, return_counts=True)[1] == 1).any() and len(np.unique(row)) == 2 for row in x]
    assert (levels <= 8).mean() > 0.4
    assert np.mean(spikes) > 0.05


def test_clip_stays_inside_in_float32() -> None:
    """A range whose ends are no float32 numbers is not left by rounding to one."""
    spec = TensorSpec("x", kind="activations", shape=(Dim("n", 3),), low=-0.1, high=0.1)
    clipped = ranges.clip(spec, np.array([[-1.0, np.nan, 1.0]]))
    assert (np.abs(clipped.astype(np.float64)) <= 0.1).all()
    assert clipped[0, 1] == 0


@pytest.mark.parametrize(
    ("spec", "function"), moves.moves(SPACE), ids=lambda value: getattr(value, "name", getattr(value, "__name__", ""))
)
def test_moves_stay_in_the_space(spec: TensorSpec, function: object) -> None:
    """Every move changes its own tensor only, keeps shape and dtype, and mostly stays admissible."""
    rng = np.random.default_rng(0)
    batch = draws.structured(SPACE, rng, ROWS)
    partner = draws.structured(SPACE, rng, ROWS)
    changed = {name: array.copy() for name, array in batch.items()}
    # As evolution does it: several calls, each for a group of rows.
    for group in np.split(np.arange(ROWS), ROWS // 2):
        part = {name: array[group[0] : group[-1] + 1] for name, array in changed.items()}
        moves.apply(function, moves.Move(spec, SPACE, part, lambda name, rows=group: partner[name][rows], rng))  # type: ignore[arg-type, misc]
    for name, array in batch.items():
        assert (changed[name].shape, changed[name].dtype) == (array.shape, array.dtype)
        assert name == spec.name or (changed[name] == array).all()
    assert (changed[spec.name] != batch[spec.name]).any()
    # Random bytes may be a scale field, too large or no number; levels may take all of x below its smallest peak.
    assert SPACE.admissible(changed).mean() > (0.7 if spec.kind == "blocks" else 0.8)


@pytest.mark.parametrize("draw", [draws.uniform, draws.structured])
def test_scales_that_are_powers_of_two_stay_in_the_space(draw: Callable[..., draws.Batch]) -> None:
    """Draws and moves of mxfp4 keep to the smallest scale, and reach it and the largest."""
    spec = TensorSpec("w", kind="blocks", shape=(Dim("k", 64, fixed=True),), format="mxfp4", smallest_scale=2.0**-24)
    space, rng, fmt = Space((spec,)), np.random.default_rng(0), formats.get("mxfp4")
    batch = draw(space, rng, ROWS)
    assert space.admissible(batch).all()
    scales = fmt.scales(batch["w"].reshape(-1, fmt.type_size))["d"]
    assert (2.0**-24, 2.0**15) == (scales.min(), scales.max())
    before = batch["w"].copy()
    for row in range(ROWS):
        part = {"w": batch["w"][row : row + 1]}
        moves.apply(moves._fields, moves.Move(spec, space, part, lambda name: batch[name], rng))
    assert space.admissible(batch).all()
    assert (batch["w"] != before).any(axis=1).mean() > 0.5


def _wide(peak: float = 0.0) -> TensorSpec:
    return TensorSpec("x", kind="activations", shape=(Dim("n", 33),), low=-1e5, high=1e5, smallest_peak=peak)


def _peaks(spec: TensorSpec, batch: draws.Batch) -> np.ndarray:
    """How many powers of two the rows lie below the end of their range; rows of zeros do not."""
    peak = np.abs(batch["x"].astype(np.float64)).max(axis=1)
    return np.asarray(-np.log2(np.where(peak > 0, peak / spec.high, 1.0)))


def test_rows_lie_far_down_where_a_space_admits_them() -> None:
    """Some rows as far as 2^-100 below the end, and as far as the smallest peak; none where that is a relative one."""
    for peak, furthest, share in ((0.0, 100.0, 0.02), (1e5 * 2.0**-24, 20.0, 0.02)):
        spec = _wide(peak)
        batch = draws.structured(Space((spec,)), np.random.default_rng(0), 2000)
        assert (_peaks(spec, batch) > furthest).mean() > share
        assert Space((spec,)).admissible(batch).mean() > 0.9
    relative = _wide(1e5 * 2.0**-20)
    assert draws.reach(relative) == 0
    near = draws.structured(Space((relative,)), np.random.default_rng(0), 2000)
    assert (_peaks(relative, near) > 21).mean() == 0


def test_a_stretch_may_be_as_long() -> None:
    """A move takes numbers from one end of a wide range far towards the other, both ways, and stays inside."""
    spec, rng = _wide(), np.random.default_rng(0)
    for start, seen in ((1e5, lambda x: x < 1e-20), (1e-25, lambda x: x > 1e-5)):
        x = np.full((400, 33), start, np.float32)
        moves.apply(moves._stretch, moves.Move(spec, Space((spec,)), {"x": x}, lambda name, x=x: x, rng))  # type: ignore[misc]
        assert seen(x).any(axis=1).mean() > 0.02
        assert Space((spec,)).admissible({"x": x}).all()


def test_scattered_numbers_are_all_different() -> None:
    """Every element is a number of its own, some rows fill the range, others ever smaller parts of it, and a space of
    relative measures is filled by all of them.
    """
    for peak, near in ((0.0, 0.33), (1e3, 1.0)):
        spec = _wide(peak)
        batch = draws.scattered(Space((spec,)), np.random.default_rng(0), 2000)
        assert min(len(np.unique(row)) for row in batch["x"]) > 30
        assert near - 0.05 < (_peaks(spec, batch) < 0.5).mean() < near + 0.05
        assert (_peaks(spec, batch) > 12).mean() == pytest.approx(0.33 if peak == 0 else 0, abs=0.05)


def test_positions_are_negative_where_they_may_be() -> None:
    """A third of them, ends, zero and the powers of two among them on both sides."""
    spec = TensorSpec("p", kind="positions", shape=(Dim("p", 1),), low=-100, high=1000)
    drawn = draws.structured(Space((spec,)), np.random.default_rng(0), 5000)["p"].ravel().tolist()
    assert {-100, -65, -64, -2, -1, 0, 1, 2, 64, 65, 512, 1000} <= set(drawn)
    assert -100 <= min(drawn) <= max(drawn) <= 1000
    assert np.mean(np.array(drawn) < 0) == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("format", ["mxfp4", "q8_K"])
def test_scales_beyond_f16(format: str) -> None:
    """Where a space admits all float32 scales, subnormal ones and those near the largest are drawn: every byte of
    mxfp4.
    """
    largest = float(np.finfo(np.float32).max)
    fmt = formats.get(format)
    size = Dim("n", fmt.block_size, fixed=True)
    space = Space((TensorSpec("w", kind="blocks", shape=(size,), format=format, largest_scale=largest),))
    batch = draws.structured(space, np.random.default_rng(0), 20000)
    assert space.admissible(batch).all()
    if format == "mxfp4":
        assert set(batch["w"][:, 0].tolist()) == set(range(256))
    d = np.abs(fmt.scales(batch["w"])["d"].astype(np.float64))
    assert ((d > 0) & (d < 2.0**-127)).any()
    assert (d > 2.0**126).any()
    assert (d == 0).any() or format == "mxfp4"


def test_midpoints_err_by_half_a_step_with_the_sign_of_the_weight() -> None:
    """The quantiser's move puts elements where ggml's quantiser is wrong by half a step, all in the weights' favour."""
    rng = np.random.default_rng(0)
    batch = draws.structured(SPACE, rng, ROWS)
    for row in range(ROWS):
        part = {name: array[row : row + 1] for name, array in batch.items()}
        moves.apply(moves._midpoints, moves.Move(SPACE["x"], SPACE, part, lambda name: batch[name], rng))
    x = batch["x"].astype(np.float64)
    fmt, q8 = formats.get("q4_K"), formats.get("q8_K")
    weights = fmt.dequantize(batch["weights"].reshape(-1, fmt.type_size)).reshape(ROWS, -1)
    assert q8.quantize is not None
    seen = q8.dequantize(q8.quantize(x.astype(np.float32).reshape(-1, 256))).reshape(ROWS, -1)
    step = np.repeat(np.abs(x).reshape(ROWS, -1, 256).max(axis=2) / 127, 256, axis=1)
    error = np.divide(x - seen, step, out=np.zeros_like(x), where=step > 0)
    half = np.abs(np.abs(error) - 0.5) < 1e-3
    agree = np.sign(error) == np.sign(weights + 0.0)
    best = [(half[i] & agree[i]).mean() for i in range(ROWS)]
    assert max(best) > 0.95


def test_an_array_that_may_be_absent_is_so_in_most_rows() -> None:
    """In seven of eight structured rows: what is in it must not hide what the others show."""
    row = (Dim("row", 1, fixed=True),)
    space = Space((TensorSpec("shift", kind="activations", shape=row, low=1.0, high=9.0, absent=0.0),))
    shift = draws.structured(space, np.random.default_rng(0), 4000)["shift"]
    assert abs((shift == 0).mean() - 7 / 8) < 0.02
