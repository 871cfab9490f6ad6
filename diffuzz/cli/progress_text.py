"""What a display of progress says: what was told so far, as two lines for a terminal, and as lines of a log.

A line has fields, and shows those for which there is room: rather none than half a number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import attrs

from diffuzz.cli.tables import number
from diffuzz.escaping import escaped
from diffuzz.telling import Count, Message, Part, Phase, Smaller, Standing, Table

# Of the rate, which is that of late.
_RATE_SECONDS = 3.0
# Cells: of the bar, and of the name of a part of which the end is cut off.
_LEAST_BAR, _MOST_BAR, _LEAST_NAME = 8, 40, 8
# And of times, for which room is kept, and of a line that has both.
_TIME, _LONG_TIMES, _WIDE = len("59:59 min left"), len("59:59 min left, 59:59 min so far"), 80
_GAP = "  "


@attrs.define
class State:
    """All that was told, and when; times are those of one clock, in seconds."""

    label: str
    began: float
    part: Part | None = None
    phase: str = "loading"
    phase_began: float = attrs.field(default=attrs.Factory(lambda self: self.began, takes_self=True))
    count: Count | None = None
    standing: Standing | None = None
    standing_at: float = 0.0
    smaller: float | None = None
    stopping: bool = False
    table: Table | None = None
    _rates: deque[tuple[float, int]] = attrs.field(factory=deque)

    def take(self, message: Message, now: float) -> None:
        """What is told at a time."""
        if isinstance(message, Part):
            self.part = message if message.name else None
            self._begin("", now)
            self.standing = None
            self._rates.clear()
        elif isinstance(message, Phase):
            self._begin(message.name, now)
        elif isinstance(message, Count):
            # From threads, in any order.
            if self.count is None or message.done >= self.count.done:
                self.count = message
        elif isinstance(message, Table):
            self.table = message
        elif isinstance(message, Smaller):
            self.smaller = message.share
            if self.standing is not None:
                self.standing = attrs.evolve(self.standing, value=message.value)
        else:
            self.standing, self.standing_at = message, now
            self._rates.append((now, message.evaluations))
            while now - self._rates[0][0] > _RATE_SECONDS and len(self._rates) > 2:
                self._rates.popleft()

    def _begin(self, phase: str, now: float) -> None:
        self.phase, self.phase_began, self.count, self.smaller = phase, now, None, None

    def rate(self, now: float) -> float | None:
        """Evaluations in a second, of late; None before there are two numbers, and where there are next to none."""
        if len(self._rates) < 2 or (seconds := now - self._rates[0][0]) <= 0:
            return None
        rate = (self._rates[-1][1] - self._rates[0][1]) / seconds
        return rate if rate >= 0.1 else None

    def share(self, now: float) -> float | None:
        """How much of the part, or of the whole where that has no parts, is done; None where nobody can say."""
        if self.table is not None:
            return min(self.table.share, 1.0)
        if self.count is not None:
            return self.count.done / max(self.count.total, 1)
        if self.standing is None or self.phase not in ("searching", "compiling", "reproducing"):
            return None
        # The clock goes on between two messages.
        left = max(self.standing.seconds - (now - self.standing_at), 0.0)
        budget = self.standing.seconds + 1e-9
        return min(1.0, max(self.standing.spent, 1 - (1 - self.standing.spent) * left / budget))

    def left(self, now: float) -> float | None:
        """Seconds that are left, as far as the past says; None where it says nothing."""
        share = self.share(now)
        if self.part is not None:
            done = self.part.done + (share or 0.0)
            return None if done < 1 else (now - self.began) * (self.part.total - done) / done
        if share is None:
            return None
        elapsed = now - (self.phase_began if self.table is None else self.began)
        by_share = elapsed * (1 - share) / share if share > 0.02 and elapsed > 0.5 else None
        if self.count is not None or self.standing is None:
            return by_share
        clock = max(self.standing.seconds - (now - self.standing_at), 0.0)
        # Of the searching alone: a phase before it took of the clock, but did none of the work.
        return clock if by_share is None or self.phase != "searching" else min(clock, by_share)


Field = tuple[str, str]
"""A text, and what it is: "label", "phase", "part", "value", "wrong", or "" for what is said by the way."""


@attrs.frozen
class Line:
    """The fields of a line, and how much of its bar, between the first ``before`` of them and the rest, is done."""

    fields: tuple[Field, ...]
    bar: float | None = None
    bar_cells: int = 0
    before: int = 0


def lines(state: State, width: int, now: float) -> list[Line]:
    """One or two lines of at most ``width`` cells, or a table below the first."""
    first = _first(state, width, now)
    if state.table is not None:
        return [first, *_rows(state.table, width)]
    second = _second(state, width, now)
    return [first, *([second] if second is not None else [])]


def _first(state: State, width: int, now: float) -> Line:
    share = state.share(now)
    if state.part is not None:
        unit = "" if state.label == state.part.what else f" {state.part.what}"
        total = str(state.part.total)
        # As wide from the first to the last, so that the bar stays where it is.
        what: Field = (f"{state.part.done + 1:{len(total)}} of {total}{unit}", "part")
        share = (state.part.done + (share or 0.0)) / max(state.part.total, 1)
    else:
        what = (state.phase or "working", "phase")
    if state.stopping:
        what, share = ("stopping", "phase"), None
    left = state.left(now)
    said = [] if left is None or state.stopping else [f"{duration(left)} left"]
    elapsed = duration(now - state.began)
    times = [*said, elapsed] if said else [elapsed]
    room = width - cells(what[0]) - len(_GAP)
    label = (fitted(state.label, max(room - len(_GAP) - max(map(len, times)), _LEAST_NAME)), "label")
    head = (label, what)
    tails = [
        (f"{said[0]}, {elapsed} so far" if said else f"{elapsed} so far", _LONG_TIMES),
        (times[0], _TIME),
        (None, 0),
    ]
    for tail, cells_of_tail in tails[width < _WIDE :]:
        fields = (*head, *([(tail, "")] if tail is not None else []))
        used = sum(cells(text) for text, _ in fields) + len(_GAP) * (len(fields) - 1)
        if used > width:
            continue
        room = width - used - len(_GAP) - max(cells_of_tail - len(tail or ""), 0)
        if share is not None and tail is not None and room >= _LEAST_BAR:
            return Line(fields, share, min(room, _MOST_BAR), before=2)
        return Line(fields)
    return Line(((fitted(f"{label[0]}{_GAP}{what[0]}", width), "label"),))


def _second(state: State, width: int, now: float) -> Line | None:
    layouts = _found(state, now)
    if state.part is None:
        return _that_fits(layouts, width) if layouts else None
    phase: list[Field] = [(state.phase, "phase")] if state.phase else []
    name = state.part.name
    for least in (width // 3, _LEAST_NAME):
        for layout in (*layouts, ()):
            rest = [*phase, *layout]
            used = sum(cells(text) + len(_GAP) for text, _ in rest)
            if width - used >= min(cells(escaped(name)), least):
                return Line(((fitted(name, width - used), "part"), *rest))
    return Line(((fitted(name, width), "part"),))


def _rows(table: Table, width: int) -> Iterable[Line]:
    """A line about all of it, and the columns of the table for which there is room, from the left."""
    yield Line(((fitted(table.said, width), ""),))
    wide = [max(cells(escaped(row[place])) for row in table.rows) for place in range(len(table.rows[0]))]
    for place, row in enumerate(table.rows):
        texts = [fitted(text, most) + " " * (most - cells(escaped(text))) for text, most in zip(row, wide, strict=True)]
        yield Line(((fitted(_GAP.join(texts).rstrip(), width), "label" if place == 0 else "value"),))


def _that_fits(layouts: Sequence[Sequence[Field]], width: int) -> Line:
    for layout in layouts:
        if sum(cells(text) for text, _ in layout) + len(_GAP) * (len(layout) - 1) <= width:
            return Line(tuple(layout))
    text, kind = layouts[-1][0]
    return Line(((fitted(text, width), kind),))


def _found(state: State, now: float) -> list[tuple[Field, ...]]:
    """What can be said of what was found, the longest first."""
    one = state.standing
    values: list[tuple[Field, ...]] = [()] if one is None else [((text, _kind(one)),) for text in value_texts(one)]
    if state.smaller is not None:
        said: Field = (f"{100 * state.smaller:.3g} % of its first size", "")
        return [*((*value, said) for value in values), (said,)]
    if state.count is not None:
        return [((f"{state.count.done:,} of {state.count.total:,}", ""),)]
    if one is None:
        return []
    rate = state.rate(now)
    cases: Field = (f"{one.evaluations:,} cases", "")
    per: list[Field] = [] if rate is None else [(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s", "")]
    by: list[Field] = [(f"by {one.engine}", "")] if one.engine else []
    long, middle, short = values
    return [
        (*long, *by, cases, *per),
        (*long, cases, *per),
        (*middle, cases, *per),
        (*middle, *per),
        (*short, *per),
        short,
    ]


def value_texts(one: Standing) -> tuple[str, str, str]:
    """The largest value against what it is held against, in many, fewer and few words."""
    if one.value is None:
        return ("nothing above zero yet",) * 3
    value, brief = number(one.value), f"{one.value:.4g}"
    if one.bound is not None and one.bound > 0 and not one.judges:
        share = f"{100 * one.value / one.bound:.2f} %"
        return (
            f"largest {value} of bound {number(one.bound)} ({share})",
            f"{brief} of bound {one.bound:.4g} ({share})",
            f"{brief}, {share}",
        )
    than = f"{'wrong above' if one.judges else 'threshold'} {one.threshold:.4g}"
    return f"largest {value}, {than}", f"{brief}, {than}", brief


def _kind(one: Standing) -> str:
    if one.value is None:
        return ""
    return "wrong" if one.judges and one.value > one.threshold else "value"


class Log:
    """The lines of a log for what is told: one for each part, phase and improvement."""

    def __init__(self) -> None:
        self._phase = ""
        self._value: float | None = None
        self._smaller: float | None = None

    def lines(self, message: Message) -> Iterable[str]:
        """The lines for a message, without their times."""
        if isinstance(message, (Part, Phase)):
            if self._smaller is not None:
                yield f"minimised to {100 * self._smaller:.3g} % of its first size"
                self._smaller = None
            if isinstance(message, Part):
                self._phase, self._value = "", None
                if message.name:
                    yield f"{message.done + 1} of {message.total} {message.what}: {escaped(message.name)}"
            elif message.name != self._phase:
                self._phase = message.name
                yield message.name
        elif isinstance(message, Smaller):
            self._smaller = message.share
        elif isinstance(message, Standing) and message.value is not None and message.value != self._value:
            self._value = message.value
            yield f"{value_texts(message)[0]}, by {escaped(message.engine)} after {message.evaluations:,} cases"


def duration(seconds: float) -> str:
    """A time as people read it: 6 s, 1:23 min, 2:05 h."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"


def cells(text: str) -> int:
    """How wide a text is on a terminal."""
    from rich.cells import cell_len

    return cell_len(text)


def fitted(text: str, width: int) -> str:
    """The text, what it quotes escaped, cut off with dots where it is wider than ``width`` cells."""
    from rich.cells import set_cell_size

    text = escaped(text)
    if cells(text) <= width:
        return text
    dots = "..."[: max(width, 0)]
    return set_cell_size(text, max(width - len(dots), 0)).rstrip() + dots
