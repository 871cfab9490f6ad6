"""``diffuzz search``: the largest value of a question, its case minimised, judged and saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffuzz.cli.annotating import ANNOTATIONS, annotate
from diffuzz.cli.options import (
    A_CANDIDATE,
    ARRAYS,
    BAD_INPUT,
    CONFIRMED,
    DEFAULT_CORPUS,
    FOLDER,
    INTERRUPTED,
    JSON,
    KERNELS,
    LIBRARY,
    PARAMS,
    SECONDS,
    SEED,
    SHARE,
    TARGET,
    THRESHOLD,
    TIMEOUT,
    VERBOSITY,
    answer_of,
    check_arrays,
    complain,
    completed,
    given_parameters,
    json_text,
    print_error,
    print_text,
    target_named,
)
from diffuzz.cli.saving import HTML, check_writable, files_named, written
from diffuzz.cli.search_json import search_json
from diffuzz.cli.search_text import search_text
from diffuzz.corpus.spelling import given_words, json_number
from diffuzz.escaping import escaped

if TYPE_CHECKING:
    from diffuzz.judging.question import Question
    from diffuzz.models.rows import Rows
    from diffuzz.searching.result import SearchResult
    from diffuzz.targets.target import Target


@click.command("search")
@TARGET
@PARAMS
@click.option(
    "--engine",
    default="auto",
    shell_complete=completed("engines"),
    show_default=True,
    metavar="NAME",
    help="auto, random, pbt, gradient, evolution, shapes, or FILE.py:NAME; auto,FILE.py:NAME lets auto use it, too.",
)
@click.option("--budget", type=SECONDS, default="10s", show_default=True, help="Time to search: 10s, 500ms, 2min.")
@click.option("--seed", type=SEED, help="Random seed [default: a random one, which is printed].")
@THRESHOLD
@click.option(
    "--keep", type=SHARE, help="Share of the value that minimising must keep [default: 0.999, of prompts 0.9]."
)
@click.option(
    "--largest",
    is_flag=True,
    help="Look for the largest value for the whole budget, where --candidate or --kernels would stop at a witness.",
)
@click.option("--first", is_flag=True, help="Stop at the first witness of the target's own claim, too.")
@A_CANDIDATE
@ARRAYS
@TIMEOUT
@click.option(
    "--warm-up",
    type=SECONDS,
    help="Time, beside the budget, in which a candidate may compile for new sizes [default: as long as the budget].",
)
@click.option(
    "--kernels",
    type=KERNELS,
    shell_complete=completed("kernels"),
    help="Compare two implementations of the operation; see `targets`. One may be FILE.py.",
)
@LIBRARY
@click.option(
    "--weights",
    "held",
    metavar="MODEL:TENSOR[ROWS]",
    help="Take the weights of all cases from a model, and search the rest: M.gguf:blk.3.ffn_down.weight[0:256].",
)
@click.option(
    "--corpus",
    type=FOLDER,
    default=DEFAULT_CORPUS,
    show_default=True,
    help="Where witnesses are saved.",
)
@click.option("--save", "wanted", is_flag=True, help="Save the best case found of functions that are not wrong, too.")
@click.option("--no-save", is_flag=True, help="Save nothing.")
@click.option(
    "--property",
    "properties",
    multiple=True,
    metavar="NAME",
    help="Ask instead which properties are kept that no tolerance sees: repeat, batch, split, threads, layout, bounds, "
    "pure, scale, or all (repeatable).",
)
@click.option(
    "--require",
    "required",
    multiple=True,
    metavar="NAME",
    help="The same, and exit with 1 if this property is not kept (repeatable).",
)
@HTML
@click.option(
    "--open", "shown", is_flag=True, help="Show that page in the browser; without --html, of a temporary file."
)
@ANNOTATIONS
@VERBOSITY
@JSON
def command(
    target_name: str,
    settings: tuple[tuple[str, str], ...],
    engine: str,
    budget: float,
    seed: int | None,
    threshold: float | None,
    keep: float | None,
    largest: bool,
    first: bool,
    candidate: str | None,
    arrays: str | None,
    device: str | None,
    timeout: float,
    warm_up: float | None,
    kernels: tuple[str, str] | None,
    library: str | None,
    held: str | None,
    corpus: Path,
    wanted: bool,
    no_save: bool,
    properties: tuple[str, ...],
    required: tuple[str, ...],
    quiet: bool,
    verbose: bool,
    html: Path | None,
    shown: bool,
    annotations: bool | None,
    as_json: bool,
) -> int:
    """Search for the largest value, minimise the case that has it, judge the claim, save the witness."""
    from diffuzz.cases import domain
    from diffuzz.corpus import files as store
    from diffuzz.corpus.record import Keeper
    from diffuzz.judging.verdict import Verdict
    from diffuzz.searching.search import search

    if wanted and no_save:
        raise click.UsageError("--save and --no-save: give one of them")
    if first and largest:
        raise click.UsageError("--first and --largest: give one of them")
    if html is not None:
        said = (target_name, candidate, library, held, *(value for _, value in settings))
        check_writable("--html", html, *files_named(*said))
    target, given = target_named(target_name), given_parameters(settings)
    check_arrays(candidate, arrays, device)
    if properties or required:
        if html is not None or shown:
            raise click.UsageError("--html and --open: they show a value, and properties have none")
        named = {"candidate": candidate, "arrays": arrays, "device": device, "library": library}
        named |= {"kernels": None if kernels is None else ",".join(kernels)}
        if not no_save:
            store.check_writable(corpus / target.name)
        # What narrows the domain is said of each finding, with the sizes that it needs.
        plain = [(key, value) for key, value in settings if not domain.is_domain(key)]
        asked = ["search", "--target", target_name, *given_words(plain, named)]
        return _keep(
            target, given, asked, properties, required, candidate, timeout, kernels, library, arrays, device,
            budget=budget, seed=seed, corpus=None if no_save else corpus, annotations=annotations,
            verbose=verbose, as_json=as_json,
        )  # fmt: skip
    question = _question(candidate, timeout, kernels, library, arrays, device)
    if not no_save:
        store.check_writable(corpus / target.name)
    result = search(
        target,
        given,
        question,
        engine=_engine(engine),
        seconds=budget,
        seed=seed,
        threshold=threshold,
        keep=keep,
        largest=largest,
        minimise_best=wanted or verbose,
        first=first,
        weights=None if held is None else _rows(held),
        warm_up=warm_up,
    )
    keeper, path = Keeper(corpus), None
    kept = wanted or not result.problem.judges or result.verdict is Verdict.CONFIRMED
    if kept and not no_save and result.replays:
        path = keeper(result)
    unused = _not_used(given, result)
    # What was found is printed, whatever goes wrong from here on.
    lost = bool(keeper.failures)
    failure = _report(result, path, unused, quiet=quiet, verbose=verbose, as_json=as_json, lost=lost)
    annotate(annotations, as_json, lambda: [search_json(result, path)])
    failure = "; ".join([*keeper.failures, *([failure] if failure else [])]) or None
    interrupted = result.stopped == "interrupted"
    unwritten = _page(result, path, html, shown=shown) if html is not None or shown else 0
    if failure is None and result.evaluations == 0 and result.verdict is Verdict.UNRESOLVED and not interrupted:
        failure = f"{budget:g} s were over before the first evaluation; compiling alone takes seconds: try --budget 10s"
    if failure is not None:
        return complain(failure, BAD_INPUT)
    if unwritten:
        return unwritten
    if result.case is None and interrupted:
        return INTERRUPTED
    return CONFIRMED if result.verdict is Verdict.CONFIRMED else 0


def _page(result: SearchResult, witness: Path | None, html: Path | None, *, shown: bool) -> int:
    """Write the page and, if it is to be ``shown``, open it; the exit code of a failure to write what was asked for
    with --html, or 0. A browser that does not come is no failure.
    """
    from diffuzz.cli import found_json, opening
    from diffuzz.pages import search as pages
    from diffuzz.registry import one_line

    asked = "--html" if html is not None else "--open"
    try:
        text = pages.page(found_json.of_search(result, witness))
        file = opening.new_file(result.target.name) if html is None else html
    except Exception as error:
        # What was found has been printed, and does not depend on this.
        complain(f"{asked}: the page could not be made: {one_line(error)}", BAD_INPUT)
        return 0 if html is None else BAD_INPUT
    failed = written(asked, file, text)
    if failed:
        return 0 if html is None else failed
    if shown:
        how = (
            "opened in the browser"
            if opening.opened(file)
            else "open it in a browser; there is none, or no screen, here"
        )
        print_error(f"page: {escaped(str(file))} ({how})\n")
    return 0


def _keep(
    target: Target,
    given: Mapping[str, str],
    command: Sequence[str],
    properties: tuple[str, ...],
    required: tuple[str, ...],
    candidate: str | None,
    timeout: float,
    names: tuple[str, str] | None,
    library: str | None,
    arrays: str | None,
    device: str | None,
    *,
    budget: float,
    seed: int | None,
    corpus: Path | None,
    annotations: bool | None,
    verbose: bool,
    as_json: bool,
) -> int:
    """Ask for properties instead of a value. Raises click.UsageError, QuestionError, RegistryError, HandingError."""
    from diffuzz import kernels
    from diffuzz.cli.properties import keep
    from diffuzz.judging import properties as known
    from diffuzz.judging.question import Keep

    wanted = {known.get(name).name for name in (*properties, *required) if name != known.ALL}
    wanted |= set(known.names()) if known.ALL in (*properties, *required) else set()
    needed = known.names() if known.ALL in required else tuple(name for name in known.names() if name in required)
    chosen = tuple(name for name in known.names() if name in wanted)
    asked = []
    if candidate is not None:
        asked.append(Keep(candidate, properties=chosen, timeout=timeout, arrays=arrays, device=device))
    if names is not None:
        asked += [Keep(kernels=kernels.located(kernels.load(name), library), properties=chosen) for name in names]
    if not asked:
        raise click.UsageError("--property and --require: give --candidate or --kernels, whose properties they are")
    return keep(
        target, given, asked, needed, command, budget=budget, seed=seed, corpus=corpus, annotations=annotations,
        verbose=verbose, as_json=as_json,
    )  # fmt: skip


def _rows(given: str) -> Rows:
    """The rows of a model that a user names. Raises ModelError, OSError."""
    from diffuzz.models import rows

    return rows.read(given)


def _report(
    result: SearchResult,
    path: Path | None,
    unused: list[str],
    *,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    lost: bool,
) -> str | None:
    """Print the result, and the bits of the case if it is ``lost`` otherwise; one line about what went wrong, if
    anything did, and where the witness is then.
    """
    import json

    from diffuzz.registry import one_line

    failure = None
    try:
        bits = {"arrays": _bits(result)} if lost else {}
        if as_json:
            text = json_text(search_json(result, path) | bits)
        else:
            text = answer_of(search_text(result, path, unused=unused, verbose=verbose), quiet)
            text += "".join(f"The case to the bit: {json.dumps(arrays)}\n" for arrays in bits.values())
    except Exception as error:
        failure = f"the report fails: {one_line(error)}"
        text = bare_text(result, path, as_json=as_json)
    try:
        print_text(text)
    except OSError as error:
        where = "nothing was saved" if path is None else f"what was found is in {path}"
        failure = f"standard output: {error.strerror}; {result.verdict.value} {result.value:.9g}, {where}"
    return failure


def bare_text(result: SearchResult, path: Path | None, *, as_json: bool) -> str:
    """The result with what needs no code of others: verdict, value, where it was saved, and the bits of the case."""
    import json

    found: dict[str, object] = {
        "target": result.target.name,
        "verdict": result.verdict.value,
        "value": json_number(result.value),
        "threshold": json_number(result.threshold),
        "witness": None if path is None else str(path),
        "arrays": _bits(result),
    }
    if as_json:
        return json_text(found)
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in found.items())


def _bits(result: SearchResult) -> dict[str, dict[str, object]]:
    """The arrays of the case, as an entry of the corpus has them."""
    from diffuzz.cases import encoding

    if result.case is None:
        return {}
    written = result.problem.space.written(result.case)
    return {name: encoding.encode(array) for name, array in written.arrays.items()}


def _question(
    candidate: str | None,
    timeout: float,
    names: tuple[str, str] | None,
    library: str | None,
    arrays: str | None,
    device: str | None,
) -> Question:
    """What the options ask. Raises QuestionError, RegistryError."""
    from diffuzz import kernels
    from diffuzz.judging.question import Claim, Compare, Judge, QuestionError

    judged = None if candidate is None else Judge(candidate, timeout=timeout, arrays=arrays, device=device)
    if library is not None and not any(kernels.KernelName.parse(name).is_library for name in names or ()):
        raise QuestionError(
            f"library {library}: it stands for libggml, which is not one of the kernels; give --kernels"
        )
    if names is not None:
        a, b = (kernels.load(name) for name in names)
        return Compare(a, b, library, candidate=judged)
    return judged or Claim()


def _engine(text: str) -> str:
    """The engine to run; those after a comma are made known, so that auto uses them. Raises RegistryError."""
    from diffuzz.searching import engines

    names = [engines.load(name.strip()) for name in text.split(",")]
    if len(names) > 1 and names[0] != "auto":
        raise click.UsageError(f"--engine {text}: only auto runs more than one; write auto,{text}")
    return names[0]


def _not_used(given: Mapping[str, str], result: SearchResult) -> list[str]:
    """The given parameters that play no part in the question; what narrows the domain always does."""
    from diffuzz.cases import domain

    return [name for name in given if name not in result.params and not domain.is_domain(name)]
