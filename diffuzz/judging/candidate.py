"""Candidates: a user's own function in the place of the implementation under test.

    with open_problem(targets.get("softmax"), {}, Judge("my_kernels.py:soft_max")) as problem: ...

It runs in a process of its own (see diffuzz.kernels.process.worker). What its results are held against, and what makes
a case a witness, is in diffuzz.judging.examination.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

import attrs
import numpy as np

from diffuzz import registry, targets
from diffuzz.cases import domain
from diffuzz.cases.ranges import clip
from diffuzz.cases.space import Space
from diffuzz.escaping import escaped
from diffuzz.judging import handing
from diffuzz.judging.calls import called, lengths, result_like, results_of, right_result, signature_of
from diffuzz.judging.handing import Handing, MissingArraysError
from diffuzz.judging.opening import CandidateError, UnloadableError, check_handing, check_name, load
from diffuzz.judging.question import Function, Judge
from diffuzz.kernels.process.worker import Failure, Ran, ResourceError, Worker, WorkerError
from diffuzz.targets.contract import Contract, Result
from diffuzz.targets.outcome import Arrays
from diffuzz.targets.parameter import Params
from diffuzz.targets.target import Target

# What a request to the process of a candidate says: the target, parameters of the contract, whether it compiles, and
# what it returns for a case, where the contract says that.
Request = tuple[str, dict[str, int | float | bool | str], bool, tuple[Result, ...] | None]
# How messages say that the first call failed, before the text of the failure; another failure is that of a case.
_VERBS: dict[str, str] = {"raised": "raises ", "garbage": "", "skipped": "skips its first call: "}
# A new shape that takes longer than this, in seconds, and than so many calls of a shape that it knows, is compiled.
_COMPILING, _TIMES_SLOWER = 0.05, 8
# A shape that takes longer than this: what compiles for several shapes at once, as torch.compile does, may not be slow
# with the next one.
_COMPILING_LONG = 1.0


@attrs.define
class Candidate:
    """The function that a name names (see diffuzz.judging.opening), in a process of its own; ``timeout`` is in seconds
    for one call. ``handing`` says which arrays it gets.

    ``passing`` is a failure that did not happen again, and so is of no case; ``skips`` how many cases a program said
    are not for it, and ``skipping`` what it said last. Raises CandidateError at once for a name that is none, or a file
    that is not there.
    """

    name: str
    timeout: float = attrs.field(default=10.0, kw_only=True)
    handing: Handing = attrs.field(factory=Handing, kw_only=True)
    passing: Failure | None = attrs.field(init=False, default=None)
    skips: int = attrs.field(init=False, default=0)
    skipping: str = attrs.field(init=False, default="")
    # Whether it takes far longer for the first call of each shape; known after ``probe``.
    compiles: bool = attrs.field(init=False, default=False)
    # Of what compiles, the seconds of each call with a shape that its process did not know.
    warm_ups: list[float] = attrs.field(init=False, factory=list)
    # Whether a call of a new shape may take long; and those that the process knows.
    _patient: bool = attrs.field(init=False, default=False)
    _known: set[object] = attrs.field(init=False, factory=set)
    _worker: Worker = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        check_name(self.name)
        check_handing(self.name, self.handing)
        self.handing.check_installed()
        argument = (self.name, registry.outside(), self.handing)
        self._worker = Worker(f"{__name__}:serve", argument, timeout=self.timeout, packages=self.handing.packages)

    def __enter__(self) -> Candidate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, if there is one."""
        self._worker.close()

    def probe(self, target: Target, params: Params) -> None:
        """Call it once, with ones. Raises CandidateError if it cannot be called: it does not load, it raises, or it
        returns another shape or dtype than its signature says.
        """
        contract = contract_of(target)
        space = contract.space(params)
        batch = _ones(space, 1)
        given = space.filled(batch)
        with np.errstate(all="ignore"):
            ran = self._run(target.name, params, given, result_like(contract, right_result(contract, params, given)))
        failure = ran.failures.get(0)
        if failure is not None and failure.kind in _VERBS:
            scalars = {one.array: f"{one.name} {one.of(params, batch)[0]:g}" for one in contract.scalars}
            shapes = ", ".join(
                scalars.get(name, f"{name} {array.dtype}{list(array.shape)}") for name, array in batch.items()
            )
            hint = "" if failure.kind == "garbage" else f"; {_hint(contract, params)}"
            raise CandidateError(
                f"candidate {self.name} {_VERBS[failure.kind]}{failure.text} (called with {shapes}; "
                f"its signature: {contract.signature}{hint})"
            )
        if failure is None:
            self.compiles = self._is_slow_with_new_shapes(target, params)

    def _is_slow_with_new_shapes(self, target: Target, params: Params) -> bool:
        """Whether two new shapes are slow, and are not when they come again; of arrays of a library, whether the first
        of the two is very slow.
        """
        contract = contract_of(target)
        space = contract.space(params)
        self._patient = self.handing != Handing()
        for count in (2, 3):
            shape = _ones(space, count) if contract.batched else _ones(_other(space, count), 1)
            batch = space.filled(shape)
            first = self._seconds(target, params, batch)
            if first < _COMPILING or first < _TIMES_SLOWER * self._seconds(target, params, batch):
                return False
            if self._patient and first > _COMPILING_LONG:
                return True
        return True

    def _seconds(self, target: Target, params: Params, batch: Arrays) -> float:
        with np.errstate(all="ignore"):
            like = result_like(contract_of(target), right_result(contract_of(target), params, batch))
        began = time.monotonic()
        self.run(target.name, params, batch, like)
        return time.monotonic() - began

    def run(self, target: str, params: Params, arrays: Arrays, like: np.ndarray) -> Ran:
        """What it returned: a result like ``like``, with its elements where a row failed or was not run.

        Raises CandidateError if the file cannot be loaded.
        """
        ran = self._run(target, params, arrays, like)
        refused = {row: failure for row, failure in ran.failures.items() if failure.kind == "skipped"}
        if not refused:
            return ran
        failures = {row: failure for row, failure in ran.failures.items() if row not in refused}
        self.skips += len(refused) + len(ran.skipped)
        self.skipping = next(reversed(refused.values())).text
        return attrs.evolve(ran, failures=failures, skipped=ran.skipped | refused.keys())

    def _run(self, target: str, params: Params, arrays: Arrays, like: np.ndarray) -> Ran:
        """The same, with a failure for each case that it says is not for it."""
        request: Request = (
            target,
            dict(params),
            self.compiles,
            results_of(contract_of(targets.get(target)), params, arrays),
        )
        if not self._worker.running:
            self._known.clear()
        looks = self._patient or self.compiles
        call = self._shape_of(target, params, arrays) if looks else None
        new, began = looks and call not in self._known, time.monotonic()
        try:
            ran = self._worker.run(request, arrays, shape=like.shape[1:], dtype=str(like.dtype), compiles=new)
        except ResourceError as error:
            raise CandidateError(f"candidate {self.name}: {error}") from error
        except WorkerError as error:
            raise unopened(self.name, error) from error
        self._known.add(call)
        if new and self.compiles:
            self.warm_ups.append(time.monotonic() - began)
        if ran.passing is not None and ran.passing.kind != "skipped":
            self.passing = ran.passing
        without = [*ran.failures, *ran.skipped]
        ran.result[without] = like[without]
        return ran

    def _shape_of(self, target: str, params: Params, arrays: Arrays) -> object:
        """What a call is compiled for, as far as its shapes say that."""
        contract, total = contract_of(targets.get(target)), len(next(iter(arrays.values())))
        rows = lengths(total, domain.batch(params), compiled=self.compiles) if contract.batched else (1,)
        return target, rows, tuple((name, array.shape[1:]) for name, array in arrays.items())


def serve(
    argument: tuple[str, tuple[tuple[str, str], ...], Handing],
) -> Callable[[Request, dict[str, np.ndarray], np.ndarray], np.ndarray]:
    """What the process of a candidate does: load it, and call it for each batch as its contract says.

    ``argument`` is the candidate's name, what its client has loaded from files (see diffuzz.registry), and which arrays
    it gets.
    """
    name, outside, given_arrays = argument
    registry.adopt(outside)
    hand = handing.opened(given_arrays)
    bind = load(name)

    def answer(request: Request, arrays: dict[str, np.ndarray], out: np.ndarray) -> np.ndarray:
        target, params, compiled, expected = request
        # Fresh arrays: what a function keeps of one call must not change with the next.
        given = {key: np.array(array) for key, array in arrays.items()}
        with np.errstate(all="ignore"):
            contract = contract_of(targets.get(target))
            function = hand(bind(signature_of(contract, target, params, expected, out)))
            return called(contract, params, function, given, expected, compiled=compiled)

    return answer


def unopened(name: str, error: WorkerError) -> UnloadableError | MissingArraysError:
    """What is said of a candidate whose process cannot be opened."""
    if str(error).startswith(f"{MissingArraysError.__name__}: "):
        return MissingArraysError(str(error).partition(": ")[2])
    said = str(error).removeprefix(f"{CandidateError.__name__}: ")
    return UnloadableError(said if escaped(name) in said else f"candidate {name} while it is loaded: {said}")


def _hint(contract: Contract, params: Params) -> str:
    """What a user may have meant whose function refuses its first call."""
    choices = [f"--param {one.name}={params[one.name]}" for one in contract.parameters if one.options]
    names, sizes = contract.narrowable(params), [dim.name for dim in contract.space(params).free]
    example = f", such as --multiple {sizes[0]}=32" if sizes else ""
    asked = f"it was asked with {', '.join(choices)}; " if choices else ""
    return (
        f"{asked}if it takes only some of these, narrow {', '.join(names)} with --fix, --range or --multiple{example}"
    )


def _ones(space: Space, rows: int) -> dict[str, np.ndarray]:
    """A batch of ones, blocks of zeros."""
    return {
        spec.name: np.zeros((rows, *spec.array_shape()), np.uint8)
        if spec.kind == "blocks"
        else clip(spec, np.ones((rows, *spec.array_shape()))).astype(spec.dtype)
        for spec in space.tensors
        if spec.absent is None
    }


def _other(space: Space, steps: int) -> Space:
    """The space with another usual size of its last dimension, some steps above the least; itself if there is none."""
    dim = space.dims[-1]
    size = dim.lowest + steps * dim.step
    return space.resized({dim.name: size}) if dim.admits(size) else space


def opened(target: Target, params: Params, asked: Judge) -> Candidate | Function:
    """The process of the implementation that is judged, called once; a function of this process as it is.

    Raises CandidateError if it does not load, or fails on ones (see Candidate.probe); MissingArraysError;
    HandingError.
    """
    if not isinstance(asked.implementation, str):
        return handing.opened(asked.handing)(asked.implementation)
    process = Candidate(asked.implementation, timeout=asked.timeout, handing=asked.handing)
    try:
        process.probe(target, params)
    except BaseException:
        process.close()
        raise
    return process


def contract_of(target: Target) -> Contract:
    """The contract of a target. Raises CandidateError if it has none."""
    if target.contract is None:
        raise CandidateError(
            f"target {target.name} takes no candidate: its claim is about the arithmetic, not about one function"
        )
    return target.contract
