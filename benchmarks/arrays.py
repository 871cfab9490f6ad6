"""What the arrays of a candidate cost: the same kernel on arrays of NumPy, torch, JAX and DLPack.

    python benchmarks/arrays.py [--rows 16] [--seconds 2] [--operation softmax] [--device cpu]

Each is a function of a file in a process of its own, as a search has it, and gets the same batches: a call of each in
turn, so that what else the machine does is the same for all. Prints evaluations (rows) per second, of the calls alone
and with the judgement of each batch beside its exact result and bound, and the ratio to NumPy's (of medians). torch and
JAX have one thread, as NumPy's element-wise functions do; what they have is left out where it is not installed. JAX's
function is compiled before it is timed.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click
import numpy as np

from diffuzz import targets
from diffuzz.cases import draws
from diffuzz.judging.calls import result_like, right_result
from diffuzz.judging.problem import Problem, open_problem
from diffuzz.judging.question import Judge

SOURCES = {
    "numpy": """
import numpy as np

def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)

def rmsnorm(x, eps):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(eps))
""",
    "torch": """
import torch

torch.set_num_threads(1)

def softmax(z):
    e = torch.exp(z - z.amax(dim=-1, keepdim=True))
    return e / e.sum(dim=-1, keepdim=True)

def rmsnorm(x, eps):
    return x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + eps)
""",
    "jax": """
import jax
import jax.numpy as jnp

@jax.jit
def softmax(z):
    e = jnp.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)

@jax.jit
def rmsnorm(x, eps):
    return x / jnp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
""",
    "dlpack": """
import numpy as np

def softmax(z):
    z = np.from_dlpack(z)
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)

def rmsnorm(x, eps):
    x = np.from_dlpack(x)
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(eps))
""",
}


def medians(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median seconds of a call of each, made in turn for so long."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not all(taken.values()):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in taken.items()}


def line(operation: str, rows: int, what: str, times: dict[str, float]) -> str:
    """One line of the table."""
    rates = "".join(f"{name:>8}{rows / each:>11,.0f} ({times['numpy'] / each:4.2f})" for name, each in times.items())
    return f"{operation:9}{rows:>6} {what:9}{rates}"


def called(problem: Problem, batch: dict[str, np.ndarray]) -> Callable[[], object]:
    """A call of the candidate alone."""
    process, contract = problem.candidate, problem.target.contract
    assert process is not None
    assert contract is not None
    like = result_like(contract, right_result(contract, problem.params, batch))
    return lambda: process.run(problem.target.name, problem.params, batch, like)


@click.command()
@click.option("--rows", multiple=True, default=(1, 16, 1024), show_default=True, help="Rows of a batch.")
@click.option("--seconds", default=2.0, show_default=True, help="Time for each line.")
@click.option("--operation", "operations", multiple=True, default=("softmax", "rmsnorm"), show_default=True)
@click.option("--device", default="cpu", show_default=True, help="Of torch's and JAX's arrays.")
def main(rows: tuple[int, ...], seconds: float, operations: tuple[str, ...], device: str) -> None:
    """Print evaluations per second, and in brackets how many times those of NumPy."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    kinds = [kind for kind in SOURCES if kind == "dlpack" or importlib.util.find_spec(kind) is not None]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        for operation in operations:
            target, problems = targets.get(operation), dict[str, Problem]()
            for kind in kinds:
                file = Path(folder) / f"{kind}_kernels.py"
                file.write_text(SOURCES[kind])
                where = device if kind in ("torch", "jax") else "cpu"
                judge = Judge(f"{file}:{operation}", arrays=kind, device=where, timeout=60)
                problems[kind] = opened.enter_context(open_problem(target, {"fix:n": 1025}, judge))
            for count in rows:
                space = problems["numpy"].space
                batch = space.filled(draws.structured(space, np.random.default_rng(0), count))
                scalars = problems["numpy"].scalars
                # One call for all rows.
                batch = {name: np.repeat(one[:1], count, 0) if name in scalars else one for name, one in batch.items()}
                with np.errstate(all="ignore"):
                    alone = {kind: called(problem, batch) for kind, problem in problems.items()}
                    judged = {kind: partial(problem.evaluate, batch) for kind, problem in problems.items()}
                    medians(alone, 0)
                    click.echo(line(operation, count, "called", medians(alone, seconds)))
                    click.echo(line(operation, count, "judged", medians(judged, seconds)))


if __name__ == "__main__":
    main()
