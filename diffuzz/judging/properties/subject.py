"""What is asked whether it keeps a property: a user's function, or an implementation that diffuzz has, called by rows.

    subject = opened(targets.get("softmax"), {}, Keep("my_kernels.py:soft_max"))
    arrays = subject.drawn({"b": 3, "n": 100})
    subject.returned(arrays).results

Sizes are those of the dimensions of one call; ``b`` is one of them, the number of rows, where a function takes whole
batches. Numbers are drawn so that those of a smaller call are the first ones of a larger call.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, TracebackType

import attrs
import numpy as np

from diffuzz import formats, kernels, registry
from diffuzz.cases import domain, draws
from diffuzz.cases.ranges import clip
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.judging import examination, pair
from diffuzz.judging.calls import right_result, signature_of
from diffuzz.judging.candidate import contract_of, unopened
from diffuzz.judging.handing.placing import only_contiguous
from diffuzz.judging.memory import Place
from diffuzz.judging.opening import CandidateError, check_handing, check_name, is_python
from diffuzz.judging.properties import process
from diffuzz.judging.properties.process import Returned
from diffuzz.judging.question import Function, Keep
from diffuzz.kernels.process.channel import Failure, ResultError
from diffuzz.kernels.process.worker import ResourceError, RowsFailedError, Worker, WorkerError
from diffuzz.registry import located
from diffuzz.targets.contract import Contract, Result
from diffuzz.targets.parameter import Params
from diffuzz.targets.target import Target
from diffuzz.targets.tensors import BATCH_SIZES

Arrays = dict[str, np.ndarray]
Sizes = Mapping[str, int]
BATCH = domain.BATCH
# Numbers in the pool that arrays are drawn from, and blocks; primes, which no width of a loop divides.
_POOL, _BLOCKS = 65537, 257
# Steps through the pool from one index of an axis to the next.
_STEPS = (1, 7919, 15485, 32417, 48611, 58013)
# Room for a result in bytes: so many times those of the inputs, and more. What is longer is asked for again.
_MORE, _LEAST = 2, 2**12
# Sizes of the first call, at most.
_USUAL = 70
# Numbers of a call for which it is said whether it is right.
_JUDGED = 2**21
# Numbers of a call, at most, for which the reference says which shape its results have.
_CHECKED = 2**14


@attrs.define
class Subject:
    """See the module's docstring. ``kind`` says what is called:

    python     a function of Python in a process of its own
    library    a function of C, whose arrays are contiguous and aligned
    program    a program, to which arrays are sent
    here       a function of Python in this process
    kernels    an implementation of diffuzz, which is called with arrays of its own making

    ``contiguous`` says why its arrays are contiguous and aligned, where they always are; or is empty.
    """

    name: str
    kind: str
    target: Target
    params: Params
    _call: Callable[[Arrays, Mapping[str, Place], Mapping[str, object]], Returned]
    _end: Callable[[], None]
    _again: Callable[[Mapping[str, str]], Subject] | None = None
    _started: Callable[[], int] = attrs.field(default=lambda: 0)
    _names: Callable[[], tuple[str, ...]] = attrs.field(default=tuple)
    contiguous: str = attrs.field(default="", kw_only=True)
    _others: dict[frozenset[tuple[str, str]], Subject] = attrs.field(init=False, factory=dict)
    calls: int = attrs.field(init=False, default=0)
    # Seconds in which processes were started and have loaded the function, with their first calls.
    loading: float = attrs.field(init=False, default=0.0)
    seed: int = attrs.field(init=False, default=0)
    pools: dict[str, np.ndarray] = attrs.field(init=False, factory=dict)
    # What the contract says of the results, by the shapes of the arrays.
    _needed: dict[tuple[tuple[str, tuple[int, ...]], ...], list[Result]] = attrs.field(init=False, factory=dict)

    def __enter__(self) -> Subject:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End its processes, if there are any; another call starts a fresh one."""
        self._end()
        for other in self._others.values():
            other.close()
        self._others.clear()

    def elsewhere(self, variables: Mapping[str, str]) -> Subject:
        """The same in another process, in whose environment these variables are from its beginning on."""
        if self._again is None:
            raise TypeError(f"{self.name} has no process")
        key = frozenset(variables.items())
        if key not in self._others:
            self._others[key] = self._again(variables)
        return self._others[key]

    @property
    def all_calls(self) -> int:
        """How many calls were made, in other processes, too."""
        return self.calls + sum(other.calls for other in self._others.values())

    def afresh(self) -> Subject:
        """The same in a process of its own, for the caller to close."""
        if self._again is None:
            raise TypeError(f"{self.name} has no process")
        self.calls += 1
        return self._again({})

    @property
    def clock(self) -> float:
        """Seconds of a clock that stands while processes load."""
        return time.monotonic() - self.loading - sum(other.loading for other in self._others.values())

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters of a function of Python, as far as it says them."""
        return self._names()

    @property
    def contract(self) -> Contract:
        """What it is held against."""
        return contract_of(self.target)

    @property
    def space(self) -> Space:
        """The cases of the contract."""
        return self.contract.space(self.params)

    @property
    def dims(self) -> dict[str, Dim]:
        """The dimensions of a call by name, those of one size, too."""
        own = {dim.name: dim for dim in self.space.dims if dim.name != "row"}
        if BATCH in own and not any(one.name == BATCH for one in domain.restrictions(self.params)):
            # A few rows are enough for values; what rows know of each other may show among many.
            own[BATCH] = _with_many(own[BATCH])
        return {BATCH: domain.batch(self.params)} | own if self.contract.batched else own

    def drawn(self, sizes: Sizes) -> Arrays:
        """The arrays of a call of these sizes, with a leading axis of rows where whole batches are taken."""
        return {spec.name: self._array(spec, sizes) for spec in self.space.tensors if spec.absent is None}

    def _array(self, spec: TensorSpec, sizes: Sizes) -> np.ndarray:
        shape = [sizes.get(dim.name, dim.size) for dim in spec.shape]
        if self.contract.batched:
            shape = [sizes.get(BATCH, self.dims[BATCH].lowest), *shape]
        if spec.name in self.scalars:
            return np.full(shape, np.clip(0, spec.low, spec.high), spec.dtype)
        pool = self._pool(spec)
        block = None if spec.format is None else formats.get(spec.format)
        if block is not None:
            shape[-1] //= block.block_size
        index = np.zeros((), np.int64)
        for axis, size in enumerate(reversed(shape)):
            step = np.arange(size, dtype=np.int64) * _STEPS[axis % len(_STEPS)]
            index = step.reshape(-1, *[1] * axis) + index
        taken = pool[(index + 1) % len(pool)]
        if block is not None:
            return taken.reshape(*shape[:-1], -1)
        return taken

    def others(self, sizes: Sizes) -> Arrays:
        """Other numbers than those that are drawn for these sizes."""
        seed, pools = self.seed, self.pools
        self.seed, self.pools = seed + 1, {}
        try:
            return self.drawn(sizes)
        finally:
            self.seed, self.pools = seed, pools

    @property
    def scalars(self) -> frozenset[str]:
        """Arrays that stand for scalar arguments."""
        return frozenset(one.array for one in self.contract.scalars)

    def _pool(self, spec: TensorSpec) -> np.ndarray:
        if spec.name not in self.pools:
            rng = np.random.default_rng([self.seed, zlib.crc32(spec.name.encode())])
            self.pools[spec.name] = _pool(spec, rng)
        return self.pools[spec.name]

    def part(self, arrays: Arrays, windows: Mapping[str, tuple[int, int]]) -> Arrays:
        """The arrays with dimensions cut to windows, [begin, end)."""
        return {name: array[self._windows(name, windows)] for name, array in arrays.items()}

    def _windows(self, name: str, windows: Mapping[str, tuple[int, int]]) -> tuple[slice, ...]:
        spec = self.space[name]
        names = [dim.name for dim in spec.shape]
        names = [BATCH, *names] if self.contract.batched else names
        found = []
        for axis, dim in enumerate(names):
            begin, end = windows.get(dim, (0, 2**62))
            if spec.format is not None and axis == len(names) - 1 and dim in windows:
                block = formats.get(spec.format)
                begin, end = (one // block.block_size * block.type_size for one in (begin, end))
            found.append(slice(begin, end))
        return tuple(found)

    def has(self, name: str, dim: str) -> int | None:
        """The axis of an array that has a dimension."""
        names = [one.name for one in self.space[name].shape]
        names = [BATCH, *names] if self.contract.batched else names
        return names.index(dim) if dim in names else None

    def case(self, arrays: Arrays) -> Arrays:
        """The same as a batch of cases."""
        return _batch(self.contract, self.params, arrays)

    def returned(
        self,
        arrays: Arrays,
        places: Mapping[str, Place] | None = None,
        more: Mapping[str, object] = MappingProxyType({}),
    ) -> Returned:
        """What one call gives, with the inputs at ``places`` (of arguments, by name); ``more`` are arguments beside
        those of the contract. Raises CandidateError if the function cannot be loaded.
        """
        self.calls += 1
        began, started = time.monotonic(), self._started()
        got = self._call(arrays, places or {}, more)
        if self._started() != started:
            self.loading += time.monotonic() - began
        if got.failure is None and sum(one.size for one in arrays.values()) <= _CHECKED:
            got = attrs.evolve(got, failure=self._misfit(arrays, got.results))
        return got

    def inputs(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """The arguments of the call that are arrays, by name."""
        call = self.contract.first_call(self.params, self.case(arrays))
        given = {} if call is None else call.by_name(self.contract.arguments)
        return {name: one for name, one in given.items() if isinstance(one, np.ndarray)}

    def exact(self, arrays: Arrays) -> list[np.ndarray]:
        """The results of the reference, in float64 unless they are fixed, as a function returns them."""
        batch = self.case(arrays)
        with np.errstate(all="ignore"):
            return _unpacked(self.contract, self.params, batch, right_result(self.contract, self.params, batch))

    def judged(self, arrays: Arrays, returned: Returned) -> float | None:
        """How far a result is from the exact one, in units of its bound; of one that is fixed, how many elements are
        wrong. None where that is not known.
        """
        if returned.failure is not None or sum(one.size for one in arrays.values()) > _JUDGED:
            return None
        results = returned.results

        def replayed(*positional: object, **named: object) -> object:
            return results if len(results) > 1 else results[0]

        looked = examination.examination(self.target, self.params, replayed, self.name)
        try:
            with np.errstate(all="ignore"):
                outcome = looked.repeated(self.case(arrays))().outcome
        except (CandidateError, ValueError):
            return None
        worst = np.nan_to_num(outcome.value, nan=0.0, posinf=np.inf)
        return float(worst.max())

    def check(self) -> None:
        """Call it once, with usual sizes. Raises CandidateError where it raises, or returns something else than the
        contract says.
        """
        arrays = self.drawn({name: nearest(dim, min(dim.size, _USUAL)) for name, dim in self.dims.items()})
        got = self.returned(arrays)
        shapes = ", ".join(f"{name} {one.dtype}{list(one.shape)}" for name, one in self.inputs(arrays).items())
        said = f"(called with {shapes}; its signature: {self.contract.signature})"
        failure = got.failure or self._misfit(arrays, got.results)
        if failure is not None and failure.kind in ("raised", "garbage", "skipped"):
            verb = {"raised": "raises ", "skipped": "skips its first call: "}.get(failure.kind, "")
            raise CandidateError(f"candidate {self.name} {verb}{failure.text} {said}")

    def _misfit(self, arrays: Arrays, results: Sequence[np.ndarray]) -> Failure | None:
        """What is said of results of other shapes or dtypes than the contract has for these arrays."""
        if self.kind == "kernels":
            return None
        shapes = tuple((name, one.shape) for name, one in arrays.items())
        if shapes not in self._needed:
            try:
                with np.errstate(all="ignore"):
                    self._needed[shapes] = self._wanted(arrays)
            except ValueError:
                # Sizes that do not go together: nothing is said of their results.
                return None
        wanted = self._needed[shapes]
        if len(results) == len(wanted) and all(map(Result.admits, wanted, results)):
            return None
        given = ", ".join(f"{one.dtype}{list(one.shape)}" for one in results) or "nothing"
        return Failure("garbage", f"returns {given}, where {', '.join(map(str, wanted))} is needed")

    def _wanted(self, arrays: Arrays) -> list[Result]:
        batch = self.case(arrays)
        if self.contract.results is None:
            right = self.contract.reference(self.params, batch)
            right = right if self.contract.batched else right[0]
            dtype = str(self.params.get("dtype", right.dtype)) if right.dtype == np.float32 else str(right.dtype)
            return [Result(right.shape, dtype)]
        rows = (len(next(iter(batch.values()))),) if self.contract.batched else ()
        return [Result((*rows, *one.shape), one.dtype) for one in self.contract.results(self.params, batch)]


def _with_many(dim: Dim) -> Dim:
    """The dimension, where it is a batch of which nothing else was said, with as many rows as any other batch."""
    if (dim.lowest, dim.highest) != BATCH_SIZES:
        return dim
    return attrs.evolve(dim, largest=domain.LARGEST_BATCH)


def _pool(spec: TensorSpec, rng: np.random.Generator) -> np.ndarray:
    if spec.kind == "blocks":
        fmt = formats.get(spec.format or "")
        one = attrs.evolve(spec, shape=(Dim("k", fmt.block_size),), largest_scale=min(spec.largest_scale, 4.0))
        return draws.uniform(Space((one,)), rng, _BLOCKS)[spec.name]
    flat = attrs.evolve(spec, shape=(Dim("k", 1),), smallest_peak=0.0)
    if spec.dtype == "int32":
        top = min(int(spec.high), 4095) if spec.kind == "positions" else int(spec.high)
        return rng.integers(int(max(spec.low, -top)), top + 1, _POOL).astype(np.int32)
    if spec.kind == "gain":
        numbers = np.exp(rng.standard_normal(_POOL))
    else:
        numbers = rng.standard_normal(_POOL) * min(1.0, (spec.high - spec.low) / 16)
    middle = 0.0 if spec.low <= 0 <= spec.high else (0.0 if spec.kind == "gain" else (spec.low + spec.high) / 2)
    return clip(flat, (numbers + middle).reshape(-1, 1).astype(np.float64)).reshape(-1)


def _unpacked(
    contract: Contract, params: Params, batch: Mapping[str, np.ndarray], packed: np.ndarray
) -> list[np.ndarray]:
    """Results as a function returns them, of those that a contract has for a batch of cases."""
    rows: Callable[[np.ndarray], np.ndarray] = (lambda one: one) if contract.batched else (lambda one: one[0])
    if contract.results is None:
        return [rows(packed)]
    found, place = [], 0
    for one in contract.results(params, batch):
        size = math.prod(one.shape)
        found.append(rows(packed[:, place : place + size].reshape(len(packed), *one.shape)))
        place += size
    return found


def opened(target: Target, given: Mapping[str, object] | None, asked: Keep, *, seed: int = 0) -> Subject:
    """What is asked, called once, with parameters as users give them.

    Raises, one line each: ParameterError; CandidateError; QuestionError; MissingKernelsError; HandingError;
    MissingArraysError.
    """
    contract_of(target)
    params = target.contract_params(given)
    if asked.kernels is not None:
        made = _kernels(target, params, asked.kernels)
    elif isinstance(asked.implementation, str):
        made = _in_a_process(target, params, asked)
    elif asked.implementation is not None:
        made = _here(target, params, asked, asked.implementation)
    else:
        raise TypeError("Keep(...): an implementation or kernels are needed")
    made.seed = seed
    try:
        made.check()
    except BaseException:
        made.close()
        raise
    return made


def _request(
    contract: Contract,
    params: Params,
    batch: Mapping[str, np.ndarray],
    places: Mapping[str, Place],
    more: Mapping[str, object],
) -> tuple[process.Request, dict[int, np.ndarray]]:
    call = contract.first_call(params, batch)
    if call is None:
        raise TypeError("the contract makes no call")
    request, arrays = process.arguments(call.positional, {**call.named, **more})
    return attrs.evolve(request, names=contract.arguments, places=dict(places)), arrays


def _here(target: Target, params: Params, asked: Keep, implementation: Function) -> Subject:
    contract = contract_of(target)
    hand, caller = process.opened(asked.handing)
    function = hand(implementation)

    def call(arrays: Arrays, places: Mapping[str, Place], more: Mapping[str, object]) -> Returned:
        request, numbered = _request(contract, params, _batch(contract, params, arrays), places, more)
        try:
            return caller(function, request, numbered)
        except ResultError as error:
            return Returned(failure=Failure("garbage", str(error)))
        except (Exception, SystemExit) as error:
            return Returned(failure=Failure("raised", located(error)))

    contiguous = only_contiguous(asked.handing)
    return Subject(asked.name, "here", target, params, call, lambda: None, contiguous=contiguous)


def _batch(contract: Contract, params: Params, arrays: Arrays) -> dict[str, np.ndarray]:
    batch = arrays if contract.batched else {key: array[None] for key, array in arrays.items()}
    return contract.space(params).filled(batch)


def _in_a_process(
    target: Target, params: Params, asked: Keep, variables: Mapping[str, str] = MappingProxyType({})
) -> Subject:
    contract, name = contract_of(target), str(asked.implementation)
    check_name(name)
    check_handing(name, asked.handing)
    asked.handing.check_installed()
    kind = "python" if is_python(name) else "program" if name.startswith("run:") else "library"
    worker = Worker(
        f"{process.__name__}:serve",
        (name, registry.outside(), asked.handing),
        timeout=asked.timeout,
        packages=asked.handing.packages,
        environment=variables,
    )

    def call(arrays: Arrays, places: Mapping[str, Place], more: Mapping[str, object]) -> Returned:
        batch = _batch(contract, params, arrays)
        request, numbered = _request(contract, params, batch, places, more)
        if kind != "python":
            expected = None if contract.results is None else contract.results(params, batch)
            like = np.zeros((1, 1)) if expected is not None else np.asarray(contract.reference(params, batch))
            request = attrs.evolve(request, signature=signature_of(contract, target.name, params, expected, like))
        given = {f"a{number}": _bytes(array) for number, array in numbered.items()}
        room = _LEAST + _MORE * sum(array.size for array in given.values())
        try:
            ran = worker.run(request, given, shape=(room,), dtype="uint8")
            if not ran.failures and (length := process.longer(ran.result[0])):
                ran = worker.run(None, given, shape=(length,), dtype="uint8")
        except ResourceError as error:
            raise CandidateError(f"candidate {name}: {error}") from error
        except WorkerError as error:
            raise unopened(name, error) from error
        if ran.failures:
            return Returned(failure=ran.failures[0])
        try:
            return process.read(ran.result[0])
        except (ValueError, KeyError, TypeError) as error:
            raise CandidateError(f"candidate {name} wrote over the answer of its own process") from error

    def again(variables: Mapping[str, str]) -> Subject:
        return _in_a_process(target, params, asked, variables)

    def parameters() -> tuple[str, ...]:
        if kind != "python":
            return ()
        ran = worker.run(process.NAMES, {"a0": np.zeros((1, 1), np.uint8)}, shape=(_LEAST,), dtype="uint8")
        return () if ran.failures else process.names_in(ran.result[0])

    contiguous = f"arrays of a {kind} are contiguous and aligned, as its interface says"
    if kind == "python":
        contiguous = only_contiguous(asked.handing)
    return Subject(
        asked.name, kind, target, params, call, worker.close, again, lambda: worker.starts, parameters,
        contiguous=contiguous,
    )  # fmt: skip


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)[None]


def _kernels(target: Target, params: Params, name: str) -> Subject:
    contract = pair.contract_of(target)
    pair.check_known(target, params, name)
    module = kernels.get(name)

    def call(arrays: Arrays, places: Mapping[str, Place], more: Mapping[str, object]) -> Returned:
        batch = _batch(contract, params, arrays)
        try:
            with np.errstate(all="ignore"):
                packed = np.array(contract.run(params, {key: np.array(one) for key, one in batch.items()}, module))
        except RowsFailedError as error:
            return Returned(failure=next(iter(error.ran.failures.values())))
        except Exception as error:
            return Returned(failure=Failure("raised", located(error)))
        return Returned(tuple(_unpacked(contract, params, batch, packed)))

    contiguous = "an implementation of diffuzz is called with arrays of its own making"
    return Subject(name, "kernels", target, params, call, lambda: None, contiguous=contiguous)


def nearest(dim: Dim, size: int) -> int:
    """The admissible size of a dimension that is nearest to ``size``, and not above it where one is not."""
    if dim.fixed:
        return dim.size
    return max(dim.lowest, min(dim.highest, size // dim.step * dim.step))


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
