"""Spaces: exactly the declared cases are admissible, and a rejection says where and why."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuzz import formats
from diffuzz.cases.case import Case, stack
from diffuzz.cases.space import Dim, InadmissibleError, Space, TensorSpec, block_scales

N = Dim("n", 8)
X = TensorSpec("x", kind="activations", shape=(N,), low=-2.0, high=2.0, smallest_peak=0.5)
DIRECTION = TensorSpec("x_direction", kind="direction", shape=(N,), low=-1.0, high=1.0)
POSITION = TensorSpec("position", kind="positions", shape=(Dim("one", 1, fixed=True),), low=0, high=9)
SPACE = Space((X, DIRECTION, POSITION))

K = Dim("k", 512, step=256)
WEIGHTS = TensorSpec("weights", kind="blocks", shape=(Dim("m", 2), K), format="q4_K", largest_scale=2.0)


def _case(**changes: object) -> Case:
    arrays: dict[str, object] = {"x": [1, -2, 0.25], "x_direction": [1, -1, 0], "position": [3]}
    dtypes = {"position": np.int32}
    return Case({name: np.asarray(value, dtypes.get(name, np.float32)) for name, value in (arrays | changes).items()})


def _blocks(m: int, blocks: int, d: float = 1.0, dmin: float = -2.0) -> np.ndarray:
    fmt = formats.get("q4_K")
    array = np.zeros((m * blocks, fmt.type_size), np.uint8)
    records = array.view(fmt.layout).reshape(-1)
    records["d"], records["dmin"] = d, dmin
    return array.reshape(m, blocks * fmt.type_size)


@pytest.mark.parametrize(
    ("dim", "good", "bad"),
    [
        (Dim("n", 8), [1, 5, 8], [0, 9]),
        (Dim("k", 512, step=256), [256, 512], [0, 128, 257, 768]),
        (Dim("d", 64, fixed=True), [64], [32, 65]),
    ],
)
def test_dimensions(dim: Dim, good: list[int], bad: list[int]) -> None:
    """Up to the size in steps, or exactly the size."""
    assert all(dim.admits(size) for size in good)
    assert not any(dim.admits(size) for size in bad)


def test_an_admissible_case() -> None:
    """Smaller than the largest shape, elements at the ends of their ranges."""
    SPACE.check(_case())
    assert SPACE.admits(_case())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": [1, 2.5, 0]}, r"x: element \(1,\) is 2.5, outside \[-2, 2\]"),
        ({"x": [1, np.nan, 0]}, r"x: element \(1,\) is not finite"),
        ({"x": [1, -np.inf, 0]}, r"x: element \(1,\) is not finite"),
        ({"x": [0.25, 0, 0]}, r"x: max\|x\| is below 0.5"),
        ({"x": [1] * 9, "x_direction": [1] * 9}, r"x: shape \(9,\) does not fit \(n<=8\)"),
        ({"x": [[1, 1, 1]]}, r"x: shape \(1, 3\) does not fit"),
        ({"x": []}, r"x: shape \(0,\) does not fit"),
        ({"x_direction": [1, 1]}, "x_direction: n=2, but another array of the case has n=3"),
        ({"position": [10]}, r"position: element \(0,\) is 10, outside \[0, 9\]"),
        ({"position": [1, 2]}, r"position: shape \(2,\) does not fit \(one=1\)"),
        ({"y": [1]}, r"the case has arrays \['position', 'x', 'x_direction', 'y'\]"),
    ],
)
def test_rejections(changes: dict[str, object], message: str) -> None:
    """One line that names the array, the place and the rule."""
    with pytest.raises(InadmissibleError, match=message) as error:
        SPACE.check(_case(**changes))
    assert "\n" not in str(error.value)
    assert not SPACE.admits(_case(**changes))


def test_a_missing_array_is_named() -> None:
    """The message lists what is there, what is needed and what is missing."""
    case = Case({"x": np.ones(3, np.float32)})
    with pytest.raises(InadmissibleError, match=r"missing: \['position', 'x_direction'\]"):
        SPACE.check(case)


def test_dtypes_are_checked() -> None:
    """An int32 array where float32 is needed has no value."""
    case = _case().replace(x=np.ones(3, np.int32))
    with pytest.raises(InadmissibleError, match="x: dtype int32, where float32 is needed"):
        SPACE.check(case)


def test_blocks_are_shaped_in_weights_and_held_in_bytes() -> None:
    """Two rows of 512 weights of q4_K are 2 x 288 bytes."""
    assert WEIGHTS.array_shape() == (2, 288)
    assert WEIGHTS.array_shape({"m": 1, "k": 256}) == (1, 144)
    assert WEIGHTS.sizes(_blocks(1, 2)) == {"m": 1, "k": 512}
    with pytest.raises(InadmissibleError, match="rows of 145 bytes are not whole q4_K blocks of 144"):
        WEIGHTS.sizes(np.zeros((1, 145), np.uint8))


def test_rows_and_blocks_share_dimensions() -> None:
    """A vector that meets the weights must have their k, counted in weights."""
    space = Space((WEIGHTS, TensorSpec("x", kind="activations", shape=(K,), low=-1.0, high=1.0)))
    good = Case({"weights": _blocks(1, 2), "x": np.ones(512, np.float32)})
    space.check(good)
    with pytest.raises(InadmissibleError, match="k=256, but another array of the case has k=512"):
        space.check(good.replace(x=np.ones(256, np.float32)))


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, 2.5, -2.5])
def test_block_scales_are_bounded(scale: float) -> None:
    """A scale or minimum that is not finite, or larger than the largest, is named with its block."""
    for field in ("d", "dmin"):
        blocks = _blocks(1, 2)
        blocks.reshape(-1, 144)[1:].view(formats.get("q4_K").layout)[field] = scale
        with pytest.raises(
            InadmissibleError, match=rf"weights: {field} of block 1 is .*, where \|{field}\| <= 2 is needed"
        ):
            WEIGHTS.check(blocks)


def test_smallest_scale() -> None:
    """With a smallest scale, smaller ones are named; admissible sees them as check does."""
    spec = TensorSpec("weights", kind="blocks", shape=(Dim("k", 64, step=32),), format="mxfp4", smallest_scale=0.25)
    blocks = np.zeros((3, 34), np.uint8)
    blocks[:, [0, 17]] = [[128, 126], [125, 128], [128, 0]]
    assert [True, False, False] == Space((spec,)).admissible({"weights": blocks}).tolist()
    spec.check(blocks[0])
    with pytest.raises(InadmissibleError, match=r"d of block 0 is 0\.125, where 0\.25 <= \|d\| <= 65504 is needed"):
        spec.check(blocks[1])


def test_block_scales_by_field() -> None:
    """Scale fields come out as float32, subnormal f16 numbers too."""
    scales = block_scales(formats.get("q4_K"), _blocks(1, 1, d=2.0**-24, dmin=-0.25))
    assert {name: values.tolist() for name, values in scales.items()} == {"d": [2.0**-24], "dmin": [-0.25]}


def test_elements_counts_the_largest_case() -> None:
    """Bytes of blocks and elements of the other arrays."""
    assert SPACE.elements == 8 + 8 + 1
    assert Space((WEIGHTS,)).elements == 2 * 288


def test_of_kind_keeps_the_order() -> None:
    """Tensors are found by one kind or several, and by name."""
    assert SPACE.of_kind("activations") == (X,)
    assert SPACE.of_kind("positions", "direction") == (DIRECTION, POSITION)
    assert SPACE["x"] is X
    with pytest.raises(KeyError):
        SPACE["y"]


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from([0.0, 0.25, -2.0, 2.0, 2.5, float("nan"), float("inf")]), min_size=3, max_size=3),
            st.sampled_from([0, 9, -1, 10]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_batches_are_judged_like_cases(rows: list[tuple[list[float], int]]) -> None:
    """``admissible`` of a batch says of each row what ``admits`` says of the case."""
    cases = [_case(x=x, position=[position]) for x, position in rows]
    assert [SPACE.admits(case) for case in cases] == SPACE.admissible(stack(cases)).tolist()


def test_batches_of_blocks_are_judged_like_cases() -> None:
    """A batch with a bad scale in one row."""
    space = Space((WEIGHTS,))
    cases = [Case({"weights": _blocks(2, 2, d=d)}) for d in (1.0, 3.0, np.nan)]
    assert [True, False, False] == space.admissible(stack(cases)).tolist() == [space.admits(case) for case in cases]
