"""Prompts: a search of tokens for a target whose cases are prompts of a model.

One replicate of a prompt after a prefix that was run already costs a hundredth of the eight replicates of a prompt. So
most of the work is screening: many tokens after one prefix, in a batch. What promises more than the best is looked at
in three more replicates, and what does so in all of them is evaluated by the objective.

Rounds, by what there is:

    fresh    a new prefix of one to four tokens, each as likely, and many last tokens
    again    a prefix after which several tokens had much, with more last tokens
    change   one of the best prompts with a token exchanged, put in or left out, which keeps the prefix before it

Prefixes differ far more than the tokens after them: of a random one in ten the last token makes a difference at all.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import numpy as np

from diffuzz.models.prompts import REPLICATES, Pair
from diffuzz.searching.objective import Objective
from diffuzz.targets.of_models import given, prompt

# Tokens that run in one round, of a model of usual size; a prefix is as long as this at most.
WIDTH, LONGEST_PREFIX = 96, 4
# Prompts and prefixes that are remembered.
KEPT = 24
# The first replicates of those that are looked at again, and how many prompts of a batch are.
MORE, LOOKED_AT = (1, 2, 3), 8
# Runs of the model that one evaluation takes, of which a screen takes two.
RUNS, SCREENED = 1 + REPLICATES, 2
# After a prefix the third best token says more of it than the best, which may be luck.
_SAYS = 3


@attrs.define(eq=False)
class _Prefix:
    """A prefix, the best that single replicates had after it, and how often it was tried."""

    tokens: np.ndarray
    best: np.ndarray
    tries: int = 1

    @property
    def promise(self) -> float:
        return float(self.best[0]) / self.tries

    def add(self, values: np.ndarray) -> None:
        self.best = np.sort(np.concatenate((self.best, values)))[-_SAYS:]


@attrs.define(eq=False)
class _Prompts:
    """What is known of prompts so far: the best, by the least of the replicates that were looked at, and prefixes."""

    objective: Objective
    pair: Pair
    rng: np.random.Generator
    best: list[tuple[float, np.ndarray]] = attrs.field(factory=list)
    prefixes: list[_Prefix] = attrs.field(factory=list)

    @property
    def most(self) -> int:
        """Tokens of the longest prompt."""
        return int(self.objective.problem.params["tokens"])

    def draw(self, count: int) -> np.ndarray:
        return self.rng.integers(0, self.pair.vocabulary, count).astype(np.int32)

    def fresh(self) -> None:
        """A new prefix."""
        prefix = self.draw(int(self.rng.integers(1, 1 + min(LONGEST_PREFIX, self.most - 1))) if self.most > 1 else 0)
        values = self.screen(prefix, self.draw(WIDTH)[:, None])
        if len(prefix):
            self.prefixes.append(_Prefix(prefix, np.sort(values)[-_SAYS:]))
            self.prefixes = sorted(self.prefixes, key=lambda one: -one.promise)[:KEPT]

    def again(self) -> None:
        """More tokens after the prefix that promises most."""
        chosen = max(self.prefixes, key=lambda one: one.promise)
        chosen.tries += 1
        chosen.add(self.screen(chosen.tokens, self.draw(WIDTH)[:, None]))

    def change(self) -> None:
        """One of the best with another token somewhere, one more, or one less."""
        # By rank: the first is chosen twice as often as the one in the middle.
        tokens = self.best[int(len(self.best) * self.rng.random() ** 2)][1]
        place = int(self.rng.integers(0, len(tokens)))
        kind = self.rng.integers(0, 4)
        if kind == 0 and len(tokens) > 1:
            self.screen(tokens[:0], np.delete(tokens, place)[None])
            return
        after = tokens[place:] if kind == 1 and len(tokens) < self.most else tokens[place + 1 :]
        if kind == 2 and len(tokens) < self.most:
            place, after = len(tokens), tokens[:0]
        rows = max(1, WIDTH // (1 + len(after)))
        tails = np.concatenate((self.draw(rows)[:, None], np.tile(after, (rows, 1))), axis=1)
        self.screen(tokens[:place], tails.astype(np.int32))

    def screen(self, prefix: np.ndarray, tails: np.ndarray) -> np.ndarray:
        """The values of one replicate, and what follows from them."""
        objective = self.objective
        objective.stop_if_over()
        params = objective.problem.params
        past = self.pair.past(prefix) if len(prefix) else None
        after = self.pair.after(tails, past=past)
        values = prompt.value(params, after.apr, after.ggml[:, 0], np.float32)
        self.charge(len(prefix) + tails.size, SCREENED, len(tails))
        best = objective.best.value if objective.best else 0.0
        least_known = self.best[-1][0] if len(self.best) == KEPT else -np.inf
        order = np.argsort(-values)[:LOOKED_AT]
        chosen = tails[order[values[order] > min(best, least_known)]]
        if len(chosen):
            self.look(np.concatenate((np.tile(prefix, (len(chosen), 1)), chosen), axis=1), values[order][: len(chosen)])
        return np.asarray(values)

    def look(self, tokens: np.ndarray, first: np.ndarray) -> None:
        """More replicates of what promises something, and all of what still does."""
        objective = self.objective
        after = self.pair.after(tokens, MORE)
        values = prompt.value(objective.problem.params, after.apr[:, None], after.ggml, np.float32)
        self.charge(tokens.size, 1 + len(MORE), len(tokens))
        least = np.minimum(values.min(axis=1), first)
        known = {row.tobytes() for _, row in self.best}
        self.best += [(float(v), row) for v, row in zip(least, tokens, strict=True) if row.tobytes() not in known]
        self.best = sorted(self.best, key=lambda one: -one[0])[:KEPT]
        for row in np.argsort(-least):
            if least[row] > (objective.best.value if objective.best else 0.0):
                objective.evaluate({"tokens": tokens[row : row + 1]})

    def charge(self, tokens: int, runs: int, prompts: int) -> None:
        """The work of so many runs over so many tokens."""
        self.objective.charge(tokens * self.objective.problem.cost * runs / RUNS, prompts)


def rounds(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """A fresh prefix, one again, and two changes, for ever; nothing for other targets."""
    problem = objective.problem
    if problem.target.name != prompt.TARGET.name:
        return
    state = _Prompts(objective, given.pair(problem.params["model"]), rng)
    if (known := objective.best) is not None:
        # An earlier search has left it.
        state.best.append((known.value, known.case.arrays["tokens"]))
    # A first value, however slow the machine is.
    objective.evaluate({"tokens": state.draw(min(2, state.most))[None]})
    while True:
        state.fresh()
        yield
        for turn in (state.again, state.change, state.change):
            if state.prefixes if turn == state.again else state.best:
                turn()
                yield
