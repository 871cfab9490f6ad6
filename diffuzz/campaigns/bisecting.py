"""Bisecting: the first of several builds that shows a witness, in as few trials as it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import attrs

Answer = Literal["shows", "does not show", "cannot be asked"]


class BisectError(ValueError):
    """Builds of which none is the first that shows a witness; one line."""


@attrs.frozen
class Bisected:
    """The ``first`` build that shows the witness, and the ``last`` before it that does not. Builds between the two that
    cannot be asked may be the first themselves. ``answers`` are those that were asked, in their order.
    """

    first: str
    last: str
    between: tuple[str, ...]
    answers: tuple[tuple[str, Answer], ...]


def bisect(builds: Sequence[str], ask: Callable[[str], Answer]) -> Bisected:
    """Ask builds, oldest first, of which the first does not show the witness and the last does.

    Raises BisectError where it is otherwise: then there is no first one.
    """
    if len(builds) < 2 or len(set(builds)) < len(builds):
        raise BisectError("builds: two or more different ones are needed, the oldest first")
    answers: dict[str, Answer] = {}

    def asked(place: int) -> Answer:
        answer = answers[builds[place]] = ask(builds[place])
        return answer

    good, bad = 0, len(builds) - 1
    if (found := asked(bad)) != "shows":
        raise BisectError(f"build {builds[bad]}: the last one has to show the witness, and {_said(found)}")
    if (found := asked(good)) != "does not show":
        raise BisectError(f"build {builds[good]}: the first one must not show the witness, and {_said(found)}")
    while left := [place for place in range(good + 1, bad) if builds[place] not in answers]:
        # Nearest to the middle: those that cannot be asked are passed over.
        place = min(left, key=lambda one: abs(2 * one - good - bad))
        found = asked(place)
        if found == "shows":
            bad = place
        elif found == "does not show":
            good = place
    return Bisected(builds[bad], builds[good], tuple(builds[good + 1 : bad]), tuple(answers.items()))


def _said(answer: Answer) -> str:
    return {"shows": "it shows", "does not show": "it does not show"}.get(answer, answer)
