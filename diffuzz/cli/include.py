"""``diffuzz include``: where the header for C is."""

from __future__ import annotations

from pathlib import Path

import click

from diffuzz.cli.options import print_text


@click.command("include")
def command() -> int:
    """Print the folder of diffuzz.h, for candidates in C or C++, and diffuzz.rs, for those in Rust."""
    print_text(f"{Path(__file__).parents[1] / 'include'}\n")
    return 0
