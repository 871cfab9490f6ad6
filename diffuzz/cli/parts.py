"""Commands that have commands of their own."""

from __future__ import annotations

import click


class Parts(click.Group):
    """A group whose help says all of what its commands do, as that of diffuzz does."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        said = {name: (part.help or "").partition("\n\n")[0] for name, part in sorted(self.commands.items())}
        with formatter.section("Commands"):
            formatter.write_dl([(name, " ".join(text.split())) for name, text in said.items()])
