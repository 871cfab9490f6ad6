"""Which function an entry of a candidate is replayed with.

An entry records the name of the candidate that it was found with, such as ``FILE.py:FUNCTION`` (see
diffuzz.judging.opening), and never runs it by itself. The user names functions again, ``FILE.py:FUNCTION`` or
``NAME=FILE.py:FUNCTION`` with the name that was recorded, and
each is for the entries of its name. A single function without a name, of which there is no entry, is for all of them
where they are all of one name: so a new version, or another file with the function, is held against what was found.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import TypeAlias

from diffuzz.judging.handing import CPU, Handing
from diffuzz.judging.opening import RUN, CandidateError, check_handing, check_name
from diffuzz.judging.question import Judge

# One function for all entries, or functions by the names that entries recorded.
Candidates: TypeAlias = Judge | Mapping[str, Judge]


def parse(
    texts: Iterable[str], timeout: float = 10.0, arrays: str | None = None, device: str | None = None
) -> Candidates | None:
    """The functions that a user names. Raises CandidateError: no such file, or a name that is given twice; HandingError
    for arrays that one of them cannot get.
    """

    def judging(function: str) -> Judge:
        if arrays is not None:
            check_handing(function, Handing(arrays, device or CPU))
        return Judge(function, timeout=timeout, arrays=arrays, device=device)

    named = [_parted(text) for text in texts]
    if len(named) == 1 and named[0][0] is None:
        return judging(named[0][1])
    found: dict[str, Judge] = {}
    for name, function in named:
        judge = judging(function)
        if (name := name or judge.name) in found:
            raise CandidateError(f"candidate {name}: it is given twice")
        found[name] = judge
    return found or None


def _parted(text: str) -> tuple[str | None, str]:
    """The recorded name, if there is one, and the function; a file may have a = in its name, and so may a program."""
    before, mark, after = text.rpartition(f"={RUN}")
    if mark:
        check_name(RUN + after)
        return before, RUN + after
    places = [place for place, letter in enumerate(text) if letter == "="]
    for name, function in ((None, text), *((text[:place], text[place + 1 :]) for place in places)):
        with suppress(CandidateError):
            check_name(function)
            return name, function
    # Says what is wrong with it.
    check_name(text.partition("=")[2] or text)
    return None, text


def by_name(candidates: Candidates | None, recorded: Iterable[str | None]) -> Candidates | None:
    """``candidates`` for entries that ``recorded`` these names: a single function is for those of its own name, if
    there is one, or else for all where these are functions of one name, in whatever files.
    """
    if not isinstance(candidates, Judge):
        return candidates
    own, names = {candidates.name: candidates}, {name for name in recorded if name is not None}
    several = len({_place(name)[1] for name in names}) > 1
    return own if several or any(_of(own, name) for name in names) else candidates


def function_for(candidates: Candidates | None, recorded: str | None) -> Judge | None:
    """The function for an entry that ``recorded`` this name; None if there is none, or the entry has no candidate."""
    if recorded is None or candidates is None:
        return None
    return candidates if isinstance(candidates, Judge) else _of(candidates, recorded)


def unused(candidates: Candidates | None, recorded: Collection[str]) -> list[str]:
    """The names of functions that are for none of the entries that ``recorded`` these names."""
    if isinstance(candidates, Judge):
        return [] if recorded else [candidates.name]
    return [name for name, judge in (candidates or {}).items() if not any(_of({name: judge}, one) for one in recorded)]


def _of(candidates: Mapping[str, Judge], recorded: str) -> Judge | None:
    """By the name as it is written, or else as the same function of the same file."""
    exact = candidates.get(recorded)
    return exact or next((one for name, one in candidates.items() if _place(name) == _place(recorded)), None)


def _place(name: str) -> tuple[str, str]:
    """The file and the function of a name; a program is its command."""
    if name.startswith(RUN):
        return "", name
    file, _, function = name.rpartition(":")
    return os.path.abspath(file), function
