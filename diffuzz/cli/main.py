"""The command line: ``python -m diffuzz search --target rmsnorm``. A contract that scripts depend on; see
docs/commands.md.

Results go to stdout. Progress goes to stderr, and only when that is a terminal. Exit codes: 0 claim not confirmed, or
replay as recorded; 1 a witness was found, or a replay changed; 2 usage or bad input, one clear line; 3 a requested
oracle or dependency is missing; 70 a defect of diffuzz, with its traceback; 130 interrupted before there was anything
to keep, or before all of a table was there.

Each command is one file: its options, what it calls, and what it prints as text and as JSON. What is heavy is imported
when a command runs, and the command's own file when it is called, so that --help is quick.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, NoReturn

import click

from diffuzz import __version__, interruption
from diffuzz.cli.options import BAD_INPUT, DEFECT, INTERRUPTED, MISSING, complain, print_error, settle

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# What --help says of each command, so that it imports none of them.
COMMANDS = {
    "bench": "Measure diffuzz itself.",
    "bisect": "Find the first of several builds of a library or function that shows a witness.",
    "campaign": "Search many jobs, in rounds, night after night, on one machine or many.",
    "check": "Judge every step of a model's run, from the inputs that the run itself dumped.",
    "claims": "Reproduce the published claims, search each one, and judge it.",
    "completion": "Print the script by which bash, zsh or fish completes commands and their options.",
    "corpus": "Count, merge and thin out the entries of a corpus.",
    "doctor": "Say what is installed, which kernels work, what JAX and torch see, and what is missing.",
    "dump": "Run a model in an engine, and save all that it computed.",
    "export": "Write conformance vectors of an operation, for tests in any language.",
    "fingerprint": "Recover the arithmetic of a black box: the order of its sums, precision, fused products, exp.",
    "include": "Print the folder of diffuzz.h, for candidates in C, C++ and Rust.",
    "init": "Write a workflow, a corpus and a sample test into a repository.",
    "matrix": "Search every pair of implementations, and say how each pair agrees.",
    "measure": "Measure one case: a corpus entry (.json), or named arrays (.npz, .safetensors).",
    "minimise": "Make the witness of a corpus entry simpler, and save it as another entry.",
    "replay": "Measure the entries of a corpus again, and compare with what they recorded.",
    "report": "Report results for CI: SARIF, annotations of GitHub, a summary in Markdown.",
    "scan": "Multiply every block of a model with the published ramp on both paths: drift by tensor, and odd blocks.",
    "search": "Search for the largest value, minimise its case, judge the claim, save the witness.",
    "show": "Show a corpus entry: the witness, what it confirms, and how it was found.",
    "targets": "List the targets, their parameters and their bounds.",
    "trace": "Hold two runs of a model against each other: is one wrong, and what is the difference worth?",
    "verify": "Hold results that were computed elsewhere against conformance vectors.",
}
# By this variable the script of `completion` asks for what can be typed.
COMPLETING = "_DIFFUZZ_COMPLETE"


class _Commands(click.Group):
    """A group that imports a command when it is called: each is ``command`` in the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names and what is said of them: no command is imported for it."""
        from click.shell_completion import CompletionItem

        found = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = importlib.import_module(f"diffuzz.cli.{cmd_name}").command
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, and the command that a mistyped name is like."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            if close := difflib.get_close_matches(args[0], COMMANDS, 1):
                raise click.UsageError(f"{error.message.rstrip('.')}; did you mean {close[0]}?", ctx) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="diffuzz")
def commands() -> None:
    """Find the input on which an inference kernel drifts most, prove how far it can get, keep the witness."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit with its code; bad input is one line on stderr, never a traceback."""
    _fill_gaps()
    if sys.stderr is None:
        # Closed (2>&-): what would be said there is for nobody.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.exit(complain("standard output is closed, so there is no place for results", BAD_INPUT))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names may be any bytes, and a terminal may know no Greek.
        sys.stdout.reconfigure(errors="backslashreplace")
    # Once the result is there, its exit code stands; a caller within a process has its Ctrl-C back.
    with interruption.deferred(afterwards=signal.SIG_IGN if arguments is None else None):
        code = _run(sys.argv[1:] if arguments is None else arguments)
        settle()
    sys.exit(code)


def _fill_gaps() -> None:
    """Standard streams that are closed lead nowhere: another file or socket with their number would be written to."""
    with contextlib.suppress(OSError):
        # The least number that is free is what a file gets.
        while (gap := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(gap)


def _run(arguments: list[str]) -> int:
    try:
        os.getcwd()
    except OSError as error:
        return complain(f"the working directory cannot be used ({error.strerror}): change to one that can", BAD_INPUT)
    try:
        if COMPLETING in os.environ:
            from diffuzz.cli import completing

            completing.register()
        code = commands.main(
            args=arguments or ["--help"],
            prog_name="python -m diffuzz",
            complete_var=COMPLETING,
            standalone_mode=False,
        )
        return int(code or 0) if arguments else BAD_INPUT
    except click.ClickException as error:
        return complain(" ".join(error.format_message().split()), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except ImportError as error:
        return complain(str(error), MISSING)
    except OSError as error:
        # The operating system's word about a file.
        name = error.filename if isinstance(error.filename, (str, bytes, os.PathLike)) else ""
        where = f"{os.fsdecode(name)}: " if name else ""
        return complain(f"{where}{error.strerror or error}", BAD_INPUT)
    except ValueError as error:
        # Everything else that a user can get wrong is one of ours, or, without a type of its own, NumPy's.
        from diffuzz.registry import place_of

        place = place_of(error) if type(error) is ValueError else None
        return complain(f"{place}: {error}" if place else str(error), BAD_INPUT)
    except MemoryError:
        return complain("not enough memory; choose smaller parameters", BAD_INPUT)
    except Exception as error:
        if COMPLETING in os.environ:
            # A user who presses TAB has asked for nothing else.
            return DEFECT
        from diffuzz.registry import one_line, place_of

        if (place := place_of(error)) is not None:
            return complain(f"{place}: {one_line(error)}", BAD_INPUT)
        print_error(traceback.format_exc())
        return DEFECT
