"""What a shell offers when the user presses TAB: targets, parameters and their values, engines, kernels, formats,
entries of the corpus.

Nothing of a user is loaded for it, a file neither, and of diffuzz only what the word at hand needs: a list of targets
is made of the names of files, and the parameters of a target are those of that one.

The shells find commands, options and files by click's own mechanism. Its script for bash takes words as bash splits
them, at every ``=`` and ``:``, that for zsh puts a space after ``n=``, and that for fish ends a word at a comma; so the
scripts are ours.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click import shell_completion
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ZshComplete

if TYPE_CHECKING:
    from diffuzz.targets.parameter import Parameter
    from diffuzz.targets.target import Target

# The name of the command that a script completes.
PROGRAM = "diffuzz"
# Entries that are offered: more fit on no screen.
_MOST_ENTRIES = 200
Items = list[CompletionItem]

_BASH = """\
%(complete_func)s() {
    local response type value
    response=$(COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_BREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1")
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
            open) COMPREPLY+=("$value"); compopt -o nospace ;;
        esac
    done <<< "$response"
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_ZSH = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local -a closed open response
    local type key descr
    (( ! $+commands[%(prog_name)s] )) && return 1
    response=("${(@f)$(COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \\
        %(complete_var)s=zsh_complete %(prog_name)s)}")
    for type key descr in ${response}; do
        case $type in
            dir) _path_files -/ ;;
            file) _path_files -f ;;
            plain) closed+=("$key") ;;
            open) open+=("$key") ;;
        esac
    done
    (( $#closed )) && compadd -U -V unsorted -a closed
    (( $#open )) && compadd -U -S '' -V unsorted -a open
    return 0
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

_FISH = """\
function %(complete_func)s
    for line in (COMP_WORDS=(commandline -cp) COMP_CWORD=(commandline -t) %(complete_var)s=fish_complete %(prog_name)s)
        set -l parts (string split -m 1 "," -- $line)
        switch $parts[1]
            case dir
                __fish_complete_directories $parts[2]
            case file
                __fish_complete_path $parts[2]
            case plain
                echo $parts[2]
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


class _Bash(BashComplete):
    """Words are taken from the line, and of what is offered the part that bash puts in the place of its own word."""

    source_template = _BASH

    @staticmethod
    def _check_version() -> None:
        """The script is printed for whatever bash will read it."""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get("COMP_LINE", "")
        words = shell_completion_words(line)
        incomplete = "" if not words or line[-1:].isspace() else words.pop()
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        _, incomplete = self.get_completion_args()
        breaks = {"=", ":"} & set(os.environ.get("COMP_BREAKS", "=:"))
        # An option and its value are one word for the shell, and two for click.
        kept = max((incomplete.rfind(one) + 1 for one in breaks), default=0)
        value = str(item.value)
        if incomplete[:kept] and value.startswith(incomplete[:kept]):
            value = value[kept:]
        return f"{_kind(item)},{shlex.quote(value)}"


class _Zsh(ZshComplete):
    """zsh escapes what it inserts."""

    source_template = _ZSH

    def format_completion(self, item: CompletionItem) -> str:
        return f"{_kind(item)}\n{item.value}\n_"


class _Fish(FishComplete):
    """fish escapes what it inserts, and puts no space after ``=``."""

    source_template = _FISH


def _kind(item: CompletionItem) -> str:
    return "open" if item.type == "plain" and str(item.value).endswith("=") else str(item.type)


def shell_completion_words(line: str) -> list[str]:
    """The words of a line of which the last may be unfinished."""
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    try:
        words.extend(lexer)
    except ValueError:
        # A quote that is still open.
        words.append(lexer.token or "")
    return words


def register() -> None:
    """Make our scripts known to click."""
    shell_completion.add_completion_class(_Bash)
    shell_completion.add_completion_class(_Zsh)
    shell_completion.add_completion_class(_Fish)


def script(shell: str, commands: click.Command, variable: str) -> str:
    """The script that a shell runs to complete the command ``diffuzz``, which asks by setting ``variable``."""
    register()
    kind = shell_completion.get_completion_class(shell)
    assert kind is not None
    return kind(commands, {}, PROGRAM, variable).source().strip("\n") + "\n"


def targets(context: click.Context, incomplete: str) -> Items:
    """Names of targets; files, where it is one that is written."""
    return _files(incomplete) or _items(target_names(), incomplete)


def parameters(context: click.Context, incomplete: str) -> Items:
    """``KEY=`` of the target that the line names, and behind it the values, if they are few and known."""
    target = _target(context)
    if target is None:
        return []
    name, equals, value = incomplete.partition("=")
    declared: dict[str, Parameter] = {one.name: one for one in target.declared}
    if not equals:
        return [CompletionItem(f"{one}=", help=declared[one].help) for one in declared if one.startswith(name)]
    if name not in declared:
        return []
    one = declared[name]
    if one.names is not None:
        return []
    options = ("true", "false") if isinstance(one.default, bool) else one.options or (str(one.default),)
    return [CompletionItem(f"{name}={option}") for option in options if option.startswith(value)]


def dimensions(context: click.Context, incomplete: str) -> Items:
    """``NAME=`` of what can be narrowed of the target that the line names."""
    target = _target(context)
    if target is None or target.contract is None or "=" in incomplete:
        return []
    try:
        names = target.contract.narrowable(target.contract_params())
    except ValueError:
        return []
    return _items((f"{name}=" for name in names), incomplete)


def engines(context: click.Context, incomplete: str) -> Items:
    """Names of engines of a search, after the last comma."""
    done, comma, last = incomplete.rpartition(",")
    return _files(last) or _items((f"{done}{comma}{name}" for name in engine_names()), incomplete)


def model_engines(context: click.Context, incomplete: str) -> Items:
    """Names of engines of models, after the last comma."""
    from diffuzz.models import engines as all_engines

    done, comma, last = incomplete.rpartition(",")
    names = [name for name in all_engines.names() if ":" not in name]
    return _files(last) or _items((f"{done}{comma}{name}" for name in names), incomplete)


def kernels(context: click.Context, incomplete: str) -> Items:
    """Names of the implementations of the target's operation, after the last comma."""
    target = _target(context)
    done, comma, last = incomplete.rpartition(",")
    if target is None or target.contract is None:
        return _files(last)
    try:
        names = target.contract.kernels(target.contract_params())
    except ValueError:
        return []
    return _files(last) or _items((f"{done}{comma}{name}" for name in names if name not in done.split(",")), incomplete)


def entries(context: click.Context, incomplete: str) -> Items:
    """Entries of the corpus by what is typed of their path, and files."""
    folder = Path("corpus")
    found = islice(sorted(folder.glob("*/*.json")), _MOST_ENTRIES) if folder.is_dir() else ()
    paths = [path.as_posix() for path in found]
    offered = [path for path in paths if path.startswith(incomplete) and path.isprintable()]
    return [*(CompletionItem(path) for path in offered)] or [CompletionItem(incomplete, type="file")]


def candidates(context: click.Context, incomplete: str) -> Items:
    """Files: what is in them is not looked at."""
    return [CompletionItem(incomplete, type="file")]


COMPLETERS: dict[str, Callable[[click.Context, str], Items]] = {
    "targets": targets,
    "parameters": parameters,
    "dimensions": dimensions,
    "engines": engines,
    "model_engines": model_engines,
    "kernels": kernels,
    "entries": entries,
    "files": candidates,
}


def target_names() -> tuple[str, ...]:
    """The names of the targets, without importing one: those of the built-in files, and of packages."""
    from importlib.metadata import entry_points

    names = {point.name for point in entry_points(group="diffuzz.targets")}
    for package in ("diffuzz.targets", "diffuzz.targets.of_models"):
        for stem, defined in _defining(package, r"^TARGET\b[^=]*= *(\w+\b(?!\()|)"):
            # An operation has the name of its function, any other target that of its file.
            names.add(defined or stem.replace("_", "-"))
    return tuple(sorted(names))


def engine_names() -> tuple[str, ...]:
    """The names of the engines of a search, in the same way, the usual one first."""
    from importlib.metadata import entry_points

    names = {point.name for point in entry_points(group="diffuzz.engines")}
    names |= {stem for stem, _ in _defining("diffuzz.searching.engines", r"^def (rounds)\b")}
    return ("auto", *sorted(names - {"auto"}))


def _defining(package: str, definition: str) -> Iterator[tuple[str, str]]:
    """Names of the modules of a package whose text has a definition, and its group: importing them would take too
    long.
    """
    top, _, rest = package.partition(".")
    found = importlib.util.find_spec(top)
    pattern = re.compile(definition, re.MULTILINE)
    for place in (found.submodule_search_locations or ()) if found is not None else ():
        for file in Path(place, *rest.split(".")).glob("*.py"):
            if file.stem != "__init__" and (match := pattern.search(file.read_text(encoding="utf-8"))):
                yield file.stem, match[1]


def _target(context: click.Context) -> Target | None:
    """The target that the line names; None for one in a file, which would be run."""
    from diffuzz import registry
    from diffuzz import targets as all_targets

    given: Any = context.params.get("target_name") or context.params.get("names")
    name = given if isinstance(given, str) else next(iter(given or ()), None)
    if not isinstance(name, str) or registry.is_file_name(name):
        return None
    try:
        return all_targets.get(name)
    except ValueError:
        return None


def _items(names: Iterable[str], incomplete: str) -> Items:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _files(incomplete: str) -> Items:
    """Completion of files, where it is a path that is written."""
    return [CompletionItem(incomplete, type="file")] if "/" in incomplete or incomplete.startswith(".") else []
