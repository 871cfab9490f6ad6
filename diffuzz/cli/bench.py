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


class _Parts(click.Group):
    """A group whose help says all of what its commands do, as that of diffuzz does."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        said = {name: (part.help or "").partition("\n\n")[0] for name, part in sorted(self.commands.items())}
        with formatter.section("Commands"):
            formatter.write_dl([(name, " ".join(text.split())) for name, text in said.items()])


@click.group("bench", cls=_Parts, no_args_is_help=False)
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
