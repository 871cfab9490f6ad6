"""Holding: a problem whose weights are those of a real model, so that the activation alone is searched.

    problem = held(open_problem(target, given_with(target, given, rows)), rows)

A row of the target's case, of length n, is one of the pieces of n weights that the rows of the model are cut into, and
the cases of the search have one of them each. Where a case has as many rows as one likes, as those of a judged function
do, it has all of them. What is found has the weights in its case, and is an entry like any other.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.cases.draws import Batch
from diffuzz.cases.ranges import clip
from diffuzz.cases.space import Choices, Dim, InadmissibleError, Space, TensorSpec
from diffuzz.judging.problem import Problem
from diffuzz.judging.question import Claim, Question, QuestionError
from diffuzz.models.rows import Rows
from diffuzz.targets.target import Target

# Distance of a start from the edge between two codes, in codes: above float32 rounding, too small to matter otherwise.
_EDGE = 2.0**-15
# How far below the largest |x| the peak of a start may be.
_LEAST_PEAK = 2.0**-4


def given_with(
    target: Target, given: Mapping[str, object] | None, question: Question | None, rows: Rows
) -> dict[str, object]:
    """``given`` with the parameters that follow from the rows: their format, their length as n, and that weights are in
    the case, of a target that has others by default.

    Raises QuestionError for another format that was given, and a length that rows cannot be cut into.
    """
    made = dict(given or {})
    claim = question is None or isinstance(question, Claim)
    parameters = target.parameters if claim or target.contract is None else target.contract.parameters
    names = {one.name for one in parameters}
    if str(made.get("format", rows.format)) != rows.format:
        raise QuestionError(f"weights {rows.given}: they are {rows.format}, not format={made['format']}")
    if "format" in names:
        made["format"] = rows.format
    if "n" in names:
        made.setdefault("n", rows.columns)
    if "weights" in names:
        made["weights"] = "case"
    return made


def held(problem: Problem, rows: Rows) -> Problem:
    """``problem`` with weights that are those of ``rows``. Raises QuestionError, one line, where they do not fit."""
    specs = problem.space.of_kind("blocks")
    if len(specs) != 1:
        raise QuestionError(f"weights {rows.given}: target {problem.target.name} has no quantised weights to hold")
    spec = specs[0]
    if spec.format != rows.format:
        raise QuestionError(f"weights {rows.given}: they are {rows.format}, where {spec.format} is needed")
    choices = _choices(problem, spec, rows)
    sizes = {dim.name: size for dim, size in zip(spec.shape, _shape(choices, rows.format), strict=True)}
    space = Space(
        tuple(
            attrs.evolve(
                one,
                shape=tuple(
                    Dim(dim.name, sizes[dim.name], fixed=True) if dim.name in sizes else dim for dim in one.shape
                ),
                among=choices if one is spec else None,
            )
            for one in problem.space.tensors
        )
    )
    made = next((one for one in space.tensors if one.against == spec.name and one.quantiser), None)

    def starts(rng: np.random.Generator, count: int, sizes: Mapping[str, int]) -> Batch | None:
        return None if made is None else _starts(space[spec.name], made, choices, rng, count)

    # Constructions of the target come with weights of their own.
    alone = made is not None and len(space.tensors) == 2
    return attrs.evolve(problem, space=space, starts=starts if alone else None, weights=rows)


def place_of(problem: Problem, arrays: Mapping[str, np.ndarray]) -> str | None:
    """Where in the model the weights of a case are; None unless they are held, or if it is all of them."""
    rows = problem.weights
    spec = next((one for one in problem.space.tensors if one.among is not None), None)
    if rows is None or spec is None or spec.among is None or len(spec.among.arrays) == 1:
        return None
    index = int((spec.among.arrays == arrays[spec.name]).reshape(len(spec.among.arrays), -1).all(axis=1).argmax())
    lead, n = int(np.prod([dim.size for dim in spec.shape[:-1]])), spec.shape[-1].size
    pieces = rows.columns // n
    first = index // pieces * lead
    which = (
        f"row {rows.numbers[first]}" if lead == 1 else f"rows {rows.numbers[first]} to {rows.numbers[first + lead - 1]}"
    )
    return f"{which}, columns {index % pieces * n} to {(index % pieces + 1) * n - 1}"


def _choices(problem: Problem, spec: TensorSpec, rows: Rows) -> Choices:
    """The arrays that the weights of a case may be."""
    *leading, along = spec.shape
    n = along.size if along.fixed or "n" in problem.params else rows.columns
    if not along.admits(n):
        raise QuestionError(f"weights {rows.given}: their rows have {n} weights, where {along.text} is needed")
    if rows.columns % n:
        raise QuestionError(f"weights {rows.given}: n={n}: rows of {rows.columns} cannot be cut into pieces of so many")
    if all(dim.fixed for dim in leading):
        shape = tuple(dim.size for dim in leading)
    elif len(leading) == 1 and leading[0].admits(len(rows.blocks)):
        shape = (len(rows.blocks),)
    else:
        wanted = ", ".join(dim.text for dim in leading)
        raise QuestionError(f"weights {rows.given}: they are {len(rows.blocks)} rows, where {wanted} is needed")
    each = int(np.prod(shape))
    if len(rows.blocks) < each:
        raise QuestionError(
            f"weights {rows.given}: they are {len(rows.blocks)} rows, where {each} are needed for one case"
        )
    fmt = formats.get(rows.format)
    width = n // fmt.block_size * fmt.type_size
    whole = rows.blocks[: len(rows.blocks) // each * each].reshape(-1, each, rows.columns // n, width)
    arrays = np.ascontiguousarray(whole.swapaxes(1, 2)).reshape(-1, *shape, width)
    try:
        spec.check(arrays.reshape(-1, width))
    except InadmissibleError as error:
        raise QuestionError(f"weights {rows.given}: {error}; `scan` says more") from error
    return Choices(arrays)


def _shape(choices: Choices, format: str) -> tuple[int, ...]:
    fmt = formats.get(format)
    *leading, width = choices.arrays.shape[1:]
    return (*leading, width // fmt.type_size * fmt.block_size)


def _starts(spec: TensorSpec, x: TensorSpec, choices: Choices, rng: np.random.Generator, count: int) -> Batch:
    """Activations beside the edge between two codes, with errors of the sign of their weights; the largest of a block
    meets its smallest weight. Half of them have a scale whose rounding to f16 is largest, and the last edge.
    """
    weights, fmt = choices.drawn(rng, count), formats.get(spec.format or "")
    # Several rows of weights: the first one decides.
    met = fmt.dequantize(weights.reshape(-1, fmt.type_size)).reshape(count, -1)[:, : x.shape[-1].size]
    size = formats.get(x.quantiser or "").block_size
    code = rng.integers(0, 127, (count, 1)).astype(np.float64)
    mantissa = np.ones((count, 1))
    worst = rng.random((count, 1)) < 0.5
    code[worst], mantissa[worst] = 126, (1 + 2.0**-11) * (1 + 2.0**-22)
    top = x.high * _LEAST_PEAK ** rng.random((count, 1))
    step = mantissa * 2.0 ** np.floor(np.log2(np.maximum(top, x.smallest_peak * 2) / 127 / mantissa))
    codes = np.copysign(code + 0.5 + _EDGE, met).reshape(count, -1, size)
    idle = np.abs(met).reshape(count, -1, size).argmin(axis=2)
    np.put_along_axis(codes, idle[:, :, None], 127.0, axis=2)
    values = clip(x, (codes.reshape(count, -1) * step).reshape(count, *x.array_shape()))
    return {spec.name: weights, x.name: values}
