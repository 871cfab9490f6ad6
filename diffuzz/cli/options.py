"""What the commands share: option types, common options, exit codes, and how results are printed."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from diffuzz.targets.target import Target

CONFIRMED, BAD_INPUT, MISSING, INTERRUPTED = 1, 2, 3, 130
DEFAULT_CORPUS = Path("corpus")
# EX_SOFTWARE of sysexits.h: Python's own 1 would say that a witness was found.
DEFECT = 70

_UNITS = {"ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class _Seconds(click.ParamType[float]):
    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*(ms|s|m|min|h|)", str(value).strip())
        if match is None or not 0 < (seconds := float(match[1]) * _UNITS[match[2]]) <= 1e6:
            self.fail(f"{value!r} is not a duration above zero; 10s, 500ms, 2min or 1h are", param, ctx)
        return seconds


class _Setting(click.ParamType[tuple[str, str]]):
    name = "key=value"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not (key and equals):
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        return key.strip(), text.strip()


class _Kernels(click.ParamType[tuple[str, str]]):
    name = "A,B"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        names = [name.strip() for name in str(value).split(",")]
        if len(names) != 2 or not all(names):
            self.fail(f"{value!r} are not two names, such as ggml,libggml", param, ctx)
        return names[0], names[1]


class _Number(click.ParamType[float]):
    name = "number"

    def __init__(self, wanted: str, low: float = -math.inf, high: float = math.inf) -> None:
        self.wanted, self.low, self.high = wanted, low, high

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(str(value))
        except ValueError:
            number = math.nan
        # Neither end itself: no NaN, no infinity, no share of nothing.
        if not self.low < number < self.high:
            self.fail(f"{value!r} is not {self.wanted}", param, ctx)
        return number


SECONDS, SETTING, KERNELS = _Seconds(), _Setting(), _Kernels()
SHARE = _Number("a share of the value, above 0 and at most 1", 0.0, 1.0 + 2**-52)
TARGET = click.option(
    "--target",
    "target_name",
    required=True,
    metavar="NAME",
    help="The target, a name (see `targets`) or FILE.py:NAME.",
)
TARGETS = click.option(
    "--target", "names", multiple=True, metavar="NAME", help="Only this target, a name or FILE.py:NAME (repeatable)."
)
PARAMS = click.option(
    "--param",
    "settings",
    type=SETTING,
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a parameter of the target (repeatable). A format may be FILE.py:NAME.",
)
THRESHOLD = click.option(
    "--threshold",
    "--limit",
    "threshold",
    type=_Number("a finite number"),
    help="Threshold T: the claim is value > T [default: the target's own]. --limit is the same.",
)
LIBRARY = click.option(
    "--library",
    metavar="PATH",
    type=click.Path(exists=True),
    help="A build of ggml, folder or file, for `libggml` to stand for [default: that of ggml-python].",
)
CANDIDATE = click.option(
    "--candidate",
    metavar="FILE.py:FUNCTION",
    help="The function, for entries that were found with a candidate.",
)
TIMEOUT = click.option(
    "--timeout",
    type=SECONDS,
    default="10s",
    show_default=True,
    help="Time that one call of the candidate may take; loading it, and its first call, get six times as much, "
    "though no more than 30s where that is above the timeout.",
)
SEED = click.IntRange(0, 2**63 - 1)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout.")
FORMAT_FILES = click.option(
    "--format",
    "formats",
    metavar="FILE.py:NAME",
    multiple=True,
    help="A block format in a file, for entries that were found with it (repeatable).",
)
_FILES = (
    ("target", "FILE.py:NAME", "A target in a file, for entries that were found with it (repeatable)."),
    ("format", "FILE.py:NAME", "A block format in a file, in the same way (repeatable)."),
    ("kernels", "FILE.py", "Kernels in a file, in the same way (repeatable)."),
)


def files(command: Callable[..., int]) -> Callable[..., int]:
    """Options of the commands that read entries: what a corpus file names, but never loads by itself."""

    @functools.wraps(command)
    def loading(*, target: tuple[str, ...], format: tuple[str, ...], kernels: tuple[str, ...], **others: object) -> int:
        load_files(target, format, kernels)
        return command(**others)

    for name, metavar, text in reversed(_FILES):
        loading = click.option(f"--{name}", metavar=metavar, multiple=True, help=text)(loading)
    return loading


def load_files(targets: Iterable[str], formats: Iterable[str], kernels: Iterable[str]) -> None:
    """Make known what is in the files that a user names. Raises RegistryError."""
    if not (targets or formats or kernels):
        return
    from diffuzz import formats as all_formats
    from diffuzz import kernels as all_kernels
    from diffuzz import targets as all_targets

    for load, given in ((all_formats.load, formats), (all_targets.load, targets), (all_kernels.load, kernels)):
        for name in given:
            load(name)


def target_named(text: str) -> Target:
    """The target that a user names, by its name or as FILE.py:NAME. Raises RegistryError."""
    from diffuzz import targets

    return targets.get(targets.load(text))


def given_parameters(settings: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """The parameters of ``--param``, formats in files loaded. Raises click.UsageError for one that is given twice, and
    differs; RegistryError.
    """
    given: dict[str, str] = {}
    for key, value in settings:
        if given.setdefault(key, value) != value:
            raise click.UsageError(f"--param {key} is given twice, as {given[key]} and as {value}")
    # A name that a format has already stays as it is, and is checked where the target is known.
    if given.get("format", "").rpartition(":")[0].endswith(".py"):
        from diffuzz import formats

        given["format"] = formats.load(given["format"])
    return given


def complain(message: str, code: int) -> int:
    """One line on stderr, whatever the message quotes; ``code``."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))
    click.echo(f"diffuzz: {line}", err=True)
    return code


def unfinished(done: int, planned: int, what: str) -> int:
    """The exit code of work of which the user let ``done`` of ``planned`` be finished, with a line on stderr."""
    return complain(f"interrupted: {done} of {planned} {what}", INTERRUPTED)


def print_json(value: Mapping[str, object]) -> None:
    """One line of strict JSON on stdout."""
    print_text(json.dumps(value, allow_nan=False) + "\n")


def print_text(text: str) -> None:
    """Text on stdout, whose reader may have gone."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has gone; the exit code still tells.
        _forget_stdout()
    except OSError as error:
        _forget_stdout()
        raise OSError(error.errno, error.strerror, "standard output") from error


def _forget_stdout() -> None:
    """What could not be written is not tried again when Python exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
