"""What a page draws of a witness: its arrays, codes beside their steps, and every element of the result.

An object of JSON, of bounded length: what is longer than MOST numbers is drawn in bins, of which the least and the
largest number are kept, so that nothing that stands out is lost.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from diffuzz import formats
from diffuzz.cases.text import array_text, blocks_text
from diffuzz.corpus.spelling import json_number

if TYPE_CHECKING:
    from diffuzz.cases.case import Case
    from diffuzz.cases.space import Space, TensorSpec
    from diffuzz.formats.format import Format
    from diffuzz.judging.evidence import Elements
    from diffuzz.targets.contract import Contract
    from diffuzz.targets.parameter import Params

# Numbers of one array that are drawn; of a result, elements that are listed; letters of a line of text.
MOST, LISTED, _LETTERS = 512, 24, 2000
# Of weights, which have three numbers for each element.
_WEIGHTS = 256
# Rows of an array that are told apart.
_ROWS = 32


def drawn_json(
    contract: Contract | None, params: Params, space: Space, case: Case, elements: Elements | None
) -> dict[str, object]:
    """``arrays`` of the case; ``scalars``, those that stand for another argument, in words; and the ``result``, which
    is None where no implementation is judged (then ``contract`` is None, too).
    """
    batch = space.filled(case.batch())
    instead = {} if contract is None else contract.instead(params, batch)
    given = {} if contract is None else contract.given(params, batch)
    arrays: list[dict[str, object]] = []
    for spec in space.tensors:
        if spec.absent is not None and (spec.name not in case.arrays or (case[spec.name] == spec.absent).all()):
            continue
        text = instead.get(spec.name)
        if text is None or text.startswith((f"{spec.name} = ", f"{spec.name} [")):
            found = _array_json(
                spec, case[spec.name] if text is None else _given(given[spec.name], case[spec.name]), text
            )
            # What the function is called with may be beyond the range of the array that stands for it.
            arrays.append(found if text is None else found | {"range": None})
    named = {found["name"] for found in arrays}
    return {
        "arrays": arrays,
        "scalars": [text for name, text in instead.items() if text and name not in named],
        "result": None if contract is None or elements is None else _result_json(contract, params, batch, elements),
    }


def expected(contract: Contract, params: Params, space: Space, case: Case) -> Elements | None:
    """What is known of the result of a case without the function that was judged: exact, the reference, and what is
    allowed; None where the result is fixed to the bit.
    """
    from diffuzz.judging.evidence import Elements

    if contract.allowance is None:
        return None
    batch = space.filled(case.batch())
    with np.errstate(all="ignore"):
        exact, reference, allowed = (
            np.asarray(find(params, batch), np.float64).reshape(-1)
            for find in (contract.exact, contract.reference, contract.allowance)
        )
        ratio = np.abs(reference - exact) / allowed
    judged = np.isfinite(allowed) & np.isfinite(exact)
    return Elements(
        exact, {"reference": reference}, np.where(judged, allowed, np.inf), np.where(judged & (ratio >= 0), ratio, 0.0)
    )


def _given(value: object, own: np.ndarray) -> np.ndarray:
    """What a function is called with in the place of an array of the case, in its shape."""
    array = np.asarray(value)
    return array.reshape(own.shape) if array.size == own.size else own


def _array_json(spec: TensorSpec, array: np.ndarray, text: str | None) -> dict[str, object]:
    about: dict[str, object] = {"name": spec.name, "kind": spec.kind, "shape": list(array.shape)}
    if spec.kind == "blocks":
        fmt = formats.get(spec.format or "")
        blocks = array.reshape(-1, fmt.type_size)
        count = len(blocks) * fmt.block_size
        lines = blocks_text(spec, array)
        about |= {"format": fmt.name, "shape": [*array.shape[:-1], array.shape[-1] // fmt.type_size * fmt.block_size]}
        blocks = blocks[: max(1, _WEIGHTS // fmt.block_size)]
        return about | {
            "text": [line[:_LETTERS] for line in lines],
            "range": None,
            "values": series(fmt.dequantize(blocks)),
            "codes": _codes_json(fmt, blocks, None, count),
        }
    about |= {
        "format": None,
        "text": [(text or array_text(spec.name, array))[:_LETTERS]],
        "range": [json_number(spec.low), json_number(spec.high)],
        "values": series(array),
        "codes": None,
    }
    to = None if spec.quantiser is None else formats.get(spec.quantiser)
    if to is None or to.quantize is None or array.shape[-1:] == () or array.shape[-1] % to.block_size:
        return about
    values = np.ascontiguousarray(array, np.float32).reshape(-1, to.block_size)[: max(1, _WEIGHTS // to.block_size)]
    return about | {"codes": _codes_json(to, to.quantize(values), values, array.size)}


def _codes_json(fmt: Format, blocks: np.ndarray, values: np.ndarray | None, count: int) -> dict[str, object]:
    """Codes and steps of blocks; with the ``values`` that they were made of, also where in its step each is: -0.5 and
    0.5 are ties. ``of`` is how many there are in all.
    """
    parts = fmt.decode(blocks)
    found: dict[str, object] = {
        "format": fmt.name,
        "block": fmt.block_size,
        "of": count,
        "codes": _numbers(parts.code),
        "steps": _numbers(parts.scale),
        "minimums": None if parts.minimum is None else _numbers(parts.minimum),
        "places": None,
    }
    if values is None:
        return found
    with np.errstate(all="ignore"):
        shifted = values.astype(np.float64) + (0.0 if parts.minimum is None else parts.minimum)
        places = shifted / parts.scale - parts.code
    return found | {"places": _numbers(np.where(np.isfinite(places), places, 0.0))}


def _result_json(
    contract: Contract, params: Params, batch: dict[str, np.ndarray], found: Elements
) -> dict[str, object]:
    judged = np.ones(found.ratio.shape, bool) if found.allowed is None else np.isfinite(found.allowed)
    order = np.argsort(np.where(judged, -found.ratio, np.inf), kind="stable")[:LISTED]

    def place(element: int) -> str:
        if contract.result_format is None:
            return contract.place(params, batch, element)
        fmt = formats.get(contract.result_format(params))
        return f"byte {element} ({fmt.field_at(element % fmt.type_size)} of block {element // fmt.type_size})"

    def row(element: int) -> dict[str, object]:
        return {
            "place": place(element),
            "exact": None if found.exact is None else json_number(float(found.exact[element])),
            "sides": {name: json_number(float(side[element])) for name, side in found.sides.items()},
            "allowed": None if found.allowed is None else json_number(float(found.allowed[element])),
            "ratio": json_number(float(found.ratio[element])),
        }

    return {
        "elements": int(found.ratio.size),
        "judged": int(judged.sum()),
        "outside": int(np.count_nonzero(judged & ~(found.ratio <= (0.0 if found.allowed is None else 1.0)))),
        "fixed": found.allowed is None,
        "ratio": series(np.where(judged, found.ratio, np.nan)),
        "reference_ratio": _reference_ratio(found, judged),
        "exact": None if found.exact is None else series(found.exact),
        "sides": {name: series(side) for name, side in found.sides.items()},
        "worst": [row(int(element)) for element in order if judged[element]],
    }


def _reference_ratio(found: Elements, judged: np.ndarray) -> dict[str, object] | None:
    """The errors of the reference, as shares of what is allowed, where it is beside a candidate."""
    if found.exact is None or found.allowed is None or set(found.sides) != {"reference", "candidate"}:
        return None
    with np.errstate(all="ignore"):
        ratio = np.abs(found.sides["reference"] - found.exact) / found.allowed
    return series(np.where(judged & (ratio >= 0), ratio, np.nan))


def series(array: np.ndarray) -> dict[str, object]:
    """Numbers in C order, in at most MOST bins of ``per``: of each the ``low`` and ``high`` one (NaN is null, and left
    out where a bin has others). ``row`` is the length of a row where there are a few.
    """
    flat = np.asarray(array, np.float64).reshape(-1)
    rows = flat.size // array.shape[-1] if array.ndim > 1 and array.shape[-1] else 1
    per = max(1, math.ceil(flat.size / MOST))
    padded = np.append(flat, np.full(-flat.size % per, np.nan)).reshape(-1, per)
    empty = np.isnan(padded).all(axis=1)
    low, high = (
        np.where(empty, np.nan, fill(np.where(np.isnan(padded), other, padded), axis=1))
        for fill, other in ((np.min, np.inf), (np.max, -np.inf))
    )
    return {
        "size": int(flat.size),
        "per": per,
        "row": int(array.shape[-1]) if 1 < rows <= _ROWS else None,
        "low": _numbers(low),
        "high": None if per == 1 else _numbers(high),
    }


def _numbers(array: np.ndarray) -> list[object]:
    return [
        None if math.isnan(number) else json_number(number) for number in np.asarray(array, np.float64).ravel().tolist()
    ]
