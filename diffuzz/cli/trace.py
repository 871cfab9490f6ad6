"""``diffuzz trace``: two runs of one model over the same tokens; is one wrong, and what is their difference worth?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import (
    BAD_INPUT,
    CONFIRMED,
    JSON,
    MODEL,
    SECONDS,
    SEED,
    SEQUENCE,
    VERBOSITY,
    answer_of,
    complain,
    completed,
    print_json,
    print_text,
    sequence,
)
from diffuzz.cli.saving import HTML, check_writable, written
from diffuzz.cli.trace_json import trace_json
from diffuzz.cli.trace_text import trace_text
from diffuzz.corpus.spelling import command_line

if TYPE_CHECKING:
    from diffuzz.models.dump import Dump
    from diffuzz.models.running import Opened


@click.command("trace")
@MODEL
@SEQUENCE
@click.option(
    "--engines",
    multiple=True,
    shell_complete=completed("model_engines"),
    metavar="A,B",
    help="Two engines, or one that is held against --dumps. For names with commas give the option twice.",
)
@click.option(
    "--dumps", multiple=True, metavar="A,B", help="Two dumps, or one that is held against --engines, as A and B."
)
@click.option(
    "--isolate",
    is_flag=True,
    help="Run B once more with A's taps in the place of its own: its own steps on A's inputs.",
)
@click.option("--attribute", is_flag=True, help="Say which ops and layers the drift from the exact logits comes from.")
@click.option("--timeout", type=SECONDS, help="Time that one run may take [default: the engine's].")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed, of moves by one ULP.")
@HTML
@VERBOSITY
@JSON
def command(
    model: Path,
    tokens: tuple[int, ...] | None,
    prompt: str | None,
    engines: tuple[str, ...],
    dumps: tuple[str, ...],
    isolate: bool,
    attribute: bool,
    timeout: float | None,
    seed: int,
    quiet: bool,
    verbose: bool,
    html: Path | None,
    as_json: bool,
) -> int:
    """Hold two runs against each other: by tap, by token, beside the noise of their arithmetic; and check both."""
    from diffuzz.models import running, tracing
    from diffuzz.models.model import ModelError
    from diffuzz.models.tracing import Run

    engine_names, dump_files = _pair(engines), _pair(dumps)
    if html is not None:
        check_writable("--html", html, model, *map(Path, dump_files))
    if len(engine_names) + len(dump_files) != 2:
        raise click.UsageError("give two runs: --engines A,B, --dumps A,B, or one of each")
    if isolate and len(dump_files) and len(engine_names) < 2:
        raise click.UsageError("--isolate runs B again, so B has to be an engine: give --engines A,B")
    about = str(model)
    try:
        found = running.opened(model)
        runs = []
        for name in dump_files:
            about = name
            runs.append(Run(name, _read(Path(name), found)))
        about = str(model)
        if runs and (tokens is not None or prompt is not None):
            raise click.UsageError("the dumps say which tokens they are of: leave out --tokens and --prompt")
        chosen = tuple(runs[0].dump.tokens.tolist()) if runs else sequence(found.model, tokens, prompt)
        ran, isolated = _ran(model, engine_names, chosen, timeout, isolate)
        # An engine that a dump is held against is the reference.
        both = [*(Run(name, dump) for name, dump in zip(engine_names, ran, strict=True)), *runs]
        about = ""
        traced = tracing.compare(found, both[0], both[1], isolated=isolated, attribute=attribute, seed=seed)
    except ModelError as error:
        return complain(f"{about}: {error}" if about else str(error), BAD_INPUT)
    if as_json:
        print_json(trace_json(traced, found, chosen))
    else:
        print_text(answer_of(trace_text(traced, found, chosen, verbose), quiet))
    if html is not None:
        from diffuzz.pages import trace as pages

        given = [word for option, names in (("--engines", engine_names), ("--dumps", dump_files))
                 for name in names for word in (option, name)]  # fmt: skip
        over = () if runs else ("--tokens", ",".join(map(str, chosen)))
        flags = [f"--{name}" for name, wanted in (("isolate", isolate), ("attribute", attribute)) if wanted]
        again = command_line("trace", "--model", model, *given, *over, *flags)
        failed = written("--html", html, pages.page(trace_json(traced, found, chosen), again))
        if failed:
            return failed
    return CONFIRMED if traced.wrong else 0


def _pair(given: tuple[str, ...]) -> tuple[str, ...]:
    """Names of runs: of one option those between commas, but not before another option of an engine."""
    if len(given) != 1:
        return given
    names: list[str] = []
    for part in given[0].split(","):
        if names and re.match(r"\s*\w+=", part):
            names[-1] += f",{part}"
        else:
            names.append(part.strip())
    if not all(names):
        raise click.UsageError(f"{given[0]!r:.80} are not names of runs, such as apr,llama.cpp")
    return tuple(names)


def _read(path: Path, found: Opened) -> Dump:
    from diffuzz.models import dump as dumps

    read = dumps.read(path)
    dumps.check_against(read, found.model)
    return read


def _ran(
    model: Path, names: Sequence[str], tokens: tuple[int, ...], timeout: float | None, isolate: bool
) -> tuple[list[Dump], Dump | None]:
    """The dumps of the engines, and that of the last one with the first one's taps."""
    from diffuzz.models import engines
    from diffuzz.telling import Phase, tell

    made: list[Dump] = []
    isolated = None
    runs = [engines.get(name) for name in names]
    for name, run in zip(names, runs, strict=True):
        limit = {} if timeout is None or "timeout" not in engines.options_of(run) else {"timeout": timeout}
        tell(Phase(f"running {name}"))
        with engines.opened(name, model, **limit) as running:
            made.append(running.run(tokens))
            if isolate and len(made) == 2:
                tell(Phase(f"running {name} with the taps of {names[0]}"))
                isolated = running.run(tokens, made[0])
    return made, isolated
