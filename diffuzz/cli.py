"""The command line: ``python -m diffuzz search --target rmsnorm``. A contract that scripts depend on; see README.

Results go to stdout. Progress goes to stderr, and only when that is a terminal. Exit codes: 0 claim not confirmed, or
replay as recorded; 1 a witness was found, or a replay changed; 2 usage or bad input, one clear line; 3 a requested
oracle or dependency is missing; 70 a defect of diffuzz, with its traceback; 130 interrupted before there was anything
to keep.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import click

from diffuzz import __version__

CONFIRMED, BAD_INPUT, MISSING, INTERRUPTED = 1, 2, 3, 130
# EX_SOFTWARE of sysexits.h: Python's own 1 would say that a witness was found.
DEFECT = 70
DEFAULT_CORPUS = Path("corpus")

_UNITS = {"ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class _Seconds(click.ParamType):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*(ms|s|m|min|h|)", str(value).strip())
        if match is None or not 0 < (seconds := float(match[1]) * _UNITS[match[2]]) <= 1e6:
            self.fail(f"{value!r} is not a duration: 10s, 500ms, 2min or 1h are", param, ctx)
        return seconds


class _Setting(click.ParamType):
    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not (key and equals):
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        return key.strip(), text.strip()


class _Kernels(click.ParamType):
    name = "A,B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        names = [name.strip() for name in str(value).split(",")]
        if len(names) != 2 or not all(names):
            self.fail(f"{value!r} are not two names: ggml,libggml are", param, ctx)
        return names[0], names[1]


class _Number(click.ParamType):
    name = "number"

    def __init__(self, wanted: str, low: float = -math.inf, high: float = math.inf) -> None:
        self.wanted, self.low, self.high = wanted, low, high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        # Neither end itself: no NaN, no infinity, no share of nothing.
        if not self.low < number < self.high:
            self.fail(f"{value!r} is not {self.wanted}", param, ctx)
        return number


SECONDS, SETTING, KERNELS = _Seconds(), _Setting(), _Kernels()
LIMIT, SHARE = _Number("a finite number"), _Number("a share of the value, above 0 and at most 1", 0.0, 1.0 + 2**-52)
_params = click.option(
    "--param",
    "settings",
    type=SETTING,
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a parameter of the target (repeatable).",
)
_library = click.option(
    "--library",
    metavar="PATH",
    type=click.Path(exists=True),
    help="A build of ggml, folder or file, for `libggml` to stand for [default: that of ggml-python].",
)
_timeout = click.option(
    "--timeout",
    type=SECONDS,
    default="10s",
    show_default=True,
    help="Time that one call of the candidate may take; the first gets six times as much.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout.")
_entry = click.argument("entry", type=click.Path(path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="diffuzz")
def commands() -> None:
    """Find the input on which an inference kernel drifts most, prove how far it can get, keep the witness."""


@commands.command("targets")
@_json
def targets_command(as_json: bool) -> int:
    """List the targets, their parameters and their limits."""
    from diffuzz import printing, targets

    listed = [targets.get(name) for name in targets.names()]
    if as_json:
        _print_json({"targets": [printing.target_json(target) for target in listed]})
    else:
        _print(printing.targets_text(listed))
    return 0


@commands.command("search")
@click.option("--target", "target_name", required=True, metavar="NAME", help="What to search; see `targets`.")
@_params
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="auto, random, pbt, gradient, evolution or shapes.",
)
@click.option("--budget", type=SECONDS, default="10s", show_default=True, help="Time to search: 10s, 500ms, 2min.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Of everything random; printed, random by default.")
@click.option("--limit", type=LIMIT, help="T of the claim 'more than T' [default: the target's].")
@click.option(
    "--keep",
    type=SHARE,
    default=0.999,
    show_default=True,
    help="Share of the value that minimising must keep.",
)
@click.option("--candidate", metavar="FILE.py:FUNCTION", help="Test this function in the place of the implementation.")
@_timeout
@click.option("--kernels", type=KERNELS, help="Compare two implementations of the operation; see `targets`.")
@_library
@click.option(
    "--corpus",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_CORPUS,
    show_default=True,
    help="Where witnesses are saved.",
)
@click.option("--no-save", is_flag=True, help="Save nothing.")
@_json
def search_command(
    target_name: str,
    settings: tuple[tuple[str, str], ...],
    engine: str,
    budget: float,
    seed: int | None,
    limit: float | None,
    keep: float,
    candidate: str | None,
    timeout: float,
    kernels: tuple[str, str] | None,
    library: str | None,
    corpus: Path,
    no_save: bool,
    as_json: bool,
) -> int:
    """Search for the largest value, minimise the case that has it, judge the claim, save the witness."""
    from diffuzz import corpus as store
    from diffuzz import printing, targets
    from diffuzz.search import entry_of, search
    from diffuzz.verdict import Verdict

    target = targets.get(target_name)
    given = _given(settings)
    if not no_save:
        store.check_writable(corpus / target.name)
    with printing.progress(target.name, budget) as on_found:
        result = search(
            target,
            given,
            engine=engine,
            seconds=budget,
            seed=seed,
            limit=limit,
            keep=keep,
            candidate=candidate,
            timeout=timeout,
            kernels=kernels,
            library=library,
            on_found=on_found,
        )
    path, failure, interrupted = None, None, result.stopped == "interrupted"
    if result.case is not None and not no_save:
        try:
            path = store.save(entry_of(result), corpus)
        except store.CorpusError as error:
            # What was found is printed all the same.
            failure = str(error)
    if as_json:
        _print_json(printing.search_json(result, path))
    else:
        _print(printing.search_text(result, path))
    if failure is None and result.evaluations == 0 and result.verdict is Verdict.UNRESOLVED and not interrupted:
        failure = f"{budget:g} s were over before the first evaluation; compiling alone takes seconds: try --budget 10s"
    if failure is not None:
        return _complain(failure, BAD_INPUT)
    if result.case is None and interrupted:
        return INTERRUPTED
    return CONFIRMED if result.verdict is Verdict.CONFIRMED else 0


@commands.command("measure")
@click.argument("case_file", metavar="CASE", type=click.Path(path_type=Path))
@click.option("--target", "target_name", metavar="NAME", help="What to measure [default: the entry's].")
@_params
@click.option("--limit", type=LIMIT, help="T of the claim 'more than T' [default: the entry's or the target's].")
@_json
def measure_command(
    case_file: Path, target_name: str | None, settings: tuple[tuple[str, str], ...], limit: float | None, as_json: bool
) -> int:
    """Measure one case: a corpus entry (.json), or named arrays (.npz, .safetensors)."""
    from diffuzz import corpus as store
    from diffuzz import printing, targets
    from diffuzz.target import evaluate
    from diffuzz.verdict import Verdict, judge

    given: dict[str, Any] = _given(settings)
    if case_file.suffix == ".json":
        entry = store.load(case_file)
        if entry.candidate is not None:
            raise click.UsageError(f"{case_file}: found with a candidate: replay it, with --candidate")
        if entry.kernels is not None:
            raise click.UsageError(f"{case_file}: compares {' and '.join(entry.kernels)}: replay it")
        target, case = targets.get(target_name or entry.target), entry.case
        if target.name == entry.target:
            limit = entry.limit if limit is None and not given else limit
            given = dict(entry.params) | given
    else:
        if target_name is None:
            raise click.UsageError(f"{case_file}: arrays alone do not say what to measure: give --target")
        target, case = targets.get(target_name), store.load_arrays(case_file)
    params = target.params(given)
    measured = evaluate(target, params, case)
    limit = target.limit(params) if limit is None else limit
    verdict = judge(limit, measured.value, measured.noise, target.bound(params))
    if as_json:
        _print_json(printing.measurement_json(target, params, measured, limit, verdict))
    else:
        _print(printing.measurement_text(target, params, measured, limit, verdict))
    return CONFIRMED if verdict is Verdict.CONFIRMED else 0


@commands.command("minimise")
@_entry
@click.option("--keep", type=SHARE, default=0.9, show_default=True, help="Share of the value to keep.")
@click.option("--candidate", metavar="FILE.py:FUNCTION", help="The function, for an entry found with a candidate.")
@_timeout
@_library
@_json
def minimise_command(
    entry: Path, keep: float, candidate: str | None, timeout: float, library: str | None, as_json: bool
) -> int:
    """Make the witness of a corpus entry simpler, and save it as another entry in the same corpus (or beside it)."""
    from diffuzz import corpus as store
    from diffuzz import printing
    from diffuzz.search import minimised

    old = store.load(entry)
    folder = entry.resolve().parent
    corpus = folder.parent if folder.name == old.target else folder
    store.check_writable(corpus / old.target)
    new = minimised(old, keep, candidate=candidate, timeout=timeout, library=library)
    path = entry if new == old else store.save(new, corpus, always=True)
    if as_json:
        _print_json({"entry": str(entry), "minimised": str(path), "value": printing.report.json_number(new.value)})
    else:
        _print(printing.entry_text(new, path))
    return 0


@commands.command("show")
@_entry
@_json
def show_command(entry: Path, as_json: bool) -> int:
    """Show a corpus entry: the witness, what it confirms, and how it was found."""
    from diffuzz import corpus as store
    from diffuzz import printing

    loaded = store.load(entry)
    _print(store.dumps(loaded, indent=None) + "\n" if as_json else printing.entry_text(loaded, entry))
    return 0


@commands.command("replay")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--candidate", metavar="FILE.py:FUNCTION", help="The function, for entries found with a candidate.")
@_timeout
@_library
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write a JUnit report, too.")
@_json
def replay_command(
    paths: tuple[Path, ...],
    candidate: str | None,
    timeout: float,
    library: str | None,
    junit: Path | None,
    as_json: bool,
) -> int:
    """Measure every entry of the corpus again and compare with what it recorded [default: corpus/]."""
    from diffuzz import printing
    from diffuzz.candidate import Candidate
    from diffuzz.replay import exit_code, replay

    if junit is not None:
        # A path that cannot be written is known before anything is replayed.
        junit.touch()
    with contextlib.ExitStack() as stack:
        under_test = stack.enter_context(Candidate(candidate, timeout=timeout)) if candidate else None
        results = replay(paths or (DEFAULT_CORPUS,), under_test, library)
    if junit is not None:
        junit.write_text(printing.junit(results), encoding="utf-8")
    if as_json:
        _print_json(printing.replay_json(results))
    else:
        _print(printing.replay_text(results))
    return exit_code(results)


@commands.command("matrix")
@click.option("--target", "target_name", required=True, metavar="NAME", help="Whose operation; see `targets`.")
@_params
@click.option("--kernels", "chosen", metavar="A,B,...", help="Which implementations [default: all that are here].")
@_library
@click.option("--budget", type=SECONDS, default="5s", show_default=True, help="Time to search for each pair.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of everything random.")
@click.option(
    "--corpus",
    type=click.Path(path_type=Path, file_okay=False),
    help="Save there the witnesses of pairs that differ by more than rounding [default: nowhere].",
)
@_json
def matrix_command(
    target_name: str,
    settings: tuple[tuple[str, str], ...],
    chosen: str | None,
    library: str | None,
    budget: float,
    seed: int,
    corpus: Path | None,
    as_json: bool,
) -> int:
    """Search every pair of implementations: who agrees with whom to the bit, to rounding, by policy, or not at all."""
    from diffuzz import corpus as store
    from diffuzz import matrix, printing, targets

    target, given = targets.get(target_name), _given(settings)
    wanted = [name.strip() for name in (chosen or "").split(",") if name.strip()]
    absent = matrix.names(target, given, wanted)[1]
    if corpus is not None:
        store.check_writable(corpus / target.name)
    cells = matrix.matrix(
        target,
        given,
        seconds=budget,
        seed=seed,
        chosen=wanted,
        library=library,
        directory=corpus,
        on_cell=printing.matrix_progress(),
    )
    if as_json:
        _print_json(matrix.as_json(target, given, cells, absent))
    else:
        _print(matrix.as_text(cells, absent))
    return CONFIRMED if matrix.outside(cells) else 0


@commands.command("claims")
@click.option("--budget", type=SECONDS, default="5s", show_default=True, help="Time to search for each claim.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of everything random.")
@click.option("--model", type=click.Path(path_type=Path), help="A GGUF file, for the claims about a model.")
@click.option(
    "--corpus", type=click.Path(path_type=Path, file_okay=False), help="Save the witnesses there [default: nowhere]."
)
@_json
def claims_command(budget: float, seed: int, model: Path | None, corpus: Path | None, as_json: bool) -> int:
    """Reproduce the published claims, search each one, and judge it."""
    from diffuzz import claims, printing
    from diffuzz import corpus as store

    if corpus is not None:
        store.check_writable(corpus)
    settled = claims.settle(budget, seed, corpus=corpus, model_path=model, on_row=printing.claims_progress())
    if as_json:
        _print_json(claims.as_json(settled))
    else:
        _print(printing.claims_text(settled))
    return 0


@commands.group("bench", invoke_without_command=False)
def bench() -> None:
    """Measure diffuzz itself."""


@bench.command("mutants")
@click.argument("names", nargs=-1)
@click.option("--budget", type=SECONDS, default="10s", show_default=True, help="Time to search for each function.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of everything random.")
@_json
def mutants_command(names: tuple[str, ...], budget: float, seed: int, as_json: bool) -> int:
    """Search wrong kernels (and correct ones) as candidates: which are killed, and would ggml's tests see them."""
    from diffuzz.bench import mutation

    rows = mutation.score(budget, seed, names or None)
    click.echo(json.dumps(mutation.as_json(rows)) + "\n" if as_json else mutation.as_text(rows), nl=False)
    return 0


@bench.command("engines")
@click.option("--target", "names", multiple=True, metavar="NAME", help="Compare on this target (repeatable) [all].")
@_params
@click.option(
    "--engine", "competitors", multiple=True, metavar="NAME", help="Compare this engine or peer (repeatable) [all]."
)
@click.option("--budget", type=SECONDS, default="10s", show_default=True, help="Time for each run, compiling aside.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of everything random.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=1, show_default=True, help="Runs, of which the median.")
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="Draw best so far against time.")
@_json
def engines_command(
    names: tuple[str, ...],
    settings: tuple[tuple[str, str], ...],
    competitors: tuple[str, ...],
    budget: float,
    seed: int,
    seeds: int,
    picture: Path | None,
    as_json: bool,
) -> int:
    """Compare the engines, alone and together, with what people use instead, on equal time."""
    from diffuzz import targets
    from diffuzz.bench import engines

    if picture is not None:
        from diffuzz.bench import picture as drawing

        drawing.check(picture)
    tables = engines.compare(
        [targets.get(name) for name in names or targets.names()],
        _given(settings),
        seconds=budget,
        seeds=range(seed, seed + seeds),
        competitors=competitors or None,
        on_table=None if as_json else lambda table: _print(engines.as_text(table)),
    )
    if not tables:
        return INTERRUPTED
    if picture is not None:
        drawing.draw(tables, budget, picture)
    if as_json:
        _print_json(engines.as_json(tables, budget))
    else:
        _print(engines.summary(tables))
    return 0


@bench.command("witnesses")
@click.option("--target", "names", multiple=True, metavar="NAME", help="Minimise on this target (repeatable) [all].")
@_params
@click.option("--budget", type=SECONDS, default="3s", show_default=True, help="Time to search each target.")
@click.option(
    "--minimising", type=SECONDS, default="5s", show_default=True, help="Time for each way to minimise what was found."
)
@click.option("--keep", type=SHARE, default=0.999, show_default=True, help="Share of the value to keep.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of the search.")
@_json
def witnesses_command(
    names: tuple[str, ...],
    settings: tuple[tuple[str, str], ...],
    budget: float,
    minimising: float,
    keep: float,
    seed: int,
    as_json: bool,
) -> int:
    """Compare minimised witnesses with what ddmin and Hypothesis's shrinker make of the same cases."""
    from diffuzz import targets
    from diffuzz.bench import witnesses

    tables = witnesses.compare(
        [targets.get(name) for name in names or targets.names()],
        _given(settings),
        seconds=budget,
        minimising=minimising,
        keep=keep,
        seed=seed,
        on_table=None if as_json else lambda table: _print(witnesses.as_text(table)),
    )
    if not tables:
        return INTERRUPTED
    if as_json:
        _print_json(witnesses.as_json(tables, seconds=budget, minimising=minimising, keep=keep, seed=seed))
    else:
        _print(witnesses.summary(tables))
    return 0


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit with its code; bad input is one line on stderr, never a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names may be any bytes, and a terminal may know no Greek.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str]) -> int:
    try:
        code = commands.main(args=arguments or ["--help"], prog_name="python -m diffuzz", standalone_mode=False)
        return int(code or 0) if arguments else BAD_INPUT
    except click.ClickException as error:
        return _complain(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except ImportError as error:
        return _complain(str(error), MISSING)
    except (ValueError, OSError) as error:
        # Everything that a user can get wrong is a ValueError of ours, or the operating system's word about a file.
        return _complain(str(error), BAD_INPUT)
    except MemoryError:
        return _complain("not enough memory; choose smaller parameters", BAD_INPUT)
    except Exception:
        traceback.print_exc()
        return DEFECT


def _given(settings: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for key, value in settings:
        if given.setdefault(key, value) != value:
            raise click.UsageError(f"--param {key} is given twice, as {given[key]} and as {value}")
    return given


def _print_json(value: dict[str, Any]) -> None:
    _print(json.dumps(value, allow_nan=False) + "\n")


def _print(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has gone; the exit code still tells. Nor must Python complain when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, code: int) -> int:
    line = "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))
    click.echo(f"diffuzz: {line}", err=True)
    return code
