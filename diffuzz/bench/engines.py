"""Engines against each other and against what people use instead: the same targets, the same seconds.

    for table in compare([targets.get("softmax")], seconds=10, seeds=[0]):
        print(as_text(table))

Every competitor (the engines of diffuzz, and the peers of diffuzz.bench.peers) gets ``seconds`` on the clock for each
target and seed, and no other limit. All of them evaluate through an Objective: screened in batches of the size that
they hand in, confirmed by the exact implementations. What JAX takes to trace and compile is measured, and is on
nobody's clock. A competitor that reaches the limit stops there.

``blind`` is auto without the constructions that a target may know (``Target.starts``): what the search is worth where
nobody has derived the limit yet. It competes like the others.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import math
import statistics
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import attrs
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from diffuzz import corpus, engines, interruption, report, sampling
from diffuzz.bench.peers import PEERS
from diffuzz.objective import Budget, BudgetSpentError, Objective
from diffuzz.screen import compile_screen, configured_jax
from diffuzz.search import MissingDependencyError
from diffuzz.target import Bound, Params, Target

# Level with the best, and arrived at it: shares of a value.
LEVEL, ARRIVED = 0.999, 0.99
BLIND = "blind"
# A package that may be missing, or fail, in a comparison of all: it does not keep pace with NumPy.
OPTIONAL = "nevergrad"
NOTHING_TO_DO = "did not run: nothing to work with here"

Screens = dict[int, tuple[Any, float]]


@attrs.frozen
class Run:
    """One competitor on one target with one seed. ``history`` has (seconds, value) of each improvement; ``compiling``
    the seconds of JAX beside the clock; ``problem``, why there is nothing to show, or None.
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
    """All runs on one target; ``planned`` is how many there were to be, if not so many."""

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
        """The competitors, in order."""
        return tuple(dict.fromkeys(run.engine for run in self.runs))

    def of(self, engine: str) -> list[Run]:
        """The runs of a competitor that took place."""
        return [run for run in self.runs if run.engine == engine and run.problem is None]

    def typical(self, engine: str) -> Run | None:
        """The run of a competitor that has the (lower) median of its values; None if none took place."""
        runs = sorted(self.of(engine), key=lambda run: run.value)
        return runs[(len(runs) - 1) // 2] if runs else None

    def median(self, engine: str) -> float:
        """The value of that run, or 0."""
        run = self.typical(engine)
        return run.value if run else 0.0

    @property
    def best(self) -> float:
        """The largest of these medians."""
        return max((self.median(engine) for engine in self.engines), default=0.0)

    @property
    def whole(self) -> float:
        """What fractions are of: the proven limit or, where there is none above zero, the best."""
        return self.bound.value if self.bound and self.bound.value > 0 else self.best

    def fraction(self, value: float) -> float:
        """``value`` as a share of the whole; 1 where that is zero."""
        if value == self.whole:
            return 1.0
        return value / self.whole if self.whole > 0 else math.inf

    @property
    def goal(self) -> float:
        """What arriving is measured by: 99 % of the limit where someone got there, of the best where nobody did."""
        return ARRIVED * (self.whole if self.best >= ARRIVED * self.whole else self.best)

    def arrival(self, engine: str) -> float:
        """Median of the seconds until ``goal``; infinite for runs that did not get there."""
        times = [next((at for at, value in run.history if value >= self.goal), math.inf) for run in self.of(engine)]
        return statistics.median_low(times or [math.inf])

    @property
    def level(self) -> bool | None:
        """Whether auto is level with the best; None where it was not compared (with all)."""
        return self.median("auto") >= LEVEL * self.best if self.of("auto") and self.finished else None


def names() -> tuple[str, ...]:
    """All competitors: auto, with constructions and without, the other engines, the peers."""
    return ("auto", BLIND, *(name for name in engines.names() if name != "auto"), *PEERS)


def check(chosen: Iterable[str] | None) -> tuple[str, ...]:
    """The competitors to compare, ``chosen`` or all.

    Raises UnknownEngineError for one that there is not and MissingDependencyError where a package is missing. Without a
    choice an optional one may be: its row then says so.
    """
    picked = names() if chosen is None else tuple(dict.fromkeys(chosen))
    for name in picked:
        if name not in names():
            raise engines.UnknownEngineError(f"there is no engine {name!r} (engines: {', '.join(names())})")
    packages = {PEERS[name].package for name in picked if name in PEERS}
    need(sorted(package for package in packages if package and (chosen is not None or package != OPTIONAL)))
    return picked


def need(packages: Iterable[str]) -> None:
    """Raise MissingDependencyError, one line, unless all ``packages`` are installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise MissingDependencyError(
            f"this comparison needs {', '.join(missing)}, not installed here: pip install 'diffuzz-kernels[bench]'"
        )


def compare(
    chosen: Sequence[Target],
    given: Mapping[str, Any] | None = None,
    *,
    seconds: float,
    seeds: Sequence[int],
    competitors: Sequence[str] | None = None,
    on_table: Callable[[Table], None] | None = None,
) -> list[Table]:
    """A table for each of the targets; those of the finished runs if the user interrupts.

    Args:
        given: parameters of all the targets.
        seconds: budget of each run, compiling aside.
        seeds: of everything random; a run for each.
        competitors: some of ``names()``, all by default.
        on_table: called with each table.

    Raises what ``check`` raises, ParameterError, and ImportError if jax does not start, before anything runs.
    """
    picked = check(competitors)
    settings = [target.params(given) for target in chosen]
    configured_jax()
    tables = []
    for target, params in zip(chosen, settings, strict=True):
        runs: list[Run] = []
        interrupted = False
        try:
            screens: Screens = {}
            for name in picked:
                for seed in seeds:
                    interruption.check()
                    runs.append(_run(name, target, params, seconds, seed, screens))
        except KeyboardInterrupt:
            interrupted = True
        if runs:
            planned = len(picked) * len(seeds)
            table = Table(target.name, params, target.measure(params), target.bound(params), tuple(runs), planned)
            tables.append(table)
            if on_table:
                on_table(table)
        if interrupted:
            break
    return tables


def _run(name: str, target: Target, params: Params, seconds: float, seed: int, screens: Screens) -> Run:
    rows = None
    try:
        if name in PEERS:
            peer = PEERS[name]
            if peer.module is not None:
                importlib.import_module(peer.module)
            rounds, rows = peer.rounds, peer.rows
        elif name == BLIND:
            rounds, target = engines.get("auto"), attrs.evolve(target, starts=None)
        else:
            rounds = engines.get(name)
        return _race(name, rounds, target, params, seconds, seed, screens, rows)
    except ModuleNotFoundError as error:
        return Run(name, seed, problem=f"did not run: {error.name} is not installed")
    except Exception as error:
        # Somebody else's package, of whatever version, or a defect of ours: the others are compared all the same.
        return Run(name, seed, problem=" ".join(f"failed: {type(error).__name__}: {error}".split()))


def _race(
    name: str,
    rounds: engines.Rounds,
    target: Target,
    params: Params,
    seconds: float,
    seed: int,
    screens: Screens,
    rows: int | None,
) -> Run:
    rows = rows or Objective(target, params, Budget(0)).rows
    if rows not in screens:
        screens[rows] = _compiled(target, params, rows)
    screen, compiling = screens[rows]
    with _compile_seconds() as compiled:
        objective = Objective(
            target, params, Budget(seconds), screen=screen, clock=lambda: time.monotonic() - compiled(), engine=name
        )
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


def _compiled(target: Target, params: Params, rows: int) -> tuple[Any, float]:
    """A screen that has been called once, and the seconds that took."""
    # Importing is on nobody's clock either.
    for name in engines.names():
        engines.get(name)
    started = time.monotonic()
    screen = compile_screen(target, params, rows)
    if screen is None:
        return None, 0.0
    with np.errstate(all="ignore"):
        screen(sampling.uniform(target.space(params), np.random.default_rng(0), rows))()
    return screen, time.monotonic() - started


@contextmanager
def _compile_seconds() -> Iterator[Callable[[], float]]:
    """What JAX has spent on tracing, lowering and compiling since: the length of the union of its own time spans."""
    from jax import monitoring

    spans: list[tuple[float, float]] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if not event.startswith("/jax/core/compile/"):
            return
        now = time.monotonic()
        started = now - duration_secs
        # One function traced within another is reported before it.
        while spans and spans[-1][0] >= started:
            spans.pop()
        spans.append((max(started, spans[-1][1]) if spans else started, now))

    monitoring.register_event_duration_secs_listener(listen)
    try:
        yield lambda: sum(end - start for start, end in spans)
    finally:
        monitoring.unregister_event_duration_listener(listen)


# What is printed


def as_json(tables: list[Table], seconds: float, *, interrupted: bool = False) -> dict[str, Any]:
    """Everything that was measured: per target the medians, and every run with its history; ``interrupted`` if some
    are missing.
    """
    return {
        "budget_s": seconds,
        "targets": [_table_json(table) for table in tables],
        "summary": {"targets": len(tables), **_counts(tables)},
        "interrupted": interrupted,
        "environment": corpus.environment() | corpus.device(),
    }


def _table_json(table: Table) -> dict[str, Any]:
    return {
        "target": table.target,
        "params": dict(table.params),
        "measure": table.measure,
        "bound": None if table.bound is None else report.json_number(table.bound.value),
        "best": report.json_number(table.best),
        "auto_level": table.level,
        "finished": table.finished,
        "engines": [
            {
                "engine": engine,
                "value": report.json_number(table.median(engine)),
                "fraction": report.json_number(table.fraction(table.median(engine))),
                "arrival_s": report.json_number(table.arrival(engine)),
            }
            for engine in table.engines
        ],
        "runs": [_run_json(run) for run in table.runs],
    }


def _run_json(run: Run) -> dict[str, Any]:
    return attrs.asdict(run) | {
        "value": report.json_number(run.value),
        "history": [[at, report.json_number(value)] for at, value in run.history],
    }


def _counts(tables: list[Table]) -> dict[str, int]:
    """What auto reached, over the targets where it was compared with all."""
    compared = [table for table in tables if table.of("auto") and table.finished]
    limited = [table for table in compared if table.bound and table.bound.value > 0]
    return {
        "auto_compared": len(compared),
        "auto_level": sum(table.level is True for table in compared),
        "limits_above_zero": len(limited),
        "auto_at_99_percent_of_limit": sum(table.fraction(table.median("auto")) >= ARRIVED for table in limited),
    }


def as_text(table: Table) -> str:
    """The table of one target, and whether auto is level with the best."""
    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column(table.target, no_wrap=True, min_width=max(map(len, names())))
    for heading in ("best value", "of limit" if table.bound else "of best", "evals/s", "99 % after", "compiling"):
        grid.add_column(heading, justify="right", no_wrap=True)
    grid.add_column("", no_wrap=True)
    for engine in table.engines:
        grid.add_row(*_cells(table, engine))
    console = Console(width=160, file=io.StringIO(), color_system=None)
    console.print(grid)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    return "\n".join([*lines, *_remarks(table), ""]) + "\n"


def _cells(table: Table, engine: str) -> list[str]:
    runs = table.of(engine)
    if not runs:
        problem = next(run.problem for run in table.runs if run.engine == engine)
        return [engine, "", "", "", "", "", textwrap.shorten(problem or "", 76, placeholder=" ...")]
    value, arrival = table.median(engine), table.arrival(engine)
    rate = statistics.median(run.evaluations / max(run.seconds, 1e-9) for run in runs)
    return [
        engine,
        f"{value:.7g}",
        f"{100 * table.fraction(value):.2f} %",
        f"{rate:,.0f}",
        "" if math.isinf(arrival) else f"{arrival:.2g} s",
        f"{statistics.median(run.compiling for run in runs):.1f} s",
        "reached the limit" if all(run.stopped == "limit" for run in runs) else "",
    ]


def _remarks(table: Table) -> list[str]:
    bound = table.bound
    lines = [f"limit {bound.value:.7g} ({bound.because})" if bound else "no limit is proven: fractions of the best"]
    if not table.finished:
        lines.append(f"interrupted after {len(table.runs)} of {table.planned} runs")
    if table.level is not None:
        leader = max(table.engines, key=table.median)
        share = 1.0 if table.median("auto") == table.best else table.median("auto") / table.best
        lines.append(
            "auto is level with the best" if table.level else f"auto falls behind {leader}, {100 * share:.2f} % of it"
        )
    return lines


def summary(tables: list[Table]) -> str:
    """The counts, in words; nothing where auto was not compared."""
    counts = _counts(tables)
    if not counts["auto_compared"]:
        return ""
    return (
        f"auto is level with the best on {counts['auto_level']} of {counts['auto_compared']} targets, and reaches 99 % "
        f"of the limit on {counts['auto_at_99_percent_of_limit']} of the {counts['limits_above_zero']} whose limit is "
        "above zero\n"
    )
