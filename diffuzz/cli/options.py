"""What the commands share: option types, common options, exit codes, and how results are printed."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sized
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from diffuzz.cli import progress
from diffuzz.corpus import spelling
from diffuzz.escaping import escaped

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from diffuzz.models.model import Model
    from diffuzz.targets.target import Target

CONFIRMED, BAD_INPUT, MISSING, INTERRUPTED = 1, 2, 3, 130
DEFAULT_CORPUS = Path("corpus")
# EX_SOFTWARE of sysexits.h: Python's own 1 would say that a witness was found.
DEFECT = 70


# Click's types take a parameter from 8.4 on, and earlier versions will do: so none is given below.
class _Seconds(click.ParamType):  # type: ignore[type-arg]
    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return spelling.seconds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Place(click.Path):
    """A path. An empty one, which would be the current folder, is none."""

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        if value == "":
            self.fail("an empty path names no file and no folder; the current folder is .", param, ctx)
        return super().convert(value, param, ctx)


class _Setting(click.ParamType):  # type: ignore[type-arg]
    name = "key=value"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not (key and equals):
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        return key.strip(), text.strip()


class _Kernels(click.ParamType):  # type: ignore[type-arg]
    name = "A,B"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        names = [name.strip() for name in str(value).split(",")]
        if len(names) != 2 or not all(names):
            self.fail(f"{value!r} is not two names with a comma between them, such as ggml,libggml", param, ctx)
        return names[0], names[1]


class _Tokens(click.ParamType):  # type: ignore[type-arg]
    name = "N,N,..."

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in str(value).split(",")]
        if not all(re.fullmatch("[0-9]{1,9}", word) for word in words):
            self.fail(f"{value!r:.80} are not numbers of tokens, such as 1780,314,216", param, ctx)
        return tuple(map(int, words))


class _Number(click.ParamType):  # type: ignore[type-arg]
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


SECONDS, SETTING, KERNELS, TOKENS = _Seconds(), _Setting(), _Kernels(), _Tokens()
PLACE, FILE = _Place(path_type=Path), _Place(path_type=Path, dir_okay=False)
FOLDER = _Place(path_type=Path, file_okay=False)
SHARE = _Number("a share of the value, above 0 and at most 1", 0.0, 1.0 + 2**-52)


def completed(what: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """What completes an option or an argument in a shell: one of diffuzz.cli.completing's COMPLETERS."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from diffuzz.cli import completing

        return completing.COMPLETERS[what](context, incomplete)

    return complete


TARGET = click.option(
    "--target",
    "target_name",
    required=True,
    metavar="NAME",
    shell_complete=completed("targets"),
    help="The target, a name (see `targets`) or FILE.py:NAME.",
)
TARGETS = click.option(
    "--target",
    "names",
    multiple=True,
    metavar="NAME",
    shell_complete=completed("targets"),
    help="Only this target, a name or FILE.py:NAME (repeatable).",
)
_NARROWING = (
    ("fix", "NAME=VALUE", "Only this size or number: --fix n=4096, --fix eps=1e-6, --fix b=1 (repeatable)."),
    ("range", "NAME=LOW:HIGH", "Only these: --range positions=0:4095, --range n=128: (repeatable)."),
    ("multiple", "NAME=STEP", "Only sizes that are multiples: --multiple k=64 (repeatable)."),
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
MODEL = click.option("--model", required=True, type=FILE, metavar="FILE", help="The model, a GGUF or an .apr file.")
A_CANDIDATE = click.option(
    "--candidate",
    metavar="FUNCTION",
    shell_complete=completed("files"),
    help="Test this in the place of the implementation: FILE.py:FUNCTION, FILE.so:SYMBOL (C, by diffuzz.h), or "
    "'run: PROGRAM ARGUMENT ...', which answers frames.",
)
CANDIDATE = click.option(
    "--candidate",
    "candidates",
    metavar="[NAME=]FUNCTION",
    multiple=True,
    shell_complete=completed("files"),
    help="FILE.py:FUNCTION, FILE.so:SYMBOL or 'run: PROGRAM' for entries that were found with a candidate, by the NAME "
    "that they recorded (repeatable). "
    "Without a NAME it is for those of its own name; a single one of which there is none is for all.",
)


def ARRAYS(command: Callable[..., int]) -> Callable[..., int]:  # noqa: N802, a decorator like its neighbours
    """What a function of Python is called with, as ``arrays`` and ``device``: None where that is not said."""
    for option in (
        click.option("--device", metavar="NAME", help="Device of these arrays: cpu, cuda:0 [default: cpu]."),
        click.option(
            "--arrays",
            type=click.Choice(("numpy", "torch", "jax", "dlpack")),
            help="Arrays that a candidate of Python gets [default: numpy; of entries, what they recorded].",
        ),
    ):
        command = option(command)
    return command


LONGEST = click.option(
    "--longest",
    type=SECONDS,
    default="2s",
    show_default=True,
    help="Time that the case of one entry may be expected to take.",
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
QUIET = click.option(
    "-q",
    "--quiet",
    is_flag=True,
    help="Show no progress, and print only the answer: the first line of a report; tables.",
)
VERBOSE = click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Log phases and improvements on stderr, with times, and print more, if there is.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout.")


def VERBOSITY(command: Callable[..., int]) -> Callable[..., int]:  # noqa: N802, a decorator like its neighbours
    """--quiet and --verbose, and what is shown while the command works. Those of the two that are parameters of the
    command itself are given to it: what it prints depends on them.
    """
    own = {"quiet", "verbose"} & set(inspect.signature(command).parameters)

    @functools.wraps(command)
    def showing(*, quiet: bool, verbose: bool, **others: object) -> int:
        if quiet and verbose:
            raise click.UsageError("--quiet and --verbose: give one of them")
        given = {"quiet": quiet, "verbose": verbose}
        with progress.shown(_label(others.get("target_name")), quiet=quiet, verbose=verbose):
            return command(**others, **{name: given[name] for name in own})

    return QUIET(VERBOSE(showing))


def _label(target: object) -> str:
    """What a display of progress is called: the target of a command, or else its own name."""
    if isinstance(target, str):
        return os.path.basename(target)
    context = click.get_current_context()
    names = [context.info_name or ""]
    if context.parent is not None and context.parent.parent is not None:
        names.insert(0, context.parent.info_name or "")
    return " ".join(names)


def answer_of(text: str, quiet: bool) -> str:
    """A report, no wider than its terminal, or of one that is to be ``quiet`` its first line, whole: the answer."""
    from diffuzz.cli.tables import folded

    lines = text.removesuffix("\n").split("\n")
    return "\n".join(lines[:1] if quiet else folded(lines)) + "\n"


def PARAMS(command: Callable[..., int]) -> Callable[..., int]:  # noqa: N802, a decorator like its neighbours
    """The parameters of a target, and what of its domain is left, as ``settings``."""

    @functools.wraps(command)
    def setting(**others: object) -> int:
        settings = others.pop("settings")
        assert isinstance(settings, tuple)
        for kind, *_ in _NARROWING:
            given = others.pop(kind)
            assert isinstance(given, tuple)
            settings += tuple((f"{kind}:{name}", value) for name, value in given)
        return command(settings=settings, **others)

    for kind, metavar, text in reversed(_NARROWING):
        setting = click.option(
            f"--{kind}",
            type=SETTING,
            multiple=True,
            metavar=metavar,
            shell_complete=completed("dimensions"),
            help=text,
        )(setting)
    return click.option(
        "--param",
        "settings",
        type=SETTING,
        multiple=True,
        metavar="KEY=VALUE",
        shell_complete=completed("parameters"),
        help="Set a parameter of the target (repeatable). A format may be FILE.py:NAME.",
    )(setting)


def SEQUENCE(command: Callable[..., int]) -> Callable[..., int]:  # noqa: N802, a decorator like its neighbours
    """What a model runs over, as ``tokens`` and ``prompt``, one of which ``sequence`` takes."""
    for option in (
        click.option("--prompt", metavar="TEXT", help="Run over the tokens of this text, by the model's vocabulary."),
        click.option("--tokens", type=TOKENS, metavar="N,N,...", help="Run over these tokens."),
    ):
        command = option(command)
    return command


def sequence(model: Model, tokens: tuple[int, ...] | None, prompt: str | None) -> tuple[int, ...]:
    """The tokens that are given, as such or as text. Raises click.UsageError for none, both, and for what the model
    cannot run over; ModelError; ImportError where the text needs a package.
    """
    if (tokens is None) == (prompt is None):
        raise click.UsageError("give --tokens or --prompt, one of them")
    if tokens is None:
        from diffuzz.models.text import tokens_of

        tokens = tuple(tokens_of(model, prompt or ""))
        if not tokens:
            raise click.UsageError("--prompt: the text has no tokens")
    from diffuzz.models.dump import sizes_of

    count, context = sizes_of(model)["V"], model.number("context_length", math.inf)
    if max(tokens) >= count:
        raise click.UsageError(f"token {max(tokens)} is none: the model's vocabulary has 0 to {count - 1}")
    if len(tokens) > context:
        raise click.UsageError(f"there are {len(tokens)} tokens, and the model's context has {context}")
    return tokens


FORMAT_FILES = click.option(
    "--format",
    "formats",
    metavar="FILE.py:NAME",
    multiple=True,
    shell_complete=completed("files"),
    help="A block format in a file, for entries that were found with it (repeatable).",
)
MODEL_FILES = click.option(
    "--model",
    "models",
    metavar="FILE",
    multiple=True,
    shell_complete=completed("files"),
    help="A model, for entries about it (repeatable).",
)
_FILES = (
    ("target", "FILE.py:NAME", "A target in a file, for entries that were found with it (repeatable)."),
    ("format", "FILE.py:NAME", "A block format in a file, in the same way (repeatable)."),
    ("kernels", "FILE.py", "Kernels in a file, in the same way (repeatable)."),
    ("model", "FILE", "A model, for entries about it (repeatable)."),
)


def files(command: Callable[..., int]) -> Callable[..., int]:
    """Options of the commands that read entries: what a corpus file names, but never loads by itself."""

    @functools.wraps(command)
    def loading(
        *,
        target: tuple[str, ...],
        format: tuple[str, ...],
        kernels: tuple[str, ...],
        model: tuple[str, ...],
        **others: object,
    ) -> int:
        load_files(target, format, kernels)
        name_models(model)
        return command(**others)

    for name, metavar, text in reversed(_FILES):
        loading = click.option(
            f"--{name}", metavar=metavar, multiple=True, shell_complete=completed("files"), help=text
        )(loading)
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


def name_models(files: Iterable[str]) -> None:
    """Make known which files the models are that entries name. Raises ModelError."""
    for file in files:
        from diffuzz.models import named

        named.name_of(file)


def check_arrays(candidates: Sized | None, arrays: str | None, device: str | None) -> None:
    """Raise click.UsageError for arrays or a device of no candidate."""
    if not candidates and (arrays or device) is not None:
        raise click.UsageError(f"--{'device' if arrays is None else 'arrays'}: it is for a candidate; give --candidate")


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


def open_model(path: Path) -> Model:
    """The model in a file that a user names. Raises click.UsageError for what is none, OSError."""
    from diffuzz.models import model

    try:
        return model.open(path)
    except model.ModelError as error:
        raise click.UsageError(f"{path}: {error}") from error


def complain(message: str, code: int) -> int:
    """One line on stderr, whatever the message quotes; ``code``, whether or not stderr can be written to."""
    print_error(f"diffuzz: {escaped(message)}\n")
    return code


def print_error(text: str) -> None:
    """Text on stderr. It may be full, or closed, or its reader may have gone: then the exit code tells all the same."""
    with progress.aside():
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):
            _forget(sys.stderr)


def unfinished(done: int, planned: int, what: str) -> int:
    """The exit code of work of which the user let ``done`` of ``planned`` be finished, with a line on stderr."""
    return complain(f"interrupted: {done} of {planned} {what}", INTERRUPTED)


def print_json(value: Mapping[str, object]) -> None:
    """One line of strict JSON on stdout."""
    print_text(json_text(value))


def json_text(value: Mapping[str, object]) -> str:
    """One line of strict JSON."""
    return json.dumps(value, allow_nan=False) + "\n"


def report(lines: Iterable[str]) -> str:
    """The text of a report: every line stays one, whatever it quotes."""
    return "\n".join(map(escaped, lines)) + "\n"


def print_text(text: str, mark: Callable[[str], str] = str) -> None:
    """Text on stdout, whose reader may have gone; what it quotes controls no terminal. ``mark`` puts colours into lines
    that are escaped.
    """
    with progress.aside():
        try:
            sys.stdout.write("\n".join(mark(escaped(line)) for line in text.split("\n")))
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader (head, less) has gone; the exit code still tells.
            _forget(sys.stdout)
        except OSError as error:
            _forget(sys.stdout)
            raise OSError(error.errno, error.strerror, "standard output") from error


def settle() -> None:
    """Flush both streams while a failure to do so can still be ignored: Python itself would exit with another code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _forget(stream)


def _forget(stream: TextIO) -> None:
    """What could not be written is not tried again when Python exits, which would change the exit code."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
