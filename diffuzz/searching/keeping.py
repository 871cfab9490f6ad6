"""Keeping: which properties an implementation keeps, searched over integers.

    for report in keeping(targets.get("softmax"), {}, Keep("my_kernels.py:soft_max"), seconds=10, seed=0).reports:
        report.name, report.status

A property is asked in ways, which share its time. In each way, sizes and other integers are drawn until one change
shows; then all of them are made as small as they can be (see diffuzz.searching.integers), and the two calls are held
against the exact result. The numbers that are called with are ordinary ones: it is not they that matter.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from typing import Literal, TypeAlias

import attrs
import numpy as np

from diffuzz import interruption
from diffuzz.judging import properties
from diffuzz.judging.handing import Handing
from diffuzz.judging.properties.property import Difference, Look, Numbers, Property, Ranges, Way, held_against
from diffuzz.judging.properties.subject import Sizes, Subject, nearest, opened
from diffuzz.judging.question import Keep, QuestionError
from diffuzz.searching import integers
from diffuzz.targets.parameter import Params
from diffuzz.targets.target import Target

Status = Literal["kept", "not invariant", "broken", "not asked", "unfinished"]
# Work of a call, as a product of its sizes: at most, at first, and seconds for so much of it before any is known.
_MOST_WORK, _FIRST_WORK, _RATE = 2**28, 2**21, 2e-8
# The share of a property's time that one call may take, and seconds at most.
_SHARE, _LONGEST = 0.03, 0.1
# Refusals after which a way is left alone, and differences that do not come again; and how often a call is repeated.
_REFUSALS, _STEADY = 3, 6
# Looks for what shows by chance, where it was seen before.
_CHANCES = 60
# Looks while integers are made smaller, and how often one is repeated where it shows by chance.
_SMALLER, _PATIENCE = 250, 6
# Integers of so few choices are all tried in the end, for one that leaves the bound.
_FEW = 8
# The share of a property's time that this may take, within so many seconds.
_SMALLER_SHARE, _LEAST_SMALLER, _MOST_SMALLER = 0.5, 2.0, 5.0


@attrs.frozen
class Finding:
    """One way in which a property is not kept: the smallest ``sizes`` and ``numbers`` that were found to show it.

    ``values`` are how far the results of the two calls are from the exact ones, in units of their bound, where known.
    ``below`` are dimensions whose size does not show it one step below.
    """

    way: str
    sizes: Sizes
    numbers: Numbers
    difference: Difference
    values: tuple[float, ...]
    threshold: float
    below: Mapping[str, int]
    asked: tuple[str, ...]

    @property
    def text(self) -> str:
        """What was changed, at which sizes, what came of it, and whether it is within the bound anyway."""
        found = self.difference
        sizes = ", ".join(
            f"{name}={size}" + (f" (not {self.below[name]})" if name in self.below else "")
            for name, size in self.sizes.items()
        )
        parts = [f"{found.changed} [{sizes}]"]
        if found.how:
            parts.append(found.how)
        if found.elements:
            often = "" if found.chance is None else f", seen in {found.chance[0]} of {found.chance[1]} calls"
            parts.append(
                f"{found.elements} of {found.compared} numbers differ, by up to {found.ulps:,} ULP, the first at "
                f"{found.place}: {found.a:.9g} and {found.b:.9g}{often}"
            )
        if self.values:
            where = "outside of the bound" if self.outside else "within the bound"
            parts.append(f"{where} ({', '.join(f'{value:.3g}' for value in self.values)} of it)")
        return "; ".join(parts)

    @property
    def outside(self) -> bool:
        """Whether a result is outside of its bound."""
        return any(value > self.threshold for value in self.values)

    @property
    def broken(self) -> bool:
        """Whether it is an error, whatever was promised."""
        return self.difference.broken or self.outside


@attrs.frozen
class Report:
    """What was found about one property. ``why`` says why it was not asked; ``refused`` what the function said of calls
    that it does not take, by way; ``sizes`` are those that were looked at, by dimension.
    """

    name: str
    status: Status
    findings: tuple[Finding, ...] = ()
    why: str = ""
    ways: int = 0
    looks: int = 0
    calls: int = 0
    compared: int = 0
    refused: Mapping[str, str] = attrs.field(factory=dict)
    sizes: Mapping[str, frozenset[int]] = attrs.field(factory=dict)
    seconds: float = 0.0


@attrs.frozen
class Kept:
    """What was found about all properties that were asked for."""

    target: Target
    params: Params
    name: str
    seed: int
    reports: tuple[Report, ...]
    interrupted: bool = False
    handing: Handing = attrs.field(factory=Handing)

    @property
    def broken(self) -> tuple[str, ...]:
        """The properties that are broken."""
        return tuple(report.name for report in self.reports if report.status == "broken")

    @property
    def lost(self) -> tuple[str, ...]:
        """Those that are not kept."""
        return tuple(report.name for report in self.reports if report.status in ("broken", "not invariant"))


def keeping(
    target: Target,
    given: Mapping[str, object] | None,
    asked: Keep,
    *,
    seconds: float,
    seed: int = 0,
    looks: int | None = None,
    on_report: Callable[[Report], None] | None = None,
) -> Kept:
    """Ask for each property for its share of so many ``seconds``, and at most so many ``looks`` in each of its ways.

    Ends with what is known where the user interrupts. Raises, one line each: UnknownNameError for a property that there
    is not; ParameterError; CandidateError; QuestionError; MissingKernelsError; HandingError; MissingArraysError.
    """
    wanted = [properties.get(name) for name in asked.properties or properties.names()]
    reports: list[Report] = []
    interrupted = False
    with opened(target, given, asked, seed=seed) as subject:
        until = subject.clock + seconds
        for place, one in enumerate(wanted):
            share = max(until - subject.clock, 0.1 * seconds / len(wanted)) / (len(wanted) - place)
            try:
                interruption.check()
                report = _Asking(subject, one, share, seed, looks).report()
            except KeyboardInterrupt:
                interrupted = True
                break
            reports.append(report)
            if on_report:
                on_report(report)
    return Kept(target, subject.params, subject.name, seed, tuple(reports), interrupted, asked.handing)


class NoWayError(QuestionError):
    """A way that a function is not asked in, or not any more; one line."""


@attrs.frozen
class Seen:
    """What one change showed: a ``finding``, if it did, what the function said if it was ``refused``, and the digest of
    the numbers that were called with.
    """

    finding: Finding | None
    refused: str | None
    drawn: str


def seen_again(
    target: Target,
    given: Mapping[str, object] | None,
    asked: Keep,
    way: str,
    sizes: Sizes,
    numbers: Numbers,
    *,
    seed: int,
    seconds: float,
) -> Seen:
    """What one change shows of the one property that is ``asked``. What shows by chance is looked for again and again,
    for so many ``seconds``.

    Raises what ``keeping`` raises; NoWayError for a way that there is not; QuestionError for sizes or numbers that are
    no call of it.
    """
    one = properties.get(*asked.properties)
    with opened(target, given, asked, seed=seed) as subject:
        ways = one.ways(subject)
        if isinstance(ways, str):
            raise NoWayError(f"property {one.name}: {ways}")
        found = next((other for other in ways if other.name == way), None)
        if found is None:
            raise NoWayError(f"property {one.name}: there is no way {way!r}")
        _check(subject, found, sizes, numbers)
        drawn = sha256(b"".join(array.tobytes() for _, array in sorted(subject.drawn(sizes).items()))).hexdigest()
        until = subject.clock + seconds
        for _ in range(_CHANCES if found.chance else 1):
            interruption.check()
            look = found.look(sizes, numbers)
            if look.difference is not None:
                asking = _Asking(subject, one, 0.0, seed, None)
                return Seen(asking.finding(found, sizes, numbers, look.difference, {}), None, drawn)
            if look.refused is not None:
                return Seen(None, look.refused, drawn)
            if not look.compared:
                raise QuestionError(f"property: {way}: there is no such call of these sizes and numbers")
            if subject.clock > until:
                break
    return Seen(None, None, drawn)


def _check(subject: Subject, way: Way, sizes: Sizes, numbers: Numbers) -> None:
    """Raises QuestionError for what is no call of the way."""
    dims, said = subject.dims, f"property: {way.name}"
    if set(sizes) != set(dims):
        raise QuestionError(f"{said}: sizes of {', '.join(dims)} are needed")
    for name, size in sizes.items():
        if size < dims[name].lowest:
            raise QuestionError(f"{said}: {name}={size} is below {dims[name].lowest}")
    if integers.work(sizes) > _MOST_WORK:
        raise QuestionError(f"{said}: a call of {integers.work(sizes):,} operations is more than {_MOST_WORK:,}")
    ranges = way.ranges(sizes)
    if ranges is None or set(ranges) != set(numbers):
        raise QuestionError(f"{said}: there is no such call of these sizes and numbers")
    for name, (low, high) in ranges.items():
        if not low <= numbers[name] <= high:
            raise QuestionError(f"{said}: {name}={numbers[name]} is not between {low} and {high}")


@attrs.define
class _Asking:
    """The search for one property."""

    subject: Subject
    one: Property
    seconds: float
    seed: int
    most_looks: int | None
    rate: float = _RATE
    looks: int = 0
    compared: int = 0
    sizes: dict[str, set[int]] = attrs.field(factory=dict)
    refused: dict[str, str] = attrs.field(factory=dict)
    unsteady: bool = False

    def report(self) -> Report:
        began, calls = self.subject.clock, self.subject.all_calls
        ways = self.one.ways(self.subject)
        if isinstance(ways, str):
            return Report(self.one.name, "not asked", why=ways)
        findings = self._findings(list(ways), began + self.seconds)
        status: Status = "kept"
        if findings:
            status = "broken" if any(finding.broken for finding in findings) else "not invariant"
        elif self.unsteady:
            why = "the same call does not give the same bits, so that no change can be seen: see repeat"
            return Report(self.one.name, "not asked", why=why)
        elif len(self.refused) == len(ways):
            why = f"it takes no such call: {next(iter(self.refused.values()), '')}"
            return Report(self.one.name, "not asked", why=why, refused=self.refused)
        return Report(
            self.one.name,
            status,
            tuple(sorted(findings, key=lambda one: (not one.broken, integers.work(one.sizes)))),
            ways=len(ways),
            looks=self.looks,
            calls=self.subject.all_calls - calls,
            compared=self.compared,
            refused=dict(self.refused),
            sizes={name: frozenset(seen) for name, seen in self.sizes.items()},
            seconds=self.subject.clock - began,
        )

    def _findings(self, ways: list[Way], until: float) -> list[Finding]:
        states = {way.name: _State(way, self._drawn(way), self._rng(way, "numbers")) for way in ways}
        found: list[Finding] = []
        while states:
            interruption.check()
            # The clock is read once: time may be up at any moment, with nothing that waits.
            asked = [*states.values()] if self.subject.clock < until else [one for one in states.values() if one.waits]
            if not asked:
                break
            state = min(asked, key=lambda one: (one.seconds, one.looks))
            began = self._clock(state.way)
            difference, at = self._one_look(state)
            state.looks += 1
            if difference is not None and not self._steady(state.way, *at, difference):
                state.unsteady += 1
                difference = None
            if difference is not None:
                found.append(self._made_smaller(state.way, *at, difference))
            state.seconds += self._clock(state.way) - began
            enough = self.most_looks is not None and state.looks >= self.most_looks
            if difference is not None or enough or max(state.refusals, state.unsteady) >= _REFUSALS:
                del states[state.way.name]
                if state.unsteady >= _REFUSALS:
                    self.unsteady = True
        return found

    def _clock(self, way: Way) -> float:
        """Seconds; of a way that needs processes of its own, with the time in which they load."""
        return time.monotonic() if way.slow else self.subject.clock

    def _steady(self, way: Way, sizes: Sizes, chosen: Numbers, difference: Difference) -> bool:
        """Whether the change shows again, and the unchanged call gives the same bits again. What changes by itself is
        told by the property repeat, and by no other.
        """
        if way.chance or not difference.sides:
            return True
        arrays = difference.sides[0][0]
        if not way.slow:
            for _ in range(_STEADY):
                again = self.subject.returned(arrays)
                if again.failure is not None:
                    return False
                look = held_against("", self.subject.returned(arrays).results, again.results)
                if look.difference is not None:
                    return False
        return all(way.look(sizes, chosen).difference is not None for _ in range(1 if way.slow else 2))

    def _rng(self, way: Way, what: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(f"{self.one.name} {way.name} {what}".encode())])

    def _drawn(self, way: Way) -> Iterator[dict[str, int]]:
        return integers.drawn(self.subject.dims, way.least, self._rng(way, "sizes"), self._most)

    def _most(self) -> int:
        """How much work a call may be."""
        return int(min(_MOST_WORK, min(_SHARE * self.seconds, _LONGEST) / self.rate))

    def _settled(self, way: Way, sizes: Sizes) -> Sizes:
        """The sizes that are meant, made smaller where they are more work together than they were apart."""
        found, dims = dict(way.settled(sizes)), self.subject.dims
        while integers.work(found) > max(self._most(), integers.work(sizes)):
            # Those that the way is not about first.
            others = [name for name, size in found.items() if name not in way.least and size > dims[name].lowest]
            if others:
                name = max(others, key=lambda one: found[one] / dims[one].lowest)
                found[name] = max(dims[name].lowest, nearest(dims[name], found[name] // 2))
                continue
            less = {name: max(least, nearest(dims[name], found[name] // 2)) for name, least in way.least.items()}
            if all(found[name] == size for name, size in less.items()):
                break
            found = dict(way.settled({**found, **less}))
        return found

    def _one_look(self, state: _State) -> tuple[Difference | None, tuple[Sizes, Numbers]]:
        sizes = self._settled(state.way, next(state.sizes))
        ranges = state.way.ranges(sizes)
        if ranges is None:
            return None, (sizes, {})
        chosen = integers.numbers(ranges, state.rng)
        began, calls = self.subject.clock, self.subject.all_calls
        look = self._look(state.way, sizes, chosen)
        taken = (self.subject.clock - began) / max(1, self.subject.all_calls - calls)
        # The first calls are slow for other reasons.
        if self.looks > 1 and taken > 1e-3:
            self.rate = 0.7 * self.rate + 0.3 * taken / max(integers.work(sizes), 1)
        if look.refused is not None:
            self.refused.setdefault(state.way.name, look.refused)
            state.refusals += 1
        elif look.compared:
            state.refusals = 0
            self.refused.pop(state.way.name, None)
        return look.difference, (sizes, chosen)

    def _look(self, way: Way, sizes: Sizes, chosen: Numbers) -> Look:
        look = way.look(sizes, chosen)
        self.looks += 1
        self.compared += look.compared
        if look.compared:
            for name, size in sizes.items():
                self.sizes.setdefault(name, set()).add(size)
        return look

    def _made_smaller(self, way: Way, sizes: Sizes, chosen: Numbers, difference: Difference) -> Finding:
        best, at, looks = difference, (dict(sizes), dict(chosen)), 0
        until = self._clock(way) + min(max(_LEAST_SMALLER, _SMALLER_SHARE * self.seconds), _MOST_SMALLER)
        shown: dict[_Key, Difference | None] = {}

        def shows(sizes: Sizes, numbers: Numbers) -> bool:
            nonlocal best, at, looks
            interruption.check()
            sizes = way.settled(sizes)
            key = _key(sizes, numbers)
            for _ in range(0 if key in shown else _PATIENCE if way.chance else 1):
                looks += 1
                if looks > _SMALLER or self._clock(way) > until:
                    raise StopIteration
                shown[key] = way.look(sizes, numbers).difference
                if shown[key] is not None:
                    break
            found = shown[key]
            if found is None or found.broken < difference.broken:
                return False
            best, at = found, (dict(sizes), dict(numbers))
            return True

        dims = self.subject.dims
        integers.smaller(dims, way.least, sizes, chosen, way.ranges, shows)
        small, few = at
        below = {
            name: size - dims[name].step
            for name, size in small.items()
            if shown.get(_key({**small, name: size - dims[name].step}, few), best) is None
        }
        made = self.finding(way, small, few, best, below)
        if not best.broken and max(made.values, default=np.inf) <= self._threshold:
            for other in _beside(few, way.ranges(small) or {}):
                found = way.look(small, other).difference
                if found is not None and (worse := self.finding(way, small, other, found, below)).outside:
                    return worse
        return made

    def finding(
        self, way: Way, sizes: Sizes, chosen: Numbers, difference: Difference, below: Mapping[str, int]
    ) -> Finding:
        """A difference, with how far the results of its calls are from the exact ones."""
        values = self._values(difference)
        return Finding(way.name, sizes, chosen, difference, values, self._threshold, below, tuple(way.least))

    @property
    def _threshold(self) -> float:
        return 0.0 if self.subject.contract.allowance is None else 1.0

    def _values(self, found: Difference) -> tuple[float, ...]:
        judged = [self.subject.judged(arrays, returned) for arrays, returned in found.sides]
        return tuple(value for value in judged if value is not None)


def _beside(numbers: Numbers, ranges: Ranges) -> Iterator[dict[str, int]]:
    """The numbers with another one in the place of one that has few choices."""
    for name, (low, high) in ranges.items():
        if high - low < _FEW:
            yield from ({**numbers, name: one} for one in range(low, high + 1) if one != numbers[name])


_Key: TypeAlias = tuple[tuple[tuple[str, int], ...], tuple[tuple[str, int], ...]]


def _key(sizes: Sizes, numbers: Numbers) -> _Key:
    return tuple(sorted(sizes.items())), tuple(sorted(numbers.items()))


@attrs.define
class _State:
    """How far one way has come. Each has at least one look; a slow one has two, of the usual and the largest sizes."""

    way: Way
    sizes: Iterator[dict[str, int]]
    rng: np.random.Generator
    looks: int = 0
    refusals: int = 0
    unsteady: int = 0
    seconds: float = 0.0

    @property
    def waits(self) -> bool:
        """Whether it has not had the looks that it has in any case."""
        return self.looks < (2 if self.way.slow else 1)
