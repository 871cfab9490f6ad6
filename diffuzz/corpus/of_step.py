"""A wrong step of a model's run as an entry of the corpus: a case of the target that has the same operation.

The entry holds the inputs and what the engine computed of them, so it replays without the model. A target allows for
every arithmetic that its parameters admit, such as any rounding of an activation's code, where the check of a run knows
which one an engine uses. So a small fault may be outside the one bound and inside the other, and has no entry then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
import numpy as np

from diffuzz import formats, targets
from diffuzz.cases.case import Case
from diffuzz.cases.space import InadmissibleError
from diffuzz.corpus import files as store
from diffuzz.corpus.entry import Counterexample, Recorded
from diffuzz.corpus.environment import environment
from diffuzz.escaping import escaped
from diffuzz.judging.problem import open_problem
from diffuzz.judging.verdict import Verdict
from diffuzz.models import architectures
from diffuzz.models.checking import known
from diffuzz.models.checking.culprits import Culprit
from diffuzz.models.checking.places import Places
from diffuzz.models.dump import Dump
from diffuzz.models.model import Model
from diffuzz.models.operations.attention import Mixture, Probs, Scores
from diffuzz.models.operations.glu import Glu
from diffuzz.models.operations.norm import Norm
from diffuzz.models.operations.product import Product
from diffuzz.models.operations.rope import Rope
from diffuzz.models.operations.rounding import to
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Step
from diffuzz.targets.parameter import ParameterError

Params = dict[str, int | float | bool | str]


@attrs.frozen(eq=False)
class _Case:
    """A case of a target: parameters, arrays by name, and what the engine computed of it."""

    target: str
    params: Params
    arrays: Mapping[str, np.ndarray]
    result: np.ndarray


def saved(model: Model, dump: Dump, culprit: Culprit, place: Places, corpus: Path) -> str | None:
    """The path of the entry of a wrong step; None where no target has its operation, its space has not this case, or
    its bound allows it. Raises CorpusError if it cannot be written.
    """
    entry = entry_of(model, dump, culprit, place)
    return None if entry is None else str(store.save(entry, corpus))


def entry_of(model: Model, dump: Dump, culprit: Culprit, place: Places) -> Counterexample | None:
    """The entry of a wrong step, or None: see ``saved``."""
    span = culprit.judged.span
    if len(span.steps) > 1 or any(dump.taps[tap].dtype.itemsize < 4 for tap in span.inputs if tap in dump.taps):
        return None
    step, sequence = span.last, known.sequence_of(dump)
    steps = {each.tap: each for each in architectures.steps(model, past=sequence.past > 0)}
    inputs = [known.get(dump, tap, steps) for tap in step.inputs]
    got = known.get(dump, step.tap, steps)
    make = _MAKERS.get(type(step.operation))
    if make is None or any(each.rows is not None for each in (*inputs, got)):
        return None
    arithmetic = culprit.judged.arithmetics[step.op]
    made = make(step, arithmetic, [each.value for each in inputs], got.value, place, sequence)
    return None if made is None else _entry(made, dump, step)


def _entry(made: _Case, dump: Dump, step: Step) -> Counterexample | None:
    target = targets.get(made.target)
    engine = escaped(dump.metadata["engine"])
    if target.contract is None:
        return None
    recorded = Recorded(engine, made.result.astype(np.float32))
    try:
        question = recorded.question(batched=target.contract.batched)
        with open_problem(target, made.params, question) as problem:
            case = problem.space.written(Case(_completed(problem.space.tensors, made.arrays)))
            problem.space.check(case)
            measured = problem.measured(case)
            if problem.verdict(measured) is not Verdict.CONFIRMED:
                return None
            return Counterexample(
                target=target.name,
                params=problem.params,
                case=case,
                measure=escaped(measured.measure),
                value=measured.value,
                noise=measured.noise,
                threshold=problem.threshold,
                bound=None,
                verdict=Verdict.CONFIRMED,
                tolerance=problem.tolerance,
                found={"step": step.tap, "command": "python -m diffuzz check"},
                environment=environment(),
                result=recorded,
            )
    except (ParameterError, InadmissibleError):
        return None


def _completed(specs: object, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a case in the order of its space; scalars that vary, as exponents of ten, are left at zero."""
    found = {}
    for spec in specs:  # type: ignore[attr-defined]
        if spec.name in arrays:
            found[spec.name] = arrays[spec.name]
        elif spec.name.endswith("_exponent"):
            found[spec.name] = np.zeros(1, np.int32)
    return found


def _f32(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, np.float32)


def _product(
    step: Step, arithmetic: str, inputs: list[np.ndarray], got: np.ndarray, place: Places, sequence: Sequence
) -> _Case | None:
    operation = step.operation
    assert isinstance(operation, Product)
    token, row = place.worst
    name = operation.weight.format
    if operation.bias is not None or name not in formats.names() or arithmetic not in ("f32", "q8", "q8, f32 scale"):
        return None
    x = _f32(inputs[0][token])
    params: Params = {
        "format": name,
        "arithmetic": "apr" if arithmetic == "f32" else "gguf",
        "max_abs": float(_power_of_two(np.abs(x).max())),
    }
    arrays = {"weights": np.array(operation.weight.blocks()[row : row + 1]), "x": x}
    return _Case("matvec", params, arrays, got[token, row : row + 1])


def _power_of_two(x: float) -> float:
    """The least power of two that is not below x, as the largest activation of a space."""
    return float(2.0 ** math.ceil(math.log2(x))) if x > 0 else 1.0


def _norm(
    step: Step, arithmetic: str, inputs: list[np.ndarray], got: np.ndarray, place: Places, sequence: Sequence
) -> _Case | None:
    operation = step.operation
    assert isinstance(operation, Norm)
    token, element = place.worst
    size = len(operation.gain)
    part = slice(element // size * size, (element // size + 1) * size)
    x = to(arithmetic, _f32(inputs[0][token : token + 1, part]))
    return _Case("rmsnorm_gain", {"eps": operation.eps}, {"x": x, "gain": operation.gain}, got[token : token + 1, part])


def _glu(
    step: Step, arithmetic: str, inputs: list[np.ndarray], got: np.ndarray, place: Places, sequence: Sequence
) -> _Case | None:
    operation = step.operation
    assert isinstance(operation, Glu)
    if arithmetic != "f32":
        return None
    token, element = place.worst
    # One element is what is wrong; kernels take them by eights and sixteens.
    start = element // 16 * 16
    part = slice(start, start + 16)
    gate, up, result = (_f32(each[token, part]) for each in (inputs[0], inputs[1], got))
    if operation.activation == "silu":
        return _Case("swiglu", {}, {"gate": gate, "up": up}, result)
    return _Case("geglu", {"form": "tanh"}, {"gate": gate[None], "up": up[None]}, result[None])


def _rope(
    step: Step, arithmetic: str, inputs: list[np.ndarray], got: np.ndarray, place: Places, sequence: Sequence
) -> _Case | None:
    operation = step.operation
    assert isinstance(operation, Rope)
    if operation.factors is not None or operation.scale != 1 or operation.dimensions != operation.size:
        return None
    token, element = place.worst
    head = element // operation.size
    part = slice(head * operation.size, (head + 1) * operation.size)
    arrays = {"x": _f32(inputs[0][token, part])[None], "positions": sequence.positions[token : token + 1]}
    return _Case("rope", {"base": operation.base, "mode": operation.layout}, arrays, got[token, part][None])


def _scores(
    step: Step, arithmetic: str, inputs: list[np.ndarray], got: np.ndarray, place: Places, sequence: Sequence
) -> _Case | None:
    operation = step.operation
    assert isinstance(operation, Scores)
    if len(inputs) > 2 or arithmetic != "f32":
        return None
    head, token, key = place.worst
    size = inputs[0].shape[1] // operation.heads
    group = head * operation.groups // operation.heads
    q = _f32(inputs[0][token : token + 1, head * size : (head + 1) * size])
    k = _f32(inputs[1][key : key + 1, group * size : (group + 1) * size])
    return _Case("matmul", {}, {"a": q, "b": np.ascontiguousarray(k.T)}, got[head, token : token + 1, key : key + 1])


def _probs(
    step: Step, arithmetic: str, inputs: list[np.ndarray], got: np.ndarray, place: Places, sequence: Sequence
) -> _Case | None:
    operation = step.operation
    assert isinstance(operation, Probs)
    head, token, _ = place.worst
    seen = sequence.visible(operation.window)[token]
    z = _f32(inputs[0][head, token, seen])[None]
    params: Params = {"scale": operation.scale}
    return _Case("masked_softmax", params, {"z": z, "mask": np.zeros_like(z)}, got[head, token, seen][None])


def _mixture(
    step: Step, arithmetic: str, inputs: list[np.ndarray], got: np.ndarray, place: Places, sequence: Sequence
) -> _Case | None:
    operation = step.operation
    assert isinstance(operation, Mixture)
    if len(inputs) > 2 or arithmetic != "f32":
        return None
    token, element = place.worst
    head = element // operation.size
    group = head * operation.groups // operation.heads
    p = _f32(inputs[0][head, token : token + 1])
    v = _f32(inputs[1][:, group * operation.size : (group + 1) * operation.size])
    part = slice(head * operation.size, (head + 1) * operation.size)
    return _Case("matmul", {}, {"a": p, "b": v}, got[token : token + 1, part])


_Make = Callable[[Step, str, list[np.ndarray], np.ndarray, Places, Sequence], "_Case | None"]
_MAKERS: dict[type, _Make] = {
    Product: _product,
    Norm: _norm,
    Glu: _glu,
    Rope: _rope,
    Scores: _scores,
    Probs: _probs,
    Mixture: _mixture,
}
