"""Dequantisation: the published block, equal bits on every format, the contract of a candidate."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from diffuzz import formats, targets
from diffuzz.cases import draws
from diffuzz.cases.case import Case
from diffuzz.judging.problem import evaluate, open_problem
from diffuzz.judging.question import Judge
from diffuzz.judging.verdict import Verdict, judge
from diffuzz.targets import dequantize

DEQUANTIZE = targets.get("dequantize")


def _seed_block() -> np.ndarray:
    """The published Q4_K block: d = 1, dmin = -0.25, bytes that count in steps of 7 and 13."""
    block = np.zeros(144, np.uint8)
    block[:4] = 0x00, 0x3C, 0x00, 0xB4
    block[4:16] = (7 * np.arange(12) + 3) % 256
    block[16:] = (13 * np.arange(128) + 17) % 256
    return block


def test_published_block() -> None:
    """FFN-GGUF-007: byte-identical; elements 0 and 255 are the published 10.75 and 1.25."""
    block = _seed_block()
    values = formats.get("q4_K").dequantize(block[None])[0]
    assert (values[0], values[255]) == (10.75, 1.25)
    assert evaluate(DEQUANTIZE, DEQUANTIZE.params(), Case({"blocks": block})).value == 0.0


@pytest.mark.parametrize("name", formats.names())
def test_equal_bits_on_every_format(name: str) -> None:
    """Random and structured blocks agree, and the bound of 0 falsifies the claim."""
    params = DEQUANTIZE.params({"format": name})
    space, rng = DEQUANTIZE.space(params), np.random.default_rng(0)
    for draw in (draws.uniform, draws.structured):
        batch = draw(space, rng, 200)
        kept = {"blocks": batch["blocks"][space.admissible(batch)]}
        assert not DEQUANTIZE.question.evaluate(params, kept).value.any()
    proven = name not in dequantize.ORDERED
    assert judge(0.0, 0.0, 0.0, DEQUANTIZE.bound(params)) is (Verdict.FALSIFIED if proven else Verdict.UNRESOLVED)


@pytest.mark.parametrize("name", [name for name in formats.names() if name not in dequantize.ORDERED])
def test_the_result_is_the_nearest_float32(name: str) -> None:
    """The step of the proof: one rounding of the exact weight, so that fused or reordered products agree."""
    params = DEQUANTIZE.params({"format": name})
    space, rng = DEQUANTIZE.space(params), np.random.default_rng(1)
    blocks = np.concatenate([draw(space, rng, 300)["blocks"] for draw in (draws.uniform, draws.structured)])
    blocks = blocks[space.admissible({"blocks": blocks})]
    parts = formats.get(name).decode(blocks)
    weights = parts.d.astype(np.float64)[:, None] * parts.sub_scale * parts.code
    if parts.dmin is not None:
        weights -= parts.dmin.astype(np.float64)[:, None] * parts.sub_minimum
    nearest = weights.astype(np.float32)
    assert np.array_equal(nearest, formats.get(name).dequantize(blocks))


def test_elements_that_differ_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three elements off by one ULP and one by two: four elements, at most two ULP."""

    def off(name: str, blocks: np.ndarray) -> np.ndarray:
        values = formats.get(name).dequantize(blocks)
        up = np.nextafter(values, np.float32(np.inf))
        values[:, :3], values[:, 7] = up[:, :3], np.nextafter(up[:, 7], np.float32(np.inf))
        return values

    monkeypatch.setattr(dequantize.apr, "dequantize", off)
    measured = evaluate(DEQUANTIZE, DEQUANTIZE.params(), Case({"blocks": _seed_block()}))
    assert (measured.value, measured.evidence.as_dict()["largest ulp"]) == (4.0, 2.0)


def test_two_products_in_either_order() -> None:
    """In nvfp4_two_level d (s q) is as right as (d s) q, and neither is a product with s rounded to a power of two."""
    fmt = formats.get("nvfp4_two_level")

    def other_order(name: str, blocks: np.ndarray) -> np.ndarray:
        parts = fmt.decode(blocks)
        with np.errstate(all="ignore"):
            return parts.d[:, None] * (parts.sub_scale * parts.code)

    def e8m0(name: str, blocks: np.ndarray) -> np.ndarray:
        parts = fmt.decode(blocks)
        power = np.where(parts.sub_scale > 0, 2.0 ** np.floor(np.log2(np.maximum(parts.sub_scale, 2.0**-9))), 0)
        return (parts.d[:, None] * power * parts.code).astype(np.float32)

    assert _worst(other_order, fmt.name) == 0
    assert _worst(e8m0, fmt.name) > 0


def _fields(name: str, blocks: np.ndarray) -> dict[str, np.ndarray]:
    return formats.get(name).unpack(blocks)


def _flushed_scale(name: str, blocks: np.ndarray) -> np.ndarray:
    fields = _fields(name, blocks)
    for field in ("d", "dmin", "m"):
        if field in fields:
            value = fields[field]
            fields[field] = np.where(np.abs(value) < 2.0**-14, 0, value).astype(value.dtype)
    return formats.get(name).dequantize(formats.get(name).pack(fields))


def _without_minimum(name: str, blocks: np.ndarray) -> np.ndarray:
    fields = _fields(name, blocks)
    for field in ("dmin", "m"):
        if field in fields:
            fields[field] = np.zeros_like(fields[field])
    return formats.get(name).dequantize(formats.get(name).pack(fields))


def _neighbouring_nibbles(name: str, blocks: np.ndarray) -> np.ndarray:
    fields = _fields(name, blocks)
    group = 64 if name.endswith("K") else 32
    codes = fields["codes"].reshape(len(blocks), -1, 2, group // 2)
    fields["codes"] = codes.transpose(0, 1, 3, 2).reshape(len(blocks), -1)
    return formats.get(name).dequantize(formats.get(name).pack(fields))


def _half_away(name: str, blocks: np.ndarray) -> np.ndarray:
    return np.nextafter(formats.get(name).dequantize(blocks), np.float32(np.inf))


def _worst(function: object, name: str) -> float:
    problem = open_problem(DEQUANTIZE, {"format": name}, Judge(lambda blocks: function(name, blocks), name="f"))
    space, rng = problem.space, np.random.default_rng(0)
    worst = 0.0
    for draw in (draws.uniform, draws.structured):
        batch = draw(space, rng, 200)
        kept = {"blocks": batch["blocks"][space.admissible(batch)]}
        worst = max(worst, problem.evaluate(kept).value.max())
    return worst


@pytest.mark.parametrize("name", formats.names())
def test_correct_candidates_are_not_flagged(name: str) -> None:
    """The format itself, and its negation twice over, whose zeros have other signs."""
    assert _worst(lambda name, blocks: formats.get(name).dequantize(blocks), name) == 0
    assert _worst(lambda name, blocks: formats.get(name).dequantize(blocks) + np.float32(0), name) == 0


def _judged(name: str, function: object, blocks: np.ndarray) -> float:
    problem = open_problem(DEQUANTIZE, {"format": name}, Judge(function, name="f"))
    return float(problem.evaluate({"blocks": blocks}).value[0])


def _signed_exponent(name: str, blocks: np.ndarray) -> np.ndarray:
    return np.where(blocks[:, :1] >= 160, np.float32(0), formats.get(name).dequantize(blocks))


def _large_scale_lost(name: str, blocks: np.ndarray) -> np.ndarray:
    large = np.abs(formats.get(name).scales(blocks)["d"]) > 1e6
    return np.where(large[:, None], np.float32(0), formats.get(name).dequantize(blocks))


@pytest.mark.parametrize(("wrong", "name"), [(_signed_exponent, "mxfp4"), (_large_scale_lost, "q8_K")])
def test_scales_are_not_only_f16_numbers(wrong: object, name: str) -> None:
    """A candidate sees all scales that its format holds; the target's own question stays within f16."""
    assert _worst(wrong, name) > 0
    assert DEQUANTIZE.space(DEQUANTIZE.params({"format": name}))["blocks"].largest_scale == 65504


def test_the_last_byte_of_mxfp4_may_be_nan() -> None:
    """Byte 255 is 2^127 in ggml and NaN in OCP: either, but nothing else; and no other byte is NaN."""
    blocks = np.zeros((1, 17), np.uint8)
    blocks[0, 1:] = 1
    ggml = formats.get("mxfp4").dequantize

    def nan(blocks: np.ndarray) -> np.ndarray:
        return np.full((len(blocks), 32), np.nan, np.float32)

    for byte, allowed in ((255, True), (254, False)):
        blocks[0, 0] = byte
        assert _judged("mxfp4", ggml, blocks) == 0
        assert (_judged("mxfp4", nan, blocks) == 0) == allowed
        assert _judged("mxfp4", lambda b: np.zeros((len(b), 32), np.float32), blocks) == 16


def test_nothing_is_promised_beyond_float32() -> None:
    """12 times 2^126 is no float32 number: infinite or the largest, and its neighbours are judged all the same."""
    blocks = np.zeros((1, 17), np.uint8)
    blocks[0, :3] = 254, 7, 1
    largest = np.finfo(np.float32).max
    assert np.isinf(formats.get("mxfp4").dequantize(blocks)[0, 0])
    assert _judged("mxfp4", lambda b: np.clip(formats.get("mxfp4").dequantize(b), -largest, largest), blocks) == 0
    assert _judged("mxfp4", lambda b: 0 * np.clip(formats.get("mxfp4").dequantize(b), -1, 1), blocks) == 1


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        *itertools.product(
            (_flushed_scale, _neighbouring_nibbles, _half_away), ("q4_0", "q4_1", "q4_K", "q5_K", "q6_K")
        ),
        *((_without_minimum, name) for name in ("q4_1", "q4_K", "q5_K")),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_wrong_candidates_are_flagged(wrong: object, name: str) -> None:
    """A flushed scale, nibbles of neighbours, one ULP, a forgotten minimum (where there is one)."""
    assert _worst(wrong, name) > 0
