"""``diffuzz completion``: the script by which a shell completes the command ``diffuzz``."""

from __future__ import annotations

import click

from diffuzz.cli.options import print_text


@click.command("completion")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def command(shell: str) -> int:
    """Print the script by which SHELL completes commands, options, targets, parameters, engines and kernels.

    For bash, put this into ~/.bashrc: eval "$(diffuzz completion bash)". For zsh, put the same with zsh into ~/.zshrc,
    after compinit. For fish: diffuzz completion fish > ~/.config/fish/completions/diffuzz.fish
    """
    from diffuzz.cli import completing
    from diffuzz.cli.main import COMPLETING, commands

    print_text(completing.script(shell, commands, COMPLETING))
    return 0
