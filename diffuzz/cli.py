"""The command line: ``python -m diffuzz search --target rmsnorm``. A contract that scripts depend on; see README.

Results go to stdout. Progress goes to stderr, and only when that is a terminal. Exit codes: 0 claim not confirmed, or
replay as recorded; 1 a witness was found, or a replay changed; 2 usage or bad input, one clear line; 3 a requested
oracle or dependency is missing; 70 a defect of diffuzz, with its traceback; 130 interrupted before there was anything
to keep, or before all of a table was there.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import click

from diffuzz import __version__, interruption
from diffuzz.cli_bench import bench
from diffuzz.options import (
    BAD_INPUT,
    CONFIRMED,
    DEFECT,
    INTERRUPTED,
    JSON,
    KERNELS,
    LIBRARY,
    LIMIT,
    MISSING,
    PARAMS,
    SECONDS,
    SHARE,
    TIMEOUT,
    complain,
    given_parameters,
    print_json,
    print_text,
    unfinished,
)

DEFAULT_CORPUS = Path("corpus")
_entry = click.argument("entry", type=click.Path(path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="diffuzz")
def commands() -> None:
    """Find the input on which an inference kernel drifts most, prove how far it can get, keep the witness."""


@commands.command("targets")
@JSON
def targets_command(as_json: bool) -> int:
    """List the targets, their parameters and their limits."""
    from diffuzz import printing, targets

    listed = [targets.get(name) for name in targets.names()]
    if as_json:
        print_json({"targets": [printing.target_json(target) for target in listed]})
    else:
        print_text(printing.targets_text(listed))
    return 0


@commands.command("search")
@click.option("--target", "target_name", required=True, metavar="NAME", help="What to search; see `targets`.")
@PARAMS
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
@click.option("--first", is_flag=True, help="Stop at the first witness, instead of looking for the largest value.")
@click.option("--candidate", metavar="FILE.py:FUNCTION", help="Test this function in the place of the implementation.")
@TIMEOUT
@click.option("--kernels", type=KERNELS, help="Compare two implementations of the operation; see `targets`.")
@LIBRARY
@click.option(
    "--corpus",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_CORPUS,
    show_default=True,
    help="Where witnesses are saved.",
)
@click.option("--no-save", is_flag=True, help="Save nothing.")
@JSON
def search_command(
    target_name: str,
    settings: tuple[tuple[str, str], ...],
    engine: str,
    budget: float,
    seed: int | None,
    limit: float | None,
    keep: float,
    first: bool,
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
    from diffuzz import printing, printing_search, targets
    from diffuzz.search import entry_of, search
    from diffuzz.verdict import Verdict

    target = targets.get(target_name)
    given = given_parameters(settings)
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
            first=first,
            candidate=candidate,
            timeout=timeout,
            kernels=kernels,
            library=library,
            on_found=on_found,
        )
    path, failure, interrupted = None, None, result.stopped == "interrupted"
    if result.replays and not no_save:
        try:
            path = store.save(entry_of(result), corpus)
        except store.CorpusError as error:
            # What was found is printed all the same.
            failure = str(error)
    if as_json:
        print_json(printing_search.search_json(result, path))
    else:
        print_text(printing_search.search_text(result, path))
    if failure is None and result.evaluations == 0 and result.verdict is Verdict.UNRESOLVED and not interrupted:
        failure = f"{budget:g} s were over before the first evaluation; compiling alone takes seconds: try --budget 10s"
    if failure is not None:
        return complain(failure, BAD_INPUT)
    if result.case is None and interrupted:
        return INTERRUPTED
    return CONFIRMED if result.verdict is Verdict.CONFIRMED else 0


@commands.command("measure")
@click.argument("case_file", metavar="CASE", type=click.Path(path_type=Path))
@click.option("--target", "target_name", metavar="NAME", help="What to measure [default: the entry's].")
@PARAMS
@click.option("--limit", type=LIMIT, help="T of the claim 'more than T' [default: the entry's or the target's].")
@JSON
def measure_command(
    case_file: Path, target_name: str | None, settings: tuple[tuple[str, str], ...], limit: float | None, as_json: bool
) -> int:
    """Measure one case: a corpus entry (.json), or named arrays (.npz, .safetensors)."""
    from diffuzz import corpus as store
    from diffuzz import printing_search, targets
    from diffuzz.target import evaluate
    from diffuzz.verdict import Verdict, judge

    given: dict[str, Any] = given_parameters(settings)
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
        print_json(printing_search.measurement_json(target, params, measured, limit, verdict))
    else:
        print_text(printing_search.measurement_text(target, params, measured, limit, verdict))
    return CONFIRMED if verdict is Verdict.CONFIRMED else 0


@commands.command("minimise")
@_entry
@click.option("--keep", type=SHARE, default=0.9, show_default=True, help="Share of the value to keep.")
@click.option("--candidate", metavar="FILE.py:FUNCTION", help="The function, for an entry found with a candidate.")
@TIMEOUT
@LIBRARY
@JSON
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
        print_json({"entry": str(entry), "minimised": str(path), "value": printing.report.json_number(new.value)})
    else:
        print_text(printing.entry_text(new, path))
    return 0


@commands.command("show")
@_entry
@JSON
def show_command(entry: Path, as_json: bool) -> int:
    """Show a corpus entry: the witness, what it confirms, and how it was found."""
    from diffuzz import corpus as store
    from diffuzz import printing

    loaded = store.load(entry)
    print_text(store.dumps(loaded, indent=None) + "\n" if as_json else printing.entry_text(loaded, entry))
    return 0


@commands.command("replay")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--candidate", metavar="FILE.py:FUNCTION", help="The function, for entries found with a candidate.")
@TIMEOUT
@LIBRARY
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write a JUnit report, too.")
@JSON
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
        _check_writable(junit)
    with contextlib.ExitStack() as stack:
        under_test = stack.enter_context(Candidate(candidate, timeout=timeout)) if candidate else None
        results = replay(paths or (DEFAULT_CORPUS,), under_test, library)
    if as_json:
        print_json(printing.replay_json(results))
    else:
        print_text(printing.replay_text(results))
    if junit is not None:
        try:
            junit.write_text(printing.junit(results), encoding="utf-8")
        except OSError as error:
            return complain(f"--junit {junit}: cannot be written ({error.strerror})", BAD_INPUT)
    return exit_code(results)


def _check_writable(file: Path) -> None:
    """Raise click.UsageError before any work is done for a file that cannot be written; leaves none behind."""
    if not file.parent.is_dir():
        raise click.UsageError(f"--junit {file}: there is no folder {file.parent}; make it first")
    writable = os.access(file, os.W_OK) if os.path.lexists(file) else os.access(file.parent, os.W_OK | os.X_OK)
    if not writable:
        raise click.UsageError(f"--junit {file}: cannot be written; choose another file")


@commands.command("matrix")
@click.option("--target", "target_name", required=True, metavar="NAME", help="Whose operation; see `targets`.")
@PARAMS
@click.option("--kernels", "chosen", metavar="A,B,...", help="Which implementations [default: all that are here].")
@LIBRARY
@click.option("--budget", type=SECONDS, default="5s", show_default=True, help="Time to search for each pair.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of everything random.")
@click.option(
    "--corpus",
    type=click.Path(path_type=Path, file_okay=False),
    help="Save there the witnesses of pairs that differ by more than rounding [default: nowhere].",
)
@JSON
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

    target, given = targets.get(target_name), given_parameters(settings)
    wanted = [] if chosen is None else [name.strip() for name in chosen.split(",")]
    if not all(wanted):
        raise click.UsageError(f"--kernels {chosen}: not a list of names: exact,apr,ggml is")
    absent = matrix.names(target, given, wanted)[1]
    planned = len(matrix.pairs(target, given, wanted))
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
    interrupted = len(cells) < planned
    if as_json:
        print_json(matrix.as_json(target, given, cells, absent, interrupted=interrupted))
    elif cells:
        print_text(matrix.as_text(cells, absent))
    code = unfinished(len(cells), planned, "pairs") if interrupted else 0
    return CONFIRMED if matrix.outside(cells) else code


@commands.command("claims")
@click.option("--budget", type=SECONDS, default="5s", show_default=True, help="Time to search for each claim.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of everything random.")
@click.option("--model", type=click.Path(path_type=Path), help="A GGUF file, for the claims about a model.")
@click.option(
    "--corpus", type=click.Path(path_type=Path, file_okay=False), help="Save the witnesses there [default: nowhere]."
)
@JSON
def claims_command(budget: float, seed: int, model: Path | None, corpus: Path | None, as_json: bool) -> int:
    """Reproduce the published claims, search each one, and judge it."""
    from diffuzz import claims, printing
    from diffuzz import corpus as store

    if corpus is not None:
        store.check_writable(corpus)
    settled = claims.settle(budget, seed, corpus=corpus, model_path=model, on_row=printing.claims_progress())
    if as_json:
        print_json(claims.as_json(settled))
    elif settled:
        print_text(printing.claims_text(settled))
    planned = len(claims.ROWS)
    return unfinished(len(settled), planned, "claims") if len(settled) < planned else 0


commands.add_command(bench)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit with its code; bad input is one line on stderr, never a traceback."""
    if sys.stderr is None:
        # Closed (2>&-): what would be said there is for nobody.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.exit(complain("standard output is closed, so there is no place for results", BAD_INPUT))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names may be any bytes, and a terminal may know no Greek.
        sys.stdout.reconfigure(errors="backslashreplace")
    # Once the result is there, its exit code stands; a caller within a process has its Ctrl-C back.
    with interruption.deferred(afterwards=signal.SIG_IGN if arguments is None else None):
        code = _run(sys.argv[1:] if arguments is None else arguments)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    try:
        os.getcwd()
    except OSError as error:
        return complain(f"the working directory cannot be used ({error.strerror}): change to one that can", BAD_INPUT)
    try:
        code = commands.main(args=arguments or ["--help"], prog_name="python -m diffuzz", standalone_mode=False)
        return int(code or 0) if arguments else BAD_INPUT
    except click.ClickException as error:
        return complain(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except ImportError as error:
        return complain(str(error), MISSING)
    except OSError as error:
        # The operating system's word about a file.
        name = error.filename if isinstance(error.filename, (str, bytes, os.PathLike)) else ""
        where = f"{os.fsdecode(name)}: " if name else ""
        return complain(f"{where}{error.strerror or error}", BAD_INPUT)
    except ValueError as error:
        # Everything else that a user can get wrong is one of ours.
        return complain(str(error), BAD_INPUT)
    except MemoryError:
        return complain("not enough memory; choose smaller parameters", BAD_INPUT)
    except Exception:
        traceback.print_exc()
        return DEFECT
