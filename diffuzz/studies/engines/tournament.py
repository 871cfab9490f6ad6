"""Engines against each other and against what people use instead: the same targets, the same seconds.

    for table in compare([targets.get("softmax")], seconds=10, seeds=[0]):
        print(table.target, {name: table.median(name) for name in table.engines})

Every competitor (the engines of diffuzz, and the peers of diffuzz.studies.engines.peers) has ``seconds`` on the clock
for each target and seed, and no other budget. All of them evaluate through an Objective: batches are screened in the
size that the competitor hands in, and confirmed by the exact implementations. The time that JAX takes to trace and
compile is measured separately and does not count. A competitor that reaches the bound stops there.

``blind`` is auto without the constructions that a target may know (``Target.starts``). It shows what the search is
worth for a target whose bound nobody has derived yet, and competes like the others.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeAlias

import attrs
import numpy as np

from diffuzz import interruption
from diffuzz.cases import draws
from diffuzz.judging.problem import Problem, open_problem
from diffuzz.registry import UnknownNameError
from diffuzz.searching import engines
from diffuzz.searching.objective import Budget, BudgetSpentError, Objective, Screen
from diffuzz.searching.screen import compile_screen, configured_jax
from diffuzz.searching.search import MissingDependencyError
from diffuzz.studies.engines.peers import PEERS
from diffuzz.targets.outcome import Bound
from diffuzz.targets.parameter import Params
from diffuzz.targets.target import Target
from diffuzz.telling import Phase, parts, tell

# A competitor with the share LEVEL of the best value is level with the best, and has arrived with the share ARRIVED.
LEVEL, ARRIVED = 0.999, 0.99
BLIND = "blind"
# A package that may be missing or fail if all competitors are compared, because it does not support every NumPy.
OPTIONAL = "nevergrad"
NOTHING_TO_DO = "did not run: nothing to work with here"

# A compiled screen, None without a screen, and the seconds that compiling took.
_Compiled: TypeAlias = tuple[Screen | None, float]
# Compiled screens by batch size.
Screens: TypeAlias = dict[int, _Compiled]


@attrs.frozen
class Run:
    """One competitor on one target with one seed.

    ``seconds`` is the time on the clock, and ``compiling`` the seconds of JAX that did not count. ``stopped`` says why
    the run ended. ``history`` has (seconds, value) of each improvement. ``problem`` says why there is no result; it is
    None if there is one.
    """

    engine: str
    seed: int
    value: float = 0.0
    evaluations: int = 0
    seconds: float = 0.0
    compiling: float = 0.0
    stopped: str = ""
    history: tuple[tuple[float, float], ...] = ()
    problem: str | None = None


@attrs.frozen
class Table:
    """All runs on one target. ``planned`` is the number of runs that were planned; None if all of them took place."""

    target: str
    params: Params
    measure: str
    bound: Bound | None
    runs: tuple[Run, ...]
    planned: int | None = None

    @property
    def finished(self) -> bool:
        """Whether every run took place, so that competitors can be compared."""
        return self.planned is None or len(self.runs) == self.planned

    @property
    def engines(self) -> tuple[str, ...]:
        """The competitors, in the order of their runs."""
        return tuple(dict.fromkeys(run.engine for run in self.runs))

    def of(self, engine: str) -> list[Run]:
        """The runs of a competitor that took place."""
        return [run for run in self.runs if run.engine == engine and run.problem is None]

    def typical(self, engine: str) -> Run | None:
        """The run with the (lower) median value of a competitor; None if none took place."""
        runs = sorted(self.of(engine), key=lambda run: run.value)
        return runs[(len(runs) - 1) // 2] if runs else None

    def median(self, engine: str) -> float:
        """The (lower) median value of a competitor; 0 if no run took place."""
        run = self.typical(engine)
        return run.value if run else 0.0

    @property
    def best(self) -> float:
        """The largest median value of all competitors."""
        return max((self.median(engine) for engine in self.engines), default=0.0)

    @property
    def whole(self) -> float:
        """The value that fractions refer to: the bound, or the best if there is no bound above zero."""
        return self.bound.value if self.bound and self.bound.value > 0 else self.best

    def fraction(self, value: float) -> float:
        """``value`` as a share of the whole; 1 if both are zero."""
        if value == self.whole:
            return 1.0
        return value / self.whole if self.whole > 0 else math.inf

    @property
    def goal(self) -> float:
        """The value at which a competitor has arrived: 99 % of the bound if any of them got there, else of the best."""
        return ARRIVED * (self.whole if self.best >= ARRIVED * self.whole else self.best)

    def arrival(self, engine: str) -> float:
        """The (lower) median of the seconds until ``goal``; a run that did not get there counts as infinite."""
        times = [next((at for at, value in run.history if value >= self.goal), math.inf) for run in self.of(engine)]
        return statistics.median_low(times or [math.inf])

    @property
    def level(self) -> bool | None:
        """Whether auto is level with the best; None if auto did not run, or runs are missing."""
        return self.median("auto") >= LEVEL * self.best if self.of("auto") and self.finished else None


def names() -> tuple[str, ...]:
    """All competitors: auto with and without constructions, the other engines, and the peers."""
    return ("auto", BLIND, *(name for name in engines.names() if name not in ("auto", "prompts", "device")), *PEERS)


def check(chosen: Iterable[str] | None) -> tuple[str, ...]:
    """The competitors to compare: those ``chosen``, without repetitions, or all.

    Raises UnknownNameError for an unknown name, and MissingDependencyError for a missing package. If all are compared,
    the package OPTIONAL may be missing, and its runs say so.
    """
    picked = names() if chosen is None else tuple(dict.fromkeys(chosen))
    for name in picked:
        if name not in names():
            raise UnknownNameError(f"there is no engine {name!r} (engines: {', '.join(names())})")
    packages = {PEERS[name].package for name in picked if name in PEERS}
    need(sorted(package for package in packages if package and (chosen is not None or package != OPTIONAL)))
    return picked


def need(packages: Iterable[str]) -> None:
    """Raise MissingDependencyError unless all ``packages`` are installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise MissingDependencyError(
            f"this comparison needs {', '.join(missing)}, not installed here: pip install 'diffuzz-kernels[bench]'"
        )


def compare(
    chosen: Sequence[Target],
    given: Params | None = None,
    *,
    seconds: float,
    seeds: Sequence[int],
    competitors: Sequence[str] | None = None,
    on_table: Callable[[Table], None] | None = None,
) -> list[Table]:
    """A table for each target. If the user interrupts, the tables have the finished runs.

    Args:
        given: parameters, the same for all targets.
        seconds: time of each run, without compilation.
        seeds: random seeds; every competitor runs once with each.
        competitors: some of ``names()``, all by default.
        on_table: called with each table.

    Raises, before anything runs, what ``check`` raises, ParameterError, and ImportError if jax does not start.
    """
    picked = check(competitors)
    problems = [open_problem(target, given) for target in chosen]
    configured_jax()
    tables = []
    planned = iter(
        parts([(problem, name, seed) for problem in problems for name in picked for seed in seeds], "runs", _named)
    )
    for problem in problems:
        runs: list[Run] = []
        interrupted = False
        try:
            screens: Screens = {}
            for name in picked:
                for seed in seeds:
                    next(planned)
                    interruption.check()
                    runs.append(_run(name, problem, seconds, seed, screens))
        except KeyboardInterrupt:
            interrupted = True
        if runs:
            asked = (problem.target.name, problem.params, problem.measure, problem.bound)
            table = Table(*asked, tuple(runs), len(picked) * len(seeds))
            tables.append(table)
            if on_table:
                on_table(table)
        if interrupted:
            break
    return tables


def _named(run: tuple[Problem, str, int]) -> str:
    problem, name, seed = run
    return f"{problem.target.name}, {name}, seed {seed}"


def _run(name: str, problem: Problem, seconds: float, seed: int, screens: Screens) -> Run:
    """One competitor on one problem; a run that fails says why."""
    rows = None
    try:
        if name in PEERS:
            peer = PEERS[name]
            if peer.module is not None:
                importlib.import_module(peer.module)
            rounds, rows = peer.rounds, peer.rows
        elif name == BLIND:
            rounds, problem = engines.get("auto"), problem.without_starts()
        else:
            rounds = engines.get(name)
        rows = rows or Objective(problem, Budget(0)).rows
        if rows not in screens:
            screens[rows] = _compiled(problem, rows)
        return _race(name, rounds, problem, Budget(seconds), seed, screens[rows])
    except ModuleNotFoundError as error:
        return Run(name, seed, problem=f"did not run: {error.name} is not installed")
    except Exception as error:
        # A package of any version may fail, or an engine of ours. The other competitors are compared nevertheless.
        return Run(name, seed, problem=" ".join(f"failed: {type(error).__name__}: {error}".split()))


def _race(
    name: str, rounds: engines.Rounds, problem: Problem, budget: Budget, seed: int, compiled_screen: _Compiled
) -> Run:
    """One run with a screen that is already compiled."""
    screen, compiling = compiled_screen
    with _compile_seconds() as compiled:
        objective = Objective(problem, budget, screen=screen, clock=lambda: time.monotonic() - compiled(), engine=name)
        tell(Phase("searching"))
        with suppress(BudgetSpentError):
            for _ in rounds(objective, np.random.default_rng(seed)):
                pass
        return Run(
            engine=name,
            seed=seed,
            value=objective.best.value if objective.best else 0.0,
            evaluations=objective.evaluations,
            seconds=objective.seconds,
            compiling=compiling + compiled(),
            stopped=objective.stopped or "ideas",
            history=tuple((found.seconds, found.value) for found in objective.history),
            problem=None if objective.evaluations else NOTHING_TO_DO,
        )


def _compiled(problem: Problem, rows: int) -> _Compiled:
    """A screen that has been called once, and the seconds that this took."""
    # The time of imports does not count either.
    for name in engines.names():
        engines.get(name)
    started = time.monotonic()
    tell(Phase("compiling"))
    screen = compile_screen(problem, rows)
    if screen is None:
        return None, 0.0
    with np.errstate(all="ignore"):
        screen(draws.uniform(problem.space, np.random.default_rng(0), rows))()
    return screen, time.monotonic() - started


@contextmanager
def _compile_seconds() -> Iterator[Callable[[], float]]:
    """Gives a function that says how many seconds JAX has spent on tracing, lowering and compiling since: the
    length of the union of the time spans that JAX reports.
    """
    from jax import monitoring

    spans: list[tuple[float, float]] = []

    def listen(event: str, duration_secs: float, **_: object) -> None:
        if not event.startswith("/jax/core/compile/"):
            return
        now = time.monotonic()
        started = now - duration_secs
        # A function that is traced within another one is reported before it.
        while spans and spans[-1][0] >= started:
            spans.pop()
        spans.append((max(started, spans[-1][1]) if spans else started, now))

    monitoring.register_event_duration_secs_listener(listen)
    try:
        yield lambda: sum(end - start for start, end in spans)
    finally:
        monitoring.unregister_event_duration_listener(listen)
