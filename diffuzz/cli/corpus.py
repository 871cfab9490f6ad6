"""``diffuzz corpus``: what a corpus has, one made of several, and the fewest entries that show all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from diffuzz.cli.options import (
    BAD_INPUT,
    DEFAULT_CORPUS,
    JSON,
    MISSING,
    PLACE,
    complain,
    completed,
    files,
    print_json,
    print_text,
    report,
)
from diffuzz.cli.parts import Parts
from diffuzz.cli.tables import table

if TYPE_CHECKING:
    from diffuzz.corpus.entry import Counterexample
    from diffuzz.corpus.grouping import Plan
    from diffuzz.corpus.lost import Lost

    Entries = Mapping[Path, Counterexample | Lost]

_PATHS = click.argument("paths", nargs=-1, type=PLACE, shell_complete=completed("entries"))


@click.group("corpus", cls=Parts, no_args_is_help=False)
def command() -> None:
    """Count, merge and thin out the entries of a corpus."""


@command.command("stats")
@_PATHS
@files
@JSON
def stats(paths: tuple[Path, ...], as_json: bool) -> int:
    """Count entries, mechanisms and verdicts by target [default: corpus/].

    A mechanism is what entries have in common that show the same thing: the operation with its choices, which
    implementation is wrong, what came of it, and the part of the domain that the case takes.
    """
    from diffuzz.corpus import grouping

    entries, unread = _read(paths or (DEFAULT_CORPUS,))
    groups: dict[str, dict[str, Any]] = {}
    for target, own in grouping.by_target(list(entries.values())).items():
        mechanisms = set(map(grouping.mechanism_of, own))
        groups[target] = {
            "entries": len(own),
            "mechanisms": len(mechanisms),
            "outcomes": dict(Counter(map(_outcome, own))),
            "implementations": sorted({one.who for one in mechanisms if one.who}),
        }
    size = sum(path.stat().st_size for path in entries)
    if as_json:
        print_json({"targets": groups, "entries": len(entries), "bytes": size, "unread": len(unread)})
    else:
        rows = [
            (
                target,
                str(one["entries"]),
                str(one["mechanisms"]),
                ", ".join(f"{count} {name}" for name, count in one["outcomes"].items()),
            )
            for target, one in groups.items()
        ]
        lines = table(("target", "entries", "mechanisms", ""), rows, justify="right") if rows else []
        print_text(report([*lines, f"{len(entries)} entries of {len(groups)} targets, {size / 1e3:.0f} kB"]))
    return _said(unread)


@command.command("merge")
@click.argument("sources", nargs=-1, type=PLACE, required=True, shell_complete=completed("entries"))
@click.argument("into", type=PLACE)
@files
@JSON
def merge(sources: tuple[Path, ...], into: Path, as_json: bool) -> int:
    """Copy the entries of SOURCES that add something into the corpus INTO, byte for byte.

    An entry adds something unless INTO has one of the same target, parameters and implementation with at least its
    value, by the same mechanism. Nothing is removed anywhere.
    """
    from diffuzz.corpus import files as store

    store.check_writable(into)
    added: list[str] = []
    known: list[tuple[str, str]] = []
    unread: list[_Unread] = []
    for path in store.files(sources):
        try:
            place, is_new = store.add(path, into)
        except (store.CorpusError, ImportError) as error:
            unread.append(_Unread.of(path, error))
            continue
        if is_new:
            added.append(str(place))
        else:
            known.append((str(path), str(place)))
    if as_json:
        print_json({"added": added, "known": [list(pair) for pair in known], "unread": [one.line for one in unread]})
    else:
        lines = [f"added  {place}" for place in added]
        print_text(report([*lines, f"{len(added)} of {len(added) + len(known) + len(unread)} entries added to {into}"]))
    return _said(unread)


@command.command("distil")
@_PATHS
@click.option("--apply", "applied", is_flag=True, help="Remove the files; without it they are only listed.")
@click.option(
    "--mutants/--no-mutants", default=True, help="Keep what kills a mutant that no other entry kills [default: yes]."
)
@files
@JSON
def distil(paths: tuple[Path, ...], applied: bool, mutants: bool, as_json: bool) -> int:
    """List the entries that a corpus does not need [default: corpus/]: another one shows the same.

    Kept are the entry with the largest value of each mechanism, and whatever kills a mutant (a wrong kernel of `bench
    mutants`) that no other kept entry kills. Nothing is removed without --apply, and nothing if a file cannot be read.
    """
    from diffuzz.corpus.grouping import distilled

    entries, unread = _read(paths or (DEFAULT_CORPUS,))
    if unread:
        return _said(unread)
    shows, untried = _kills(entries) if mutants else ({}, ())
    plan = distilled({path: entry for path, entry in entries.items() if path not in untried}, shows)
    plan = attrs.evolve(plan, kept=(*plan.kept, *untried))
    for path in plan.gone if applied else ():
        path.unlink()
    if as_json:
        print_json(distil_json(plan, shows, untried, applied=applied))
    else:
        print_text(distil_text(plan, shows, untried, applied=applied))
    return 0


def distil_json(
    plan: Plan, shows: Mapping[Path, Iterable[str]], untried: Sequence[Path], *, applied: bool
) -> dict[str, object]:
    """What is kept and what is not, and why."""
    return {
        "applied": applied,
        "kept": list(map(str, plan.kept)),
        "removed": {str(path): str(like) for path, like in plan.gone.items()},
        "not_tried": list(map(str, untried)),
        "kept_for_mutants": {str(path): list(what) for path, what in plan.rescued.items()},
        "mutants": sorted({name for killed in shows.values() for name in killed}),
    }


def distil_text(plan: Plan, shows: Mapping[Path, Iterable[str]], untried: Sequence[Path], *, applied: bool) -> str:
    """A line for each entry that can go, and how many stay."""
    verb = "removed" if applied else "not needed"
    lines = [f"{verb}  {path}  like {like}" for path, like in plan.gone.items()]
    lines += [f"kept  {path}  alone kills {', '.join(what)}" for path, what in plan.rescued.items()]
    lines += [f"kept  {path}  its case takes too long to be tried on mutants" for path in untried]
    killed = {name for names in shows.values() for name in names}
    kept = f"{len(plan.kept)} of {len(plan.kept) + len(plan.gone)} entries "
    kept += "are left" if applied else "show all of it"
    lines.append(f"{kept}, and kill the same {len(killed)} mutants" if killed else kept)
    if plan.gone and not applied:
        lines.append("Nothing was removed: --apply does that.")
    return report(lines)


def _read(paths: Sequence[Path]) -> tuple[dict[Path, Counterexample | Lost], list[_Unread]]:
    """The entries by their files, each once, whatever names it has; and what cannot be read. Raises CorpusError where
    there are none.
    """
    from diffuzz.corpus import files as store

    entries: dict[Path, Counterexample | Lost] = {}
    unread: list[_Unread] = []
    seen: set[tuple[int, int]] = set()
    # Of a file and links to it, the file.
    for path in sorted(store.files(paths), key=lambda one: one.is_symlink()):
        try:
            about = path.stat()
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
            entries[path] = store.load_any(path)
        except (store.CorpusError, ImportError, OSError) as error:
            unread.append(_Unread.of(path, error))
    if not entries and not unread:
        raise store.CorpusError(f"{', '.join(map(str, paths))}: no corpus entry (.json) there")
    return dict(sorted(entries.items())), unread


@attrs.frozen
class _Unread:
    """A file that could not be read: its line, and whether an option is what it needs."""

    line: str
    needs: bool

    @classmethod
    def of(cls, path: Path, error: Exception) -> _Unread:
        said = error.strerror if isinstance(error, OSError) else str(error)
        return cls(f"{path}: {str(said).removeprefix(f'{path}: ')}", isinstance(error, ImportError))


def _said(unread: Sequence[_Unread]) -> int:
    """0, or the exit code of files that could not be read, each with its line."""
    for one in unread:
        complain(one.line, MISSING if one.needs else BAD_INPUT)
    return 0 if not unread else MISSING if all(one.needs for one in unread) else BAD_INPUT


def _outcome(entry: Counterexample | Lost) -> str:
    from diffuzz.corpus.lost import Lost

    return entry.status if isinstance(entry, Lost) else entry.verdict.value


def _kills(entries: Entries) -> tuple[dict[Path, frozenset[str]], list[Path]]:
    """The mutants that each entry of a function kills, and the entries whose case takes too long to say."""
    from diffuzz import interruption
    from diffuzz.corpus.entry import Counterexample
    from diffuzz.corpus.replay import LONGEST, NeedsTimeError, check_time
    from diffuzz.studies.mutants import killing
    from diffuzz.telling import parts

    found, untried = {}, []
    for path, entry in parts(list(entries.items()), "entries"):
        interruption.check()
        try:
            if isinstance(entry, Counterexample):
                check_time(entry, LONGEST)
            found[path] = killing.killed_by(entry)
        except NeedsTimeError:
            untried.append(path)
    return found, untried
