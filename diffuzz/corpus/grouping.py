"""Which entries of a corpus show the same thing, and the fewest that show all of it.

Entries are grouped by mechanism: the operation with its choices (formats, dtypes, policies; of a claim its sizes, too),
which implementation is wrong or what was asked, what came of it, and which part of the domain the case takes. Of a
group one entry is enough: the one with the largest value, and of equal ones that with the smallest case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np

from diffuzz import targets
from diffuzz.cases import domain
from diffuzz.cases.case import Case
from diffuzz.corpus.entry import Counterexample
from diffuzz.corpus.files import mechanism
from diffuzz.corpus.lost import Lost
from diffuzz.targets.parameter import Params

# Sizes of an array, and magnitudes of its largest number as powers of two, that are alike up to these.
_SIZES = {1: "one number", 32: "few numbers", 1024: "a row", 2**62: "many numbers"}
_POWERS = {-126: "subnormal", -64: "tiny", -14: "small", 14: "usual", 64: "large", 2**62: "huge"}


@attrs.frozen
class Mechanism:
    """What entries of one group have in common, in words: ``part`` is the part of the domain."""

    target: str
    choices: str
    who: str
    outcome: str
    part: str


@attrs.frozen
class Plan:
    """Entries that are ``kept``, and those that can be ``gone``, each with the one that shows the same; ``rescued`` are
    kept for what only they show.
    """

    kept: tuple[Path, ...]
    gone: Mapping[Path, Path]
    rescued: Mapping[Path, tuple[str, ...]]


def mechanism_of(entry: Counterexample | Lost) -> Mechanism:
    """The group of an entry."""
    judged = isinstance(entry, Lost) or entry.judges
    choices = _choices(entry.target, entry.params, sizes=not judged)
    if isinstance(entry, Lost):
        return Mechanism(entry.target, choices, entry.candidate or entry.kernels or "",
                         f"{entry.name} {entry.status}", entry.way)  # fmt: skip
    outcome = entry.verdict.value
    if failure := entry.found.get("failure"):
        outcome += f", {str(failure).partition(':')[0].partition(' ')[0]}"
    if entry.company is not None:
        outcome += ", in company"
    if entry.chance is not None:
        outcome += ", by chance"
    who = entry.candidate or (entry.result.engine if entry.result else "")
    if entry.kernels is not None:
        who = " against ".join(entry.kernels)
    return Mechanism(entry.target, choices, who, outcome, _part(entry.case))


def distilled(entries: Mapping[Path, Counterexample | Lost], shows: Mapping[Path, Iterable[str]] | None = None) -> Plan:
    """The fewest entries that keep every mechanism, and everything that an entry ``shows`` besides, such as the mutants
    that its case kills.
    """
    groups: dict[Mechanism, list[Path]] = {}
    for path, entry in entries.items():
        groups.setdefault(mechanism_of(entry), []).append(path)
    best = {path: max(group, key=lambda one: _worth(entries[one])) for group in groups.values() for path in group}
    kept = set(best.values())
    seen = {what for path in kept for what in (shows or {}).get(path, ())}
    rescued: dict[Path, tuple[str, ...]] = {}
    while True:
        left = {path: set((shows or {}).get(path, ())) - seen for path in entries if path not in kept}
        most = max(left, key=lambda one: len(left[one]), default=None)
        if most is None or not left[most]:
            break
        kept.add(most)
        seen |= left[most]
        rescued[most] = tuple(sorted(left[most]))
    gone = {path: best[path] for path in entries if path not in kept}
    return Plan(tuple(path for path in entries if path in kept), gone, rescued)


def _worth(entry: Counterexample | Lost) -> tuple[float, int]:
    if isinstance(entry, Lost):
        return float(entry.status == "broken"), -sum(entry.sizes.values())
    # A shorter case of the same value is the better one.
    return entry.value, -sum(array.size for array in entry.case.arrays.values())


def _choices(target: str, params: Params, *, sizes: bool) -> str:
    """The parameters that are words or truth values, where they are not the default; of a claim, whose bound depends on
    them, the ``sizes`` and other numbers, too.
    """
    declared = {one.name: one.default for one in targets.get(target).declared}
    return ", ".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in sorted(params.items())
        if (sizes or isinstance(value, (bool, str))) and not domain.is_domain(name) and value != declared.get(name)
    )


def _part(case: Case) -> str:
    varied = dict(mechanism(case))
    return ", ".join(f"{name}: {_class(array)} ({varied[name]})" for name, array in sorted(case.arrays.items()))


def _class(array: np.ndarray) -> str:
    size = next(name for most, name in _SIZES.items() if array.size <= most)
    if array.dtype.kind not in "f":
        return size
    wide = np.abs(array.astype(np.float64))
    finite = wide[np.isfinite(wide)]
    odd = [] if finite.size == wide.size else ["not finite"]
    largest = float(finite.max(initial=0.0))
    power = "zero" if largest == 0 else next(name for top, name in _POWERS.items() if np.log2(largest) <= top)
    return " ".join([size, power, *odd])


def by_target(entries: Sequence[Counterexample | Lost]) -> dict[str, list[Counterexample | Lost]]:
    """The entries of each target, by its name."""
    found: dict[str, list[Counterexample | Lost]] = {}
    for entry in sorted(entries, key=lambda one: one.target):
        found.setdefault(entry.target, []).append(entry)
    return found
