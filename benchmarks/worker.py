"""What a process of its own costs: a batch in a worker against the same call in this process.

    python benchmarks/worker.py [--rows 256] [--repeats 200]

The kernels are NumPy's softmax over 512 logits, and, where ggml-python is installed, the library's own, and its dot
product of 4096 q4_K weights. In this process, too, the library's cached graph has arrays of its own, which a batch is
copied to and its result from. Both sides run in alternation; the ratio is that of the medians. Restart is the time from
a crash on one row of a batch to the results of all others.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from diffuzz import kernels
from diffuzz.kernels.libggml import files
from diffuzz.kernels.process.libggml import Loaded
from diffuzz.kernels.process.worker import Worker

N = 512
# Rows of 4096 weights in q4_K, 144 bytes for each 256.
K, ROW_BYTES = 4096, 4096 // 256 * 144
MODULE = """
import os
import numpy as np

def soft_max(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)

def opened(how):
    def answer(request, arrays, out):
        if how == "crash" and (arrays["x"][:, 0] > 100).any():
            os.abort()
        return soft_max(arrays["x"])
    return answer
"""


def medians(one: Callable[[], object], other: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of two calls, made in alternation."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for call, seconds in zip((one, other), times, strict=True):
            started = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - started)
    return statistics.median(times[0]), statistics.median(times[1])


def in_process(
    loaded: Loaded,
    operation: str,
    arrays: dict[str, np.ndarray],
    shape: tuple[int, ...],
    **options: Any,
) -> Callable[[], object]:
    """A call of the library in this process."""
    own = {name: array.copy() for name, array in arrays.items()}
    out = np.zeros(shape, np.float32)

    def call() -> object:
        for name, array in arrays.items():
            np.copyto(own[name], array)
        getattr(loaded, operation)(own, out, **options)
        return out.copy()

    return call


def tokens(rng: np.random.Generator, count: int) -> np.ndarray:
    """Activations, float32[count, K]."""
    return rng.uniform(-1, 1, (count, K)).astype(np.float32)


def line(name: str, rows: int, here: float, there: float) -> str:
    """One line of the table."""
    return f"{name:14}{rows:6}{here * 1e3:12.3f} ms{there * 1e3:12.3f} ms{there / here:8.2f}"


@click.command()
@click.option("--rows", multiple=True, default=(1, 16, 256, 1024), show_default=True, help="Rows of a batch.")
@click.option("--repeats", default=200, show_default=True, help="Calls of each.")
def main(rows: tuple[int, ...], repeats: int) -> None:
    """Print the cost of a worker."""
    rng = np.random.default_rng(0)
    click.echo(f"{'kernel':14}{'rows':>6}{'in-process':>15}{'in a worker':>15}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bench_worker_kernels.py").write_text(MODULE)
        sys.path.insert(0, folder)
        import bench_worker_kernels  # type: ignore[import-not-found]

        loaded = None if kernels.missing("libggml") else Loaded(files(None), False)
        with Worker("bench_worker_kernels:opened", "") as worker:
            for count in rows:
                x = rng.uniform(-9, 9, (count, N)).astype(np.float32)
                arrays = {"x": x}

                def away(arrays: dict[str, np.ndarray] = arrays) -> object:
                    return worker.run(None, arrays, shape=(N,), dtype="float32")

                def native(x: np.ndarray = x) -> object:
                    return kernels.get("libggml").soft_max(x)

                here, there = medians(lambda x=x: bench_worker_kernels.soft_max(x), away, repeats)  # type: ignore[misc]
                click.echo(line("NumPy softmax", count, here, there))
                if loaded is not None:
                    here, there = medians(in_process(loaded, "soft_max", arrays, x.shape, scale=1.0), native, repeats)
                    click.echo(line("soft_max", count, here, there))
                    rows_of = {
                        "weights": rng.integers(0, 64, (count, ROW_BYTES), dtype=np.uint8),
                        "x": tokens(rng, count),
                    }

                    def native_dots(arrays: dict[str, np.ndarray] = rows_of) -> object:
                        return kernels.get("libggml").vec_dot_rows("q4_K", **arrays)

                    dots = in_process(loaded, "vec_dot_rows", rows_of, (count,), format="q4_K")
                    here, there = medians(dots, native_dots, repeats)
                    click.echo(line("mul_mat q4_K", count, here, there))
        with Worker("bench_worker_kernels:opened", "crash") as worker:
            x = rng.uniform(-9, 9, (256, N)).astype(np.float32)
            worker.run(None, {"x": x}, shape=(N,), dtype="float32")
            x[100, 0] = 1000
            started = time.perf_counter()
            ran = worker.run(None, {"x": x}, shape=(N,), dtype="float32")
            took = (time.perf_counter() - started) * 1e3
            click.echo(f"a crash on one row of 256: {took:.0f} ms, rows without a result: {list(ran.failures)}")


if __name__ == "__main__":
    main()
