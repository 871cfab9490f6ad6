"""All engines on one budget: what pays gets more of it.

First come the constructions that a target knows, then one round of each engine. After that each round goes to the
engine with the best recent return, which is the logarithmic improvement of the best value per unit of work. Every
engine that still has ideas is tried again now and then: a bandit with an optimistic floor. Hypothesis proposes
structure, and the batched engines refine it through the objective's elites.

Where functions are judged by a contract, what pays is no guide: a correct function has rounding noise to climb all day,
and a wrong one may be wrong in one place and nowhere near it. There fresh batches get fixed shares of the work, FRESH.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import attrs
import numpy as np

from diffuzz.cases import draws
from diffuzz.searching import engines
from diffuzz.searching.objective import Objective
from diffuzz.searching.state import Kept

ORDER = ("evolution", "shapes", "device", "gradient", "pbt", "random")
# Share of an engine's old return that remains after a round of its own.
MEMORY = 0.7
# After how much work of the others, in units of what its last round took, even a hopeless engine gets another; after
# each that brings nothing it waits twice as long.
PATIENCE = {"evolution": 1, "shapes": 4, "device": 1, "gradient": 4, "pbt": 8, "random": 16}
# The same for engines that come from elsewhere.
OF_OTHERS = 4
MOST_PATIENCE = 2**20
# Shares of the work in a contract: other shapes, and batches of the usual shape that nobody has climbed to. Shapes get
# more until each that is worth a look had one, and less where each of them is compiled.
FRESH = {"shapes": 0.3, "sampling": 0.25}
SWEEPING_SHAPES, COMPILED_SHAPES = 0.6, 0.4


def rounds(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """One round of one engine a round."""
    if own := _own_engine(objective):
        yield from _started_late(own, objective, rng)
        return
    made = objective.problem.starts(rng, objective.rows)
    if made is not None and not objective.before.searches:
        objective.for_engine("starts").refine(made)
        yield
    names = (*ORDER, *(name for name in engines.names() if name not in engines.REGISTRY.built_in()))
    names = tuple(name for name in names if name not in objective.without)
    running: dict[str, Iterator[None]] = {name: _started_late(name, objective, rng) for name in names}
    if "device" in names:
        running["device"] = _on_device(objective, rng)
    fresh: dict[str, float] = {}
    if objective.problem.judges:
        fresh = dict.fromkeys(FRESH, 0.0)
        running["sampling"] = _sampling(objective, rng)
    bandit = _Bandit(objective, names)
    objective.keep("auto", bandit.kept)
    while running:
        name = _behind(objective, fresh) or bandit.choice(running, fresh)
        bandit.begin(name)
        if next(running[name], "ended") == "ended":
            del running[name]
            fresh.pop(name, None)
        elif name in fresh:
            fresh[name] += bandit.spent
            yield
        else:
            bandit.learn()
            yield


@attrs.define(eq=False)
class _Bandit:
    """What the rounds of engines have paid, and whose turn it is."""

    objective: Objective
    names: tuple[str, ...]
    returns: dict[str, float] = attrs.field(init=False)
    # The work at which each engine's waiting ends.
    due: dict[str, float] = attrs.field(init=False)
    patience: dict[str, float] = attrs.field(init=False)
    # The engine whose round it is, and what there was when it began.
    _at: tuple[str, float, float] | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.returns = dict.fromkeys(self.names, math.inf)
        self.due = dict.fromkeys(self.names, 0.0)
        self.patience = {name: PATIENCE.get(name, OF_OTHERS) for name in self.names}
        # An engine that has had its turns in the search before does not begin anew.
        noted = self.objective.before.of("auto")
        for what, kept in self._tables().items():
            known = noted.note(what, len(self.names))
            kept |= {} if known is None else dict(zip(self.names, map(float, known), strict=True))

    def _tables(self) -> dict[str, dict[str, float]]:
        order = " ".join(self.names)
        return {f"returns {order}": self.returns, f"due {order}": self.due, f"patience {order}": self.patience}

    def kept(self) -> Kept:
        """What the next search goes on with. A round that the end of this one has cut short was one, too."""
        if self._at is not None and self._at[0] in self.returns and self.spent > 0:
            self.learn()
        self.due = {name: at - self.objective.work for name, at in self.due.items()}
        return Kept(notes={what: np.array(list(kept.values()), float) for what, kept in self._tables().items()})

    @property
    def spent(self) -> float:
        """The work of the round that was begun last."""
        return 0.0 if self._at is None else self.objective.work - self._at[1]

    def begin(self, name: str) -> None:
        """A round of an engine begins."""
        self._at = name, self.objective.work, _value(self.objective)

    def learn(self) -> None:
        """The round of the engine is over."""
        assert self._at is not None
        (name, _, value), now = self._at, _value(self.objective)
        spent, self._at = self.spent, None
        gain = math.log(now / value) if value > 0 else 0.0
        patience = PATIENCE.get(name, OF_OTHERS) if now > value else min(2 * self.patience[name], MOST_PATIENCE)
        self.patience[name] = patience
        self.due[name] = self.objective.work + patience * spent
        paid = gain / max(spent, 1.0)
        known = self.returns[name]
        self.returns[name] = paid if math.isinf(known) else MEMORY * known + (1 - MEMORY) * paid

    def choice(self, running: Collection[str], fresh: Collection[str]) -> str:
        """The best of those without a share of their own."""
        names = [name for name in running if name not in fresh]
        if "shapes" in fresh and not self.objective.swept and len(names) > 1:
            # To import Hypothesis takes as long as hundreds of shapes.
            names = [name for name in names if name != "pbt"]
        for name in names:
            if math.isinf(self.returns[name]) or self.objective.work > self.due[name]:
                return name
        # Ties, as when nothing pays any more, go to the first in order.
        return max(names, key=lambda name: self.returns[name])


def _own_engine(objective: Objective) -> str:
    """The engine that is made for the target, if its own question is asked and there is one."""
    return "" if objective.problem.judges else objective.problem.target.engine


def _started_late(name: str, objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """The rounds of an engine that is imported only when its first turn comes: many searches end before."""
    yield from engines.started(name, objective.for_engine(name), rng)


def _on_device(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """The engine that works on the device, where that is no CPU."""
    from diffuzz.searching.engines import device

    yield from device.on_accelerators(objective, rng)


def _sampling(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """A structured batch and a scattered one, in turn, for ever."""
    sampling = objective.for_engine("sampling")
    while True:
        for draw in (draws.structured, draws.scattered):
            sampling.evaluate(draw(objective.space, rng, objective.rows))
            yield


def _behind(objective: Objective, fresh: dict[str, float]) -> str | None:
    """The first whose part of the work is below its share."""
    shares = dict(FRESH)
    if objective.problem.compiles:
        shares["shapes"] = COMPILED_SHAPES
    elif not objective.swept:
        shares["shapes"] = SWEEPING_SHAPES
    return next((name for name, spent in fresh.items() if spent < shares[name] * objective.work), None)


def _value(objective: Objective) -> float:
    return objective.best.value if objective.best else 0.0
