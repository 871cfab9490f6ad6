"""Arrays as JSON: exact to the bit, and nothing taken on trust."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from diffuzz.cases import encoding
from diffuzz.cases.encoding import EncodingError, decode, encode, hex_float, parse_hex_float

SHAPES = npst.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=6)


def _bits(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    return str(array.dtype), array.shape, array.tobytes()


def _arrays() -> st.SearchStrategy[np.ndarray]:
    floats = npst.arrays(np.uint32, SHAPES).map(lambda bits: bits.view(np.float32))
    finite = floats.map(lambda array: np.where(np.isfinite(array), array, np.float32(-0.0)))
    return st.one_of(finite, npst.arrays(np.uint8, SHAPES), npst.arrays(np.int32, SHAPES))


@given(_arrays())
def test_round_trip(array: np.ndarray) -> None:
    """Any array comes back from its JSON text with the same dtype, shape and bits."""
    assert _bits(decode(json.loads(json.dumps(encode(array))))) == _bits(array)


@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, 2.0**-149, -(2.0**-126)]), min_size=1, max_size=300))
def test_round_trip_of_runs(values: list[float]) -> None:
    """Runs, the two zeros and subnormal numbers keep their bits, sparse or dense."""
    array = np.array(values, np.float32)
    assert _bits(decode(encode(array))) == _bits(array)


@pytest.mark.parametrize(
    ("array", "fields"),
    [
        (np.zeros(1000, np.float32), {"fill", "elements"}),
        (np.arange(1000, dtype=np.float32), {"base64"}),
        (np.arange(1000, dtype=np.int32), {"base64"}),
        (np.arange(144, dtype=np.uint8)[None], {"hex"}),
        (np.zeros((2, 144), np.uint8), {"fill", "elements"}),
    ],
)
def test_the_readable_form_is_chosen(array: np.ndarray, fields: set[str]) -> None:
    """Sparse while that is short, rows of hex for bytes, base64 for the rest."""
    assert {"dtype", "shape"} | fields == set(encode(array))


def test_sparse_is_what_a_person_reads() -> None:
    """The commonest value is the fill; the others are named by index or run."""
    array = np.full(12, 10, np.float32)
    array[3], array[5:9] = -0.5, 0.0
    assert encode(array) == {
        "dtype": "float32",
        "shape": [12],
        "fill": "0x1.4p+3",
        "elements": {"3": "-0x1p-1", "5:9": "0x0p+0"},
    }


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_hex_float_round_trip(value: float) -> None:
    """Every finite float64 comes back with its sign and bits."""
    back = parse_hex_float(hex_float(value))
    assert (value, math.copysign(1, value)) == (back, math.copysign(1, back))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.5",
        "0x1p",
        "0x1p+",
        "inf",
        "nan",
        "0x1p+99999",
        "0x1p+9999",
        "0X1P+3",
        " 0x1p+3",
        "0x1p+3\n",
        "٠x1p+3",
        3,
        None,
    ],
)
def test_bad_hex_floats(text: Any) -> None:
    """Anything but a finite number in our own notation is refused."""
    with pytest.raises(EncodingError):
        parse_hex_float(text)


def _float(**fields: Any) -> dict[str, Any]:
    return {"dtype": "float32", "shape": [4], "fill": "0x0p+0", "elements": {}} | fields


def _bytes(**fields: Any) -> dict[str, Any]:
    return {"dtype": "uint8", "shape": [2, 2], "hex": ["0001", "ff0a"]} | fields


def _dense(text: Any, **fields: Any) -> dict[str, Any]:
    return {"dtype": "float32", "shape": [2], "base64": text} | fields


HOSTILE: list[Any] = [
    None,
    [],
    "float32",
    {},
    _float(dtype="float64"),
    _float(dtype="object"),
    _float(dtype=["float32"]),
    _float(dtype={}),
    _float(shape=[]),
    _float(shape=[1] * 9),
    _float(shape=[-4]),
    _float(shape=[0]),
    _float(shape=[True]),
    _float(shape=[4.0]),
    _float(shape=["4"]),
    _float(shape="4"),
    _float(shape=None),
    _float(shape=[2**62]),
    _float(shape=[2**12, 2**12, 2**12, 2**12]),
    _float(shape=[10**4000] * 4),
    _float(fill=0),
    _float(fill=None),
    _float(fill="0x1p+128"),
    _float(fill="0x1.0000001p+0"),
    _float(fill="0x1p-150"),
    _float(elements=[]),
    _float(elements={"4": "0x1p+0"}),
    _float(elements={"0:5": "0x1p+0"}),
    _float(elements={"-1": "0x1p+0"}),
    _float(elements={"00": "0x1p+0"}),
    _float(elements={"1_0": "0x1p+0"}),
    _float(elements={"²": "0x1p+0"}),
    _float(elements={"": "0x1p+0"}),
    _float(elements={"2:2": "0x1p+0"}),
    _float(elements={"3:1": "0x1p+0"}),
    _float(elements={"0:3": "0x1p+0", "2": "0x0p+0"}),
    _float(elements={"2": "0x1p+0", "1": "0x1p+0"}),
    _float(elements={"9" * 5000: "0x1p+0"}),
    _float(elements={"1": 1}),
    _float(elements={"1": "inf"}),
    _float(unknown=1),
    _float(hex=[]),
    {"dtype": "float32", "shape": [4]},
    {"dtype": "float32", "shape": [1], "hex": ["00000000"]},
    _bytes(hex=["0001"]),
    _bytes(hex=["0001", "ff"]),
    _bytes(hex=["0001", "FF0A"]),
    _bytes(hex=["0001", "zz0a"]),
    _bytes(hex=["0001", 65290]),
    _bytes(hex="0001ff0a"),
    {"dtype": "uint8", "shape": [4], "fill": 256, "elements": {}},
    {"dtype": "uint8", "shape": [4], "fill": -1, "elements": {}},
    {"dtype": "uint8", "shape": [4], "fill": True, "elements": {}},
    {"dtype": "uint8", "shape": [4], "fill": 1.0, "elements": {}},
    {"dtype": "int32", "shape": [4], "fill": 0, "elements": {"1": 2**31}},
    {"dtype": "int32", "shape": [4], "fill": 0, "elements": {"1": 10**4000}},
    _dense(None),
    _dense(""),
    _dense("AAAAAAAAAAAA"),
    _dense("AAAAAAAAAA=="),
    _dense("AAAAAAAAA==="),
    _dense("AAAA AAAAAA="),
    _dense("AAAAAAAAAAé="),
    _dense(base64.b64encode(np.array([np.nan, 0], np.float32).tobytes()).decode()),
    _dense(base64.b64encode(np.array([np.inf, 0], np.float32).tobytes()).decode()),
]


@pytest.mark.parametrize("stored", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_arrays(stored: Any) -> None:
    """Whatever does not give every element exactly once is an EncodingError."""
    with pytest.raises(EncodingError):
        decode(stored)


def test_the_hostile_ones_are_near_misses() -> None:
    """What the hostile arrays were made from is accepted."""
    assert decode(_float()).tolist() == [0, 0, 0, 0]
    assert decode(_bytes()).tolist() == [[0, 1], [255, 10]]
    assert decode(_dense("AAAAAAAAAAA=")).tolist() == [0, 0]


def test_a_size_is_refused_before_it_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few characters cannot ask for gigabytes."""

    def refuse(*arguments: Any) -> Any:
        raise AssertionError("allocated")

    monkeypatch.setattr(np, "full", refuse)
    with pytest.raises(EncodingError, match="more than 16777216"):
        decode(_float(shape=[encoding.LARGEST_ELEMENTS // 2, 3]))
