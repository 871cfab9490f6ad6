"""``diffuzz fingerprint``: the arithmetic of one implementation of an operation, recovered from its results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import (
    A_CANDIDATE,
    ARRAYS,
    JSON,
    LIBRARY,
    PARAMS,
    SEED,
    TARGET,
    TIMEOUT,
    VERBOSITY,
    answer_of,
    check_arrays,
    given_parameters,
    print_json,
    print_text,
    report,
    target_named,
)
from diffuzz.cli.saving import HTML, check_writable, files_named, written
from diffuzz.cli.tables import params_text
from diffuzz.corpus.spelling import command_line, given_words, json_number

if TYPE_CHECKING:
    from diffuzz.fingerprinting.box import Box
    from diffuzz.fingerprinting.fingerprint import Fingerprint
    from diffuzz.targets.target import Target

# ``dot`` is the product of matrices of one row and one column.
_DOT = "dot"
_SIZES = click.IntRange(1, 2**16)
# Trees of so many summands are written out, too.
_WRITTEN = 32


@click.command("fingerprint")
@TARGET
@PARAMS
@A_CANDIDATE
@ARRAYS
@TIMEOUT
@click.option(
    "--kernels", metavar="NAME", help="One implementation: of the target's own (see `targets`), numpy, torch or jax."
)
@LIBRARY
@click.option("--n", "length", type=_SIZES, default=256, show_default=True, help="Summands of each sum.")
@click.option("--rows", type=_SIZES, help="Sums in one call, rows of a matrix [default: 64; 1 of dot and matvec].")
@click.option("--columns", type=_SIZES, help="Columns of the second matrix [default: 8; 1 of dot].")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed of the inputs that verify it.")
@HTML
@VERBOSITY
@JSON
def command(
    target_name: str,
    settings: tuple[tuple[str, str], ...],
    candidate: str | None,
    arrays: str | None,
    device: str | None,
    timeout: float,
    kernels: str | None,
    library: str | None,
    length: int,
    rows: int | None,
    columns: int | None,
    seed: int,
    html: Path | None,
    as_json: bool,
) -> int:
    """Recover the order in which an implementation adds up, its precision, fused products, rounding, exp, quantiser."""
    import time

    from diffuzz.fingerprinting.fingerprint import fingerprint
    from diffuzz.fingerprinting.reading import Sizes

    dot = target_name == _DOT
    target, given = target_named("matmul" if dot else target_name), given_parameters(settings)
    check_arrays(candidate, arrays, device)
    if html is not None:
        check_writable("--html", html, *files_named(target_name, candidate, library, *(text for _, text in settings)))
    if (candidate is None) == (kernels is None):
        raise click.UsageError("give --candidate or --kernels, one of them")
    sizes = Sizes(length, rows or (1 if dot else 64), columns or (1 if dot else 8))
    started = time.monotonic()
    with _opened(target, given, candidate, kernels, library, timeout, arrays, device) as box:
        found = fingerprint(box, sizes, seed=seed)
        params = dict(box.params)
    seconds = time.monotonic() - started
    data = fingerprint_json(found, params, seed, seconds) if as_json or html is not None else {}
    if as_json:
        print_json(data)
    else:
        text = fingerprint_text(found, params, seconds, target_name=_DOT if dot else found.target)
        print_text(answer_of(text, quiet=False))
    if html is None:
        return 0
    from diffuzz.pages import fingerprint as pages

    named = {"candidate": candidate, "arrays": arrays, "device": device, "kernels": kernels, "library": library}
    named |= {"n": str(length), "rows": str(rows) if rows else None, "columns": str(columns) if columns else None}
    again = command_line("fingerprint", "--target", target_name, *given_words(settings, named), "--seed", seed)
    more = {"target": target_name, "parameters": params_text(params), "command": again}
    return written("--html", html, pages.page(data | more))


def _opened(
    target: Target,
    given: Mapping[str, object],
    candidate: str | None,
    name: str | None,
    library: str | None,
    timeout: float,
    arrays: str | None,
    device: str | None,
) -> Box:
    """What the options name. Raises CandidateError, QuestionError, ParameterError, RegistryError, ImportError."""
    from diffuzz import kernels
    from diffuzz.fingerprinting import box, libraries
    from diffuzz.judging.candidate import contract_of
    from diffuzz.judging.question import Judge, QuestionError

    contract_of(target)
    params = target.contract_params(given)
    if library is not None and (name is None or not kernels.KernelName.parse(name).is_library):
        raise QuestionError(f"library {library}: it stands for libggml; give --kernels libggml")
    if name is None:
        return box.opened(
            target,
            params,
            candidate or "",
            timeout=timeout,
            given=Judge(candidate or "", arrays=arrays, device=device).handing,
        )
    own = libraries.candidate(name, target.name)
    if own is not None:
        return box.opened(target, params, own, timeout=timeout, name=name)
    return box.of_kernels(target, params, kernels.located(kernels.load(name), library))


def fingerprint_json(found: Fingerprint, params: Mapping[str, object], seed: int, seconds: float) -> dict[str, object]:
    """The fingerprint as JSON; the tree is the list of its nodes, each a list of what it adds: summands 0 to n - 1, and
    nodes from n on.
    """
    from diffuzz.corpus.environment import environment
    from diffuzz.fingerprinting.sharpness import sharper

    sum_, exp = found.sum, found.exp
    ratio = None if sum_ is None else sharper(sum_)
    return {
        "target": found.target,
        "params": dict(params),
        "implementation": found.name,
        "n": found.sizes.n,
        "rows": list(found.rows),
        "order": found.order,
        "details": dict(found.details),
        "tree": None if sum_ is None else [list(node) for node in sum_.tree.nodes],
        "bits": None if sum_ is None else sum_.bits.tolist(),
        "fused": None if sum_ is None or sum_.fused is None else sum_.fused.tolist(),
        "verified": None if found.verified is None else {"agree": found.verified.agree, "of": found.verified.of},
        "sharper": None if ratio is None else json_number(ratio),
        "exp": None
        if exp is None
        else {
            "names": list(exp.names),
            "points": exp.points,
            "largest_ulp": json_number(exp.largest),
            "mean_ulp": json_number(exp.mean),
            "rounded_correctly": json_number(exp.correct),
        },
        "seed": seed,
        "seconds": json_number(seconds),
        "environment": environment(),
    }


def fingerprint_text(found: Fingerprint, params: Mapping[str, object], seconds: float, *, target_name: str) -> str:
    """The fingerprint, a property a line. ``target_name`` is what the user called the target."""
    from diffuzz.fingerprinting.sharpness import sharper

    rows = [("order", found.order)]
    if found.tree is not None and 1 < found.tree.n <= _WRITTEN:
        rows.append(("tree", found.tree.text()))
    rows += list(found.details.items())
    width = max(len(name) for name, _ in rows)
    lines = [f"{found.name}, {target_name} with n = {found.sizes.n} ({params_text(dict(params))})", ""]
    lines += [f"  {name:{width}}  {text}" for name, text in rows]
    lines.append("")
    lines.append("Nothing was verified." if found.verified is None else f"{found.verified.words.capitalize()}.")
    used, of = found.rows
    if used < of:
        lines.append(f"This is the order of {used} of the {of} rows of a call; the others have another one.")
    ratio = None if found.sum is None else sharper(found.sum)
    if ratio is not None:
        times = f"{ratio:.3g} times sharper than" if ratio >= 1 else f"{1 / ratio:.3g} times"
        lines.append(f"The error bound of this order is {times} that of any order.")
    lines.append(f"{seconds:.1f} s.")
    return report(lines)
