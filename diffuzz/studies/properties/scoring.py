"""Which mutants ``search --property all`` finds, by the property that they do not keep, and which controls it flags."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import attrs

from diffuzz import interruption, targets
from diffuzz.judging.question import Keep
from diffuzz.searching.keeping import Kept, keeping
from diffuzz.studies.properties.mutants import Mutant, mutants


@attrs.frozen
class Row:
    """What was found about one function: ``found`` are the properties that it does not keep, with how they are lost;
    ``sizes`` those of the smallest change that shows the one that it should lose, and ``not_at`` sizes just below.
    """

    name: str
    target: str
    wrong: str
    loses: str | None
    found: Mapping[str, str]
    sizes: Mapping[str, int]
    not_at: Mapping[str, int]
    seconds: float

    @property
    def correct(self) -> bool:
        """Whether it is a control."""
        return self.loses is None

    @property
    def killed(self) -> bool:
        """Whether the property that it does not keep was found to be lost; of a control, whether any was."""
        return bool(self.found) if self.loses is None else self.loses in self.found


def score(
    seconds: float,
    seed: int,
    names: Iterable[str] | None = None,
    *,
    looks: int | None = None,
    on_row: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Ask each mutant and control, or those of these ``names``, for all properties, within so many ``seconds`` each.

    If the user interrupts, the finished rows are returned. Raises ValueError for an unknown name.
    """
    rows: list[Row] = []
    for mutant in named(names):
        try:
            interruption.check()
            row = _row(mutant, seconds, seed, looks)
        except KeyboardInterrupt:
            break
        if row is None:
            break
        rows.append(row)
        if on_row:
            on_row(row)
    return rows


def named(names: Iterable[str] | None) -> list[Mutant]:
    """The mutants and controls of these names, or whose name begins so; all by default. Raises ValueError."""
    every = mutants()
    if names is None:
        return every
    found = []
    for name in names:
        chosen = [one for one in every if one.name == name or one.name.startswith(f"{name}/")]
        if not chosen:
            raise ValueError(f"name={name!r}: no mutant or control has this name")
        found += [one for one in chosen if one not in found]
    return found


def _row(mutant: Mutant, seconds: float, seed: int, looks: int | None) -> Row | None:
    kept: Kept = keeping(
        targets.get(mutant.target), mutant.params, Keep(mutant.candidate), seconds=seconds, seed=seed, looks=looks
    )
    if kept.interrupted:
        return None
    lost = {report.name: report for report in kept.reports if report.findings}
    own = lost.get(mutant.loses or "")
    first = own.findings[0] if own is not None else None
    return Row(
        mutant.name,
        mutant.target,
        mutant.wrong,
        mutant.loses,
        {name: report.status for name, report in lost.items()},
        dict(first.sizes) if first is not None else {},
        dict(first.below) if first is not None else {},
        sum(report.seconds for report in kept.reports),
    )


def apart(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """(mutants, controls)."""
    listed = list(rows)
    return [row for row in listed if not row.correct], [row for row in listed if row.correct]
