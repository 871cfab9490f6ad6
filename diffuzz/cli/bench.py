"""``diffuzz bench``: measure diffuzz itself."""

from __future__ import annotations

import click

from diffuzz.cli import (
    bench_engines,
    bench_faults,
    bench_kernelbench,
    bench_mutants,
    bench_properties,
    bench_tolerances,
    bench_vectors,
    bench_witnesses,
)
from diffuzz.cli.parts import Parts


@click.group("bench", cls=Parts, no_args_is_help=False)
def command() -> None:
    """Measure diffuzz itself."""


for _part in (
    bench_mutants,
    bench_properties,
    bench_engines,
    bench_witnesses,
    bench_kernelbench,
    bench_tolerances,
    bench_faults,
    bench_vectors,
):
    command.add_command(_part.command)
