"""``diffuzz search --property``: which properties an implementation keeps, as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from diffuzz.cli.annotating import annotate
from diffuzz.cli.options import BAD_INPUT, CONFIRMED, INTERRUPTED, answer_of, complain, print_json, print_text, report
from diffuzz.cli.tables import params_text
from diffuzz.corpus.spelling import json_number
from diffuzz.escaping import escaped
from diffuzz.registry import one_line

if TYPE_CHECKING:
    from diffuzz.corpus.lost import Lost
    from diffuzz.judging.question import Keep
    from diffuzz.searching.keeping import Finding, Kept, Report
    from diffuzz.targets.target import Target

# Columns of the name of a property, and of what is said of it.
_INDENT = 10


def keep(
    target: Target,
    given: Mapping[str, str],
    asked: Sequence[Keep],
    required: Sequence[str],
    command: Sequence[str],
    *,
    budget: float,
    seed: int | None,
    corpus: Path | None,
    annotations: bool | None,
    verbose: bool,
    as_json: bool,
) -> int:
    """Ask each implementation for its properties, print what was found, and return the exit code.

    ``command`` has the words that say what was asked of what, for a line with which it is seen again. What is broken,
    or required and not kept, is saved in ``corpus``, if there is one.
    """
    import secrets

    from diffuzz.cli.progress import line_printer
    from diffuzz.judging.question import QuestionError
    from diffuzz.searching.keeping import keeping

    seed = secrets.randbelow(2**31) if seed is None else seed
    say = line_printer()
    found: list[Kept] = []
    saved = _Saved(corpus, required, command)
    for one in asked:
        kept = keeping(
            target,
            given,
            one,
            seconds=budget,
            seed=seed,
            on_report=None if say is None else lambda report: say(f"{report.name}: {report.status}"),
        )
        found.append(kept)
        saved.add(kept, one)
        if kept.interrupted:
            break
    if as_json:
        print_json(properties_json(found, given, required, command, saved.paths))
    else:
        print_text(answer_of(properties_text(found, command, saved.paths, verbose=verbose), quiet=False))
    annotate(annotations, as_json, lambda: [properties_json(found, given, required, command, saved.paths)])
    if any(kept.interrupted for kept in found):
        planned = len(asked[0].properties) * len(asked)
        done = sum(len(kept.reports) for kept in found)
        return complain(f"interrupted: {done} of {planned} properties", INTERRUPTED)
    if saved.failures:
        return complain("; ".join(saved.failures), BAD_INPUT)
    lost = [name for kept in found for name in kept.lost if name in required]
    if any(kept.broken for kept in found) or lost:
        return CONFIRMED
    # Work that was asked for by its name and could not be done is not done well.
    named = set(required) | (set(asked[0].properties) if len(asked[0].properties) == 1 else set())
    skipped = [one for kept in found for one in kept.reports if one.status == "not asked" and one.name in named]
    if skipped:
        return complain(str(QuestionError(f"property {skipped[0].name}: {skipped[0].why}")), BAD_INPUT)
    return 0


@attrs.define
class _Saved:
    """What is saved in the corpus: ``paths`` by the name of what was asked and the property; None of what did not show
    again in a process of its own.
    """

    corpus: Path | None
    required: Sequence[str]
    command: Sequence[str]
    paths: dict[tuple[str, str], Path | None] = attrs.field(init=False, factory=dict)
    failures: list[str] = attrs.field(init=False, factory=list)

    def add(self, kept: Kept, asked: Keep) -> None:
        """Save the first finding of each property that is broken, or required and not kept."""
        from diffuzz.corpus import files, record

        if self.corpus is None:
            return
        for one in kept.reports:
            if one.status != "broken" and not (one.findings and one.name in self.required):
                continue
            said = record.again(one, one.findings[0], kept, self.command)
            try:
                entry = record.lost(kept, one, one.findings[0], asked, said)
                self.paths[kept.name, one.name] = None if entry is None else _place(entry, asked, self.corpus)
            except (files.CorpusError, ValueError) as error:
                self.failures.append(str(error))
            except Exception as error:
                self.failures.append(f"{self.corpus}: not saved: {escaped(one_line(error))}")


def _place(entry: Lost, asked: Keep, corpus: Path) -> Path:
    """Where an entry is: one to which it adds nothing, if that still shows, or its own. Raises CorpusError."""
    from diffuzz.corpus import files, record

    like = (path for path, known in files.lost_like(entry, corpus) if record.still_lost(known, asked))
    return next(like, None) or files.save_lost(entry, corpus)


def properties_text(
    found: Sequence[Kept],
    command: Sequence[str],
    saved: Mapping[tuple[str, str], Path | None] = MappingProxyType({}),
    *,
    verbose: bool = False,
) -> str:
    """One line for each property, and beneath it what is needed to see again that it is not kept."""
    from diffuzz.judging.handing import Handing

    lines: list[str] = []
    for kept in found:
        arrays = "" if kept.handing == Handing() else f", arrays of {kept.handing}"
        lines += [f"{kept.name} as {kept.target.name} ({params_text(kept.params)}){arrays}, seed {kept.seed}:", ""]
        for one in kept.reports:
            key = kept.name, one.name
            witness = "" if key not in saved else str(saved[key] or "none: it did not show again in a fresh process")
            lines += _lines(one, kept, command, witness, verbose)
        lines.append("")
        if kept.broken:
            lines.append(f"{kept.name} is broken: {', '.join(kept.broken)}.")
        elif kept.lost:
            lines.append(f"Not invariant: {', '.join(kept.lost)}. That is no error unless it was promised.")
        elif any(one.status == "kept" for one in kept.reports):
            lines.append("No change was found that shows.")
    return report(lines)


def _lines(one: Report, kept: Kept, command: Sequence[str], witness: str, verbose: bool) -> list[str]:
    from diffuzz.corpus import record

    head = f"{one.name:<{_INDENT}}"
    if one.status == "not asked":
        return [f"{head}not asked: {one.why}"]
    sizes = ", ".join(f"{name} {_sizes(seen)}" for name, seen in one.sizes.items())
    looked = f"{one.calls:,} calls, {one.compared:,} numbers, {one.ways} way{'s' if one.ways > 1 else ''}"
    looked += f"; {sizes}" if sizes else ""
    lines = []
    if one.status == "kept":
        lines.append(f"{head}kept: {looked}")
    for place, finding in enumerate(one.findings):
        status = "broken" if finding.broken else "not invariant"
        lines.append(f"{head if place == 0 else '':<{_INDENT}}{status}: {finding.text}")
        if place == 0:
            lines.append(f"{'':<{_INDENT}}  again: {record.again(one, finding, kept, command)}")
            lines += [f"{'':<{_INDENT}}  witness: {witness}"] if witness else []
        elif place >= 3 and not verbose and len(one.findings) > 5:
            lines.append(f"{'':<{_INDENT}}and in {len(one.findings) - place - 1} other ways (--verbose)")
            break
    if one.findings:
        lines.append(f"{'':<{_INDENT}}  looked at: {looked}")
    for way, said in list(one.refused.items())[: None if verbose else 3]:
        lines.append(f"{'':<{_INDENT}}  refused, {way}: {said}")
    return lines


def _sizes(seen: frozenset[int]) -> str:
    from diffuzz.searching.integers import covered

    return covered(sorted(seen))


def properties_json(
    found: Sequence[Kept],
    given: Mapping[str, object],
    required: Sequence[str],
    command: Sequence[str],
    saved: Mapping[tuple[str, str], Path | None] = MappingProxyType({}),
) -> dict[str, object]:
    """Everything that was found, in the order in which it was asked."""
    from diffuzz.corpus.environment import device, environment

    return {
        "target": found[0].target.name,
        "params": dict(found[0].params),
        "seed": found[0].seed,
        "required": list(required),
        "implementations": [
            {
                "name": kept.name,
                "broken": list(kept.broken),
                "not_invariant": [name for name in kept.lost if name not in kept.broken],
                "properties": [
                    _report_json(one, kept, command) | {"witness": path and str(path)}
                    for one in kept.reports
                    for path in [saved.get((kept.name, one.name))]
                ],
                "interrupted": kept.interrupted,
            }
            for kept in found
        ],
        "environment": environment() | device() | found[0].handing.about(),
    }


def _report_json(one: Report, kept: Kept, command: Sequence[str]) -> dict[str, object]:
    return {
        "property": one.name,
        "status": one.status,
        "why": one.why or None,
        "findings": [_finding_json(one, finding, kept, command) for finding in one.findings],
        "ways": one.ways,
        "looks": one.looks,
        "calls": one.calls,
        "numbers_compared": one.compared,
        "refused": dict(one.refused),
        "sizes": {name: sorted(seen) for name, seen in one.sizes.items()},
        "seconds": round(one.seconds, 3),
    }


def _finding_json(one: Report, finding: Finding, kept: Kept, command: Sequence[str]) -> dict[str, object]:
    from diffuzz.corpus import record

    found = finding.difference
    return {
        "text": finding.text,
        "way": finding.way,
        "broken": finding.broken,
        "changed": found.changed,
        "how": found.how or None,
        "sizes": dict(finding.sizes),
        "not_at": dict(finding.below),
        "numbers": dict(finding.numbers),
        "elements": found.elements,
        "of": found.compared,
        "place": found.place or None,
        "a": json_number(found.a),
        "b": json_number(found.b),
        "ulps": found.ulps,
        "seen": None if found.chance is None else list(found.chance),
        "values": [json_number(value) for value in finding.values],
        "within_bound": None if not finding.values else not finding.outside,
        "command": record.again(one, finding, kept, command),
    }
