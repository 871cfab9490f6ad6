"""``diffuzz targets``: what can be searched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import (
    BAD_INPUT,
    JSON,
    answer_of,
    complain,
    completed,
    print_json,
    print_text,
    target_named,
)
from diffuzz.cli.tables import bound_json, number, plain
from diffuzz.corpus.spelling import json_number

if TYPE_CHECKING:
    from diffuzz.targets.parameter import Parameter, Params
    from diffuzz.targets.target import Target


@click.command("targets")
@click.argument("names", nargs=-1, metavar="[NAME or FILE.py:NAME ...]", shell_complete=completed("targets"))
@JSON
def command(names: tuple[str, ...], as_json: bool) -> int:
    """List the targets, their parameters and their bounds [default: all that are known]."""
    from diffuzz import targets
    from diffuzz.registry import RegistryError

    listed, broken = [], []
    for name in names or (*targets.names(), *targets.OF_MODELS.names()):
        try:
            listed.append(target_named(name))
        except RegistryError as error:
            if names:
                raise
            # Somebody's package: the others are listed all the same.
            broken.append(str(error))
    if as_json:
        print_json({"targets": [target_json(target) for target in listed], "broken": broken})
    else:
        print_text(answer_of(targets_text(listed), quiet=False))
    return max((complain(line, BAD_INPUT) for line in broken), default=0)


def target_json(target: Target) -> dict[str, object]:
    """One entry of ``targets --json``; ``asked_by`` says which questions a parameter plays a part in."""
    params, judging = _defaults(target), target.contract.parameters if target.contract else ()
    return {
        "name": target.name,
        "summary": target.summary,
        "claim": target.claim,
        "measure": target.measure(params),
        "threshold": json_number(target.threshold(params)),
        # The name of the threshold in version 0.1.
        "limit": json_number(target.threshold(params)),
        **bound_json(target.bound(params)),
        "candidate": target.contract.signature if target.contract else None,
        "narrowed_by": list(narrowable(target)),
        "kernels": dict(zip(("here", "missing"), _kernels_of(target), strict=True)),
        "parameters": [
            {
                "name": parameter.name,
                "default": parameter.default,
                "type": type(parameter.default).__name__,
                "low": parameter.low,
                "high": parameter.high,
                "choices": list(parameter.options),
                "help": parameter.help,
                "asked_by": [
                    question
                    for question, asked in (("claim", target.parameters), ("judge", judging))
                    if parameter.name in {one.name for one in asked}
                ],
            }
            for parameter in target.declared
        ],
    }


def _defaults(target: Target) -> Params:
    """The default parameters; of a target that needs a file, with none."""
    if any(parameter.names is not None for parameter in target.parameters):
        return {parameter.name: parameter.default for parameter in target.parameters}
    return target.params()


def narrowable(target: Target) -> tuple[str, ...]:
    """What can be narrowed for a candidate."""
    return () if target.contract is None else target.contract.narrowable(target.contract_params())


def _kernels_of(target: Target) -> tuple[list[str], list[str]]:
    """Names of the implementations that are here, with default parameters, and of those that are not."""
    from diffuzz import kernels
    from diffuzz.judging.pair import implementations

    names = implementations(target, target.contract_params()) if target.contract else ()
    return [name for name in names if not kernels.missing(name)], [name for name in names if kernels.missing(name)]


def targets_text(listed: Sequence[Target]) -> str:
    """The list of ``targets``."""
    lines = []
    for target in listed:
        lines += [f"{target.name}", f"    {target.summary}"]
        bound = target.bound(_defaults(target))
        lines.append("    proven bound: " + ("none" if bound is None else f"{number(bound.value)}, {bound.because}"))
        lines += _parameters(target.parameters)
        if target.contract is not None:
            lines.append(f"    --candidate {target.contract.signature}")
            here, away = _kernels_of(target)
            lines.append(f"    --kernels two of {', '.join(here)}" + "".join(f"; not here: {name}" for name in away))
            lines += _parameters(target.contract.parameters)
            lines.append(f"      --fix, --range, --multiple of {', '.join(narrowable(target))}")
        lines.append("")
    return "\n".join(lines)


def _parameters(parameters: Sequence[Parameter]) -> list[str]:
    lines = []
    for parameter in parameters:
        choice = f" ({'|'.join(parameter.options)})" if parameter.options else ""
        default = "FILE" if parameter.names is not None else plain(parameter.default)
        lines.append(f"      {parameter.name}={default}  {parameter.help}{choice}")
    return lines
