"""Whether ten searches of ten seconds, each of which goes on where the one before stopped, reach what one of a hundred
seconds does; and what ten that know nothing of each other reach.

    python benchmarks/rounds.py
    python benchmarks/rounds.py --seconds 2 --seeds 3 chain softmax matvec:format=q4_K

A line for each target and seed: the largest value of each of the three, in units of that of the one long search, and
the seconds that each took. Loading and compiling are part of a search, so short ones have less time for the rest; what
bounds them is their work, which is the same for all three.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from diffuzz import targets
from diffuzz.searching.search import search
from diffuzz.searching.state import State

# Targets of which a search of seconds does not reach a bound.
TARGETS = (
    "attention", "batch", "batched_matmul", "conv1d", "cumsum", "dot-order", "geglu", "gelu", "layer_norm",
    "log_softmax", "masked_softmax", "matmat", "moe_gate", "rmsnorm_gain", "silu", "sum",
)  # fmt: skip


def _question(text: str) -> tuple[str, dict[str, str]]:
    name, _, settings = text.partition(":")
    return name, dict(pair.split("=") for pair in settings.split(",") if pair)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=TARGETS)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each short search")
    parser.add_argument("--rounds", type=int, default=10, help="how many of them")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    shares: dict[str, list[float]] = {"kept": [], "apart": []}
    for text in given.targets:
        name, params = _question(text)
        for seed in range(given.seeds):
            began = time.perf_counter()
            long = search(targets.get(name), params, seconds=given.seconds * given.rounds, seed=seed, minimising=False)
            took = [time.perf_counter() - began]
            reached = {}
            for how in shares:
                began, state, values = time.perf_counter(), State(), []
                for number in range(given.rounds):
                    one = search(
                        targets.get(name), params, seconds=given.seconds, seed=1000 * seed + number + 1, state=state,
                        minimising=False,
                    )  # fmt: skip
                    values.append(one.largest)
                    if how == "kept":
                        state = one.state
                    if one.stopped == "bound reached":
                        break
                took.append(time.perf_counter() - began)
                reached[how] = max(values) / long.largest
                shares[how].append(reached[how])
            print(
                f"{text:36} seed {seed}  one long {long.largest:.6g} ({long.stopped}, {took[0]:.0f} s)  "
                f"rounds that go on {reached['kept']:.4g} ({took[1]:.0f} s)  apart {reached['apart']:.4g} "
                f"({took[2]:.0f} s)",
                flush=True,
            )
    for how, found in shares.items():
        print(f"{how}: geometric mean {np.exp(np.mean(np.log(found))):.4g}, least {min(found):.4g}")


if __name__ == "__main__":
    main()
