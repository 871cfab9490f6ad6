"""KernelBench level 1, judged by derived bounds: is torch's own result inside, and are wrong results outside?

    for row in judged(seed=0):
        print(row.number, row.title, row.problem or (row.float32, row.zeros, row.rounded, row.shifted))

For each problem there are four results that a judge must tell apart:

    torch      the reference, run by torch itself, in float32 and in bfloat16. It must be inside
    zeros      nothing was computed: all elements are 0
    rounded    the wrong rounding: float32 results that went through bfloat16 (the indices of argmax: found in bfloat16)
    shifted    one element is off by 1 % of its neighbours' magnitude (an index: by 1)

KernelBench's own judge is torch.allclose with atol = rtol = 1e-4 in float32 (its eval.py, get_tolerance_for_precision);
what it says of the same results stands beside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs
import numpy as np
import torch

from diffuzz import interruption
from diffuzz.analysis import aten
from diffuzz.analysis.arithmetic import FORMATS, Arithmetic, round_to
from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.torch_graph.capture import array
from diffuzz.analysis.walking import AnalysisError
from diffuzz.studies.kernelbench.problems import PROBLEMS, Problem
from diffuzz.telling import parts

TOLERANCE = 1e-4
SHIFT = 0.01


@attrs.frozen
class Seen:
    """Whether a wrong result is found: by the bound, and by KernelBench's tolerance."""

    bound: bool
    tolerance: bool


@attrs.frozen
class Row:
    """One problem. `allowed` is the median allowance of an element, relative to the mean magnitude of the exact
    result; `float32` and `bfloat16` are the largest error of torch's own results over the allowance (NaN where it was
    not measured); `visible` is the share of elements of which an error of 1 % of the neighbours' magnitude is outside.
    `problem` says why there is no bound, if there is none.
    """

    number: int
    title: str
    allowed: float = np.nan
    wider: float = np.nan
    float32: float = np.nan
    bfloat16: float = np.nan
    zeros: Seen | None = None
    rounded: Seen | None = None
    shifted: Seen | None = None
    visible: float = np.nan
    problem: str | None = None


def judged(
    numbers: Iterable[int] = (), *, seed: int = 0, narrow: bool = True, on_row: Callable[[Row], None] | None = None
) -> list[Row]:
    """A row for each of the problems (all for none). If the user interrupts, the finished rows are returned.

    Args:
        numbers: of the problems.
        seed: random seed of weights and inputs.
        narrow: also run each problem in bfloat16.
        on_row: called with each row.
    """
    wanted = set(numbers)
    unknown = wanted - {problem.number for problem in PROBLEMS}
    if unknown:
        raise ValueError(f"there is no problem {min(unknown)}: they are numbered from 1 to {len(PROBLEMS)}")
    rows: list[Row] = []
    try:
        chosen = [problem for problem in PROBLEMS if not wanted or problem.number in wanted]
        for problem in parts(chosen, "problems", lambda problem: problem.title):
            interruption.check()
            rows.append(judge(problem, seed=seed, narrow=narrow))
            if on_row is not None:
                on_row(rows[-1])
    except KeyboardInterrupt:
        pass
    return rows


def judge(problem: Problem, *, seed: int = 0, narrow: bool = True) -> Row:
    """The row of one problem."""
    generator = torch.Generator().manual_seed(seed * 1000 + problem.number)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed * 1000 + problem.number)
        function = problem.make()
        inputs = problem.inputs(generator)
        # The reference in float32 comes first: BatchNorm counts its calls.
        got = array(function(*inputs))
        try:
            _, [estimate] = aten.bound(function, inputs, Arithmetic.of("float32"))
            bfloat16 = _narrow_ratio(function, inputs) if narrow else np.nan
        except AnalysisError as error:
            return Row(problem.number, problem.title, problem=str(error))
        rng = np.random.default_rng([seed, problem.number])
        wrong = _rounded(function, inputs, got)
    exact, magnitude = estimate.value, np.abs(estimate.value)
    step = SHIFT * _neighbours(exact) if exact.dtype.kind == "f" else np.ones(exact.shape)
    allowed = estimate.errors()
    changes = step > 0
    visible = (estimate.ratios(got + step) > 1)[changes]
    shifted = _shift(got, step, rng)
    # Zeros of the padding of a transposed convolution are exact and say nothing.
    some = magnitude > 0 if (magnitude > 0).any() else np.ones(magnitude.shape, bool)
    return Row(
        problem.number,
        problem.title,
        allowed=float(np.median(allowed[some]) / max(magnitude.mean(), np.finfo(np.float64).tiny)),
        wider=_wider(estimate, some),
        float32=ratio(estimate, got),
        bfloat16=bfloat16,
        zeros=_seen(estimate, got, np.zeros_like(got)),
        rounded=_seen(estimate, got, wrong),
        shifted=_seen(estimate, got, shifted),
        visible=float(visible.mean()) if visible.size else np.nan,
    )


def _wider(estimate: Estimate, some: np.ndarray) -> float:
    if estimate.value.dtype.kind != "f":
        return np.nan
    with np.errstate(divide="ignore"):
        return float(np.median((TOLERANCE * (1 + np.abs(estimate.value)) / estimate.errors())[some]))


def ratio(estimate: Estimate, got: np.ndarray) -> float:
    """The largest error of a result over what is allowed: at most 1 inside the bound. Of indices: 0 inside, infinite
    outside."""
    return float(estimate.ratios(got).max(initial=0.0))


def _seen(estimate: Estimate, reference: np.ndarray, wrong: np.ndarray) -> Seen:
    if wrong.dtype.kind == "f":
        accepted = bool(np.allclose(wrong, reference, rtol=TOLERANCE, atol=TOLERANCE))
    else:
        accepted = bool((wrong == reference).all())
    return Seen(bound=ratio(estimate, wrong) > 1, tolerance=not accepted)


def _rounded(function: Callable[..., Any], inputs: tuple[Any, ...], got: np.ndarray) -> np.ndarray:
    """The result that went through bfloat16; of indices those that a computation in bfloat16 finds."""
    if got.dtype.kind == "f":
        return round_to(FORMATS["bfloat16"], got)
    return array(function(*_narrowed(inputs)))


def _narrowed(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        each.to(torch.bfloat16) if isinstance(each, torch.Tensor) and each.is_floating_point() else each
        for each in inputs
    )


def _narrow_ratio(function: Callable[..., Any], inputs: tuple[Any, ...]) -> float:
    """The ratio of torch's own bfloat16: intermediates are rounded to bfloat16, sums accumulated in float32."""
    if isinstance(function, torch.nn.Module):
        function = function.to(torch.bfloat16)
    inputs = _narrowed(inputs)
    try:
        got = array(function(*inputs))
    except NotImplementedError:
        return np.nan  # torch has no kernel for it on the CPU
    _, [estimate] = aten.bound(function, inputs, Arithmetic.of("bfloat16", compute="bfloat16", accumulate="float32"))
    return ratio(estimate, got)


def _neighbours(exact: np.ndarray) -> np.ndarray:
    """The mean magnitude of the elements before and after each one, in the order of memory; its own where it is
    alone."""
    line = np.abs(exact).reshape(-1)
    if line.size < 3:
        return np.full(exact.shape, line.mean() if line.size else 0.0)
    mean = (np.roll(line, 1) + np.roll(line, -1)) / 2
    return np.asarray(mean.reshape(exact.shape))


def _shift(got: np.ndarray, step: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One element, at random among those that it changes, is off by a step."""
    places = np.flatnonzero(step)
    shifted = got.copy()
    if places.size:
        place = int(rng.choice(places))
        shifted.reshape(-1)[place] += step.reshape(-1)[place].astype(got.dtype)
    return shifted
