"""The page of ``report``: that of a single result, or of several with filters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from diffuzz.corpus.spelling import command_line

if TYPE_CHECKING:
    from diffuzz.corpus.candidates import Candidates
    from diffuzz.corpus.replay import Replayed
    from diffuzz.reporting.finding import Finding

_Object = Mapping[str, Any]
_Made = TypeVar("_Made")


class UnshownError(ValueError):
    """A result that cannot be shown, since it is not as a command prints it; one line."""


@attrs.frozen(eq=False)
class Given:
    """What one entry, or one line of results, says: its findings, and the entry as it was replayed or the object, with
    the line that it is from, in words.
    """

    findings: Sequence[Finding]
    replayed: Replayed | None = None
    result: _Object | None = None
    place: str = ""

    @property
    def kind(self) -> str:
        """What printed it."""
        if self.result is None:
            return "entry"
        names = {
            "campaign": "campaign", "cells": "matrix", "claims": "claims", "culprits": "check", "replayed": "replay",
            "implementations": "properties",
        }  # fmt: skip
        return next((kind for name, kind in names.items() if name in self.result), "search")


@attrs.frozen
class _Again:
    """How entries are measured again."""

    candidates: Candidates | None
    library: str | None
    longest: float

    def found(self, replayed: Replayed) -> dict[str, object] | None:
        """What a page shows of an entry; None of one that could not be read."""
        from diffuzz.cli import found_json

        return found_json.of_entry(replayed, self.candidates, self.library, longest=self.longest)


def page(
    given: Sequence[Given],
    found: Sequence[Finding],
    candidates: Candidates | None,
    library: str | None,
    longest: float,
) -> str:
    """The text of the file. Raises UnshownError, one line."""
    again = _Again(candidates, library, longest)
    if len(given) == 1:
        (one,) = given
        single = _shown(one.place, lambda: _single(one, again))
        if single is not None:
            return single
    from diffuzz.corpus.environment import environment
    from diffuzz.pages import index
    from diffuzz.reporting.finding import LEVELS, problems

    rows = [row for one in given for row in _shown(one.place, lambda one=one: _rows(one, again))]  # type: ignore[misc]
    rows.sort(key=lambda row: (LEVELS.index(row["level"]), row["target"], row["verdict"]))
    data = {"results": rows, "problems": len(problems(found)), "environment": environment()}
    return _shown("the results", lambda: index.page(data))


def _shown(place: str, make: Callable[[], _Made]) -> _Made:
    """What is made of an object, which may come from anywhere and be anything."""
    try:
        return make()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise UnshownError(
            f"{place}: is not as diffuzz prints it with --json, so no page can be made of it "
            f"({type(error).__name__}: {error})"
        ) from error


def _single(one: Given, again: _Again) -> str | None:
    """The page of a result of its own; None where it has none."""
    from diffuzz.pages import campaign, check, claims, matrix, search

    if one.replayed is not None:
        found = again.found(one.replayed)
        return None if found is None else search.page(found)
    assert one.result is not None
    if one.kind == "campaign":
        return campaign.page(one.result)
    if one.kind == "matrix":
        return matrix.page(one.result)
    if one.kind == "claims":
        return claims.page(one.result)
    if one.kind == "check":
        # The object does not say where the dump was.
        return check.page(one.result, command_line("check", "--model", one.result["model"]["file"], "--dump", "DUMP"))
    return search.page(_searched(one.result, again)) if one.kind == "search" else None


def _searched(result: _Object, again: _Again) -> dict[str, object]:
    """What search printed, with what is drawn of its witness, if its file is there."""
    from diffuzz.cli import found_json
    from diffuzz.corpus.replay import replay_file

    witness = result.get("witness")
    if not isinstance(witness, str) or not Path(witness).is_file():
        return dict(result)
    replayed = replay_file(Path(witness), again.candidates, again.library, longest=again.longest)
    return found_json.with_witness(result, again.found(replayed))


def _rows(one: Given, again: _Again) -> list[dict[str, Any]]:
    """The rows of the table of all results: one for each finding."""
    from diffuzz.pages.found import kind_of

    found: Mapping[str, Any] | None = None
    verdict, kind, status = "–", one.kind, "–"
    if one.replayed is not None:
        found, status = again.found(one.replayed), one.replayed.status
    elif one.kind == "search" and one.result is not None:
        found, status = _searched(one.result, again), "searched"
    if found is not None:
        verdict, kind = str(found["verdict"]), kind_of(found)
    return [
        {
            "level": finding.level,
            "message": finding.message,
            "subject": finding.subject,
            "target": finding.rule,
            "verdict": verdict,
            "kind": kind,
            "status": status if status != "–" else finding.level if finding.is_problem else "–",
            "place": str(one.replayed.path) if one.replayed is not None else one.place,
            "found": found,
        }
        for finding in one.findings
    ]
