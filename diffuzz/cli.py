"""The command line: ``python -m diffuzz search --target rmsnorm``. A contract that scripts depend on; see README.

Results go to stdout. Progress goes to stderr, and only when that is a terminal. Exit codes: 0 claim not confirmed, or
replay as recorded; 1 a witness was found, or a replay changed; 2 usage or bad input, one clear line; 3 a requested
oracle or dependency is missing.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

CONFIRMED, BAD_INPUT, MISSING, INTERRUPTED = 1, 2, 3, 130
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


SECONDS, SETTING = _Seconds(), _Setting()
_params = click.option(
    "--param",
    "settings",
    type=SETTING,
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a parameter of the target (repeatable).",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout.")
_entry = click.argument("entry", type=click.Path(path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="diffuzz-kernels", prog_name="diffuzz")
def commands() -> None:
    """Find the input on which an inference kernel drifts most, prove how far it can get, keep the witness."""


@commands.command("targets")
@_json
def targets_command(as_json: bool) -> int:
    """List the targets, their parameters and their limits."""
    from diffuzz import printing, targets

    listed = [targets.get(name) for name in targets.names()]
    if as_json:
        click.echo(json.dumps({"targets": [printing.target_json(target) for target in listed]}))
    else:
        click.echo(printing.targets_text(listed), nl=False)
    return 0


@commands.command("search")
@click.option("--target", "target_name", required=True, metavar="NAME", help="What to search; see `targets`.")
@_params
@click.option(
    "--engine", default="auto", show_default=True, metavar="NAME", help="auto, random, pbt, gradient or evolution."
)
@click.option("--budget", type=SECONDS, default="10s", show_default=True, help="Time to search: 10s, 500ms, 2min.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Of everything random; printed, random by default.")
@click.option("--limit", type=float, help="T of the claim 'more than T' [default: the target's].")
@click.option(
    "--keep",
    type=click.FloatRange(0, 1),
    default=0.999,
    show_default=True,
    help="Share of the value that minimising must keep.",
)
@click.option("--candidate", metavar="FILE.py:FUNCTION", help="Test this function in the place of the implementation.")
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
    corpus: Path,
    no_save: bool,
    as_json: bool,
) -> int:
    """Search for the largest value, minimise the case that has it, judge the claim, save the witness."""
    from diffuzz import corpus as store
    from diffuzz import printing, targets
    from diffuzz.candidate import CandidateError
    from diffuzz.search import entry_of, search
    from diffuzz.verdict import Verdict

    target = targets.get(target_name)
    given = dict(settings)
    if not no_save:
        store.check_writable(corpus)
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
            on_found=on_found,
        )
    path = None
    if result.case is not None and not no_save:
        path = store.save(entry_of(result), corpus)
    if as_json:
        click.echo(json.dumps(printing.search_json(result, path)))
    else:
        click.echo(printing.search_text(result, path), nl=False)
    if result.error is not None:
        raise CandidateError(result.error)
    return CONFIRMED if result.verdict is Verdict.CONFIRMED else 0


@commands.command("measure")
@click.argument("case_file", metavar="CASE", type=click.Path(path_type=Path))
@click.option("--target", "target_name", metavar="NAME", help="What to measure [default: the entry's].")
@_params
@click.option("--limit", type=float, help="T of the claim 'more than T' [default: the target's].")
@_json
def measure_command(
    case_file: Path, target_name: str | None, settings: tuple[tuple[str, str], ...], limit: float | None, as_json: bool
) -> int:
    """Measure one case: a corpus entry (.json), or named arrays (.npz, .safetensors)."""
    from diffuzz import corpus as store
    from diffuzz import printing, targets
    from diffuzz.target import evaluate
    from diffuzz.verdict import Verdict, judge

    given: dict[str, Any] = dict(settings)
    if case_file.suffix == ".json":
        entry = store.load(case_file)
        target = targets.get(target_name or entry.target)
        if target.name == entry.target:
            given = dict(entry.params) | given
        case = entry.case
    else:
        if target_name is None:
            raise click.UsageError(f"{case_file}: arrays alone do not say what to measure: give --target")
        target, case = targets.get(target_name), store.load_arrays(case_file)
    params = target.params(given)
    measured = evaluate(target, params, case)
    limit = target.limit(params) if limit is None else limit
    verdict = judge(limit, measured.value, measured.noise, target.bound(params))
    if as_json:
        click.echo(json.dumps(printing.measurement_json(target, params, measured, limit, verdict)))
    else:
        click.echo(printing.measurement_text(target, params, measured, limit, verdict), nl=False)
    return CONFIRMED if verdict is Verdict.CONFIRMED else 0


@commands.command("minimise")
@_entry
@click.option("--keep", type=click.FloatRange(0, 1), default=0.9, show_default=True, help="Share of the value to keep.")
@click.option("--candidate", metavar="FILE.py:FUNCTION", help="The function, for an entry found with a candidate.")
@_json
def minimise_command(entry: Path, keep: float, candidate: str | None, as_json: bool) -> int:
    """Make the witness of a corpus entry simpler, and save it as another entry in the same corpus."""
    from diffuzz import corpus as store
    from diffuzz import printing
    from diffuzz.search import minimised

    old = store.load(entry)
    store.check_writable(entry.parent)
    new = minimised(old, keep, candidate=candidate)
    path = entry if new == old else store.save(new, entry.parent.parent, always=True)
    if as_json:
        click.echo(json.dumps({"entry": str(entry), "minimised": str(path), "value": new.value}))
    else:
        click.echo(printing.entry_text(new, path), nl=False)
    return 0


@commands.command("show")
@_entry
@_json
def show_command(entry: Path, as_json: bool) -> int:
    """Show a corpus entry: the witness, what it confirms, and how it was found."""
    from diffuzz import corpus as store
    from diffuzz import printing

    loaded = store.load(entry)
    click.echo(store.dumps(loaded, indent=None) + "\n" if as_json else printing.entry_text(loaded, entry), nl=False)
    return 0


@commands.command("replay")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--candidate", metavar="FILE.py:FUNCTION", help="The function, for entries found with a candidate.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write a JUnit report, too.")
@_json
def replay_command(paths: tuple[Path, ...], candidate: str | None, junit: Path | None, as_json: bool) -> int:
    """Measure every entry of the corpus again and compare with what it recorded [default: corpus/]."""
    from diffuzz import printing
    from diffuzz.replay import exit_code, replay

    results = replay(paths or (DEFAULT_CORPUS,), candidate)
    if junit is not None:
        junit.write_text(printing.junit(results), encoding="utf-8")
    click.echo(json.dumps(printing.replay_json(results)) + "\n" if as_json else printing.replay_text(results), nl=False)
    return exit_code(results)


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
    click.echo(json.dumps(claims.as_json(settled)) + "\n" if as_json else printing.claims_text(settled), nl=False)
    return 0


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit with its code; bad input is one line on stderr, never a traceback."""
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        return int(commands.main(args=arguments, prog_name="python -m diffuzz", standalone_mode=False) or 0)
    except click.ClickException as error:
        return _complain(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except ImportError as error:
        return _complain(str(error), MISSING)
    except (ValueError, OSError) as error:
        # Everything that a user can get wrong is a ValueError of ours, or the operating system's word about a file.
        return _complain(str(error), BAD_INPUT)


def _complain(message: str, code: int) -> int:
    click.echo("diffuzz: " + " ".join(message.split()), err=True)
    return code
