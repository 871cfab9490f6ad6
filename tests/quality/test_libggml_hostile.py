"""The real ggml under hostile input: the model's bits, whatever the numbers are, and no process left over.

Any bytes as blocks, any float32 as numbers: NaN, infinities, subnormals, scales that are none of these. Meanwhile the
library's process is killed at random moments. ``--cases 1000000`` takes a minute or two.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest

from diffuzz import formats, kernels
from diffuzz.kernels import libggml
from diffuzz.targets.matvec import WEIGHT_FORMATS

pytestmark = [
    pytest.mark.quality,
    pytest.mark.skipif(kernels.missing("libggml") is not None, reason=str(kernels.missing("libggml"))),
]

# Cases of one call, and one call in so many during which the process is killed.
BATCH, KILLED = 64, 15

ACTIVATIONS = ("q8_0", "q8_1", "q8_K")
OF_GGML = tuple(name for name in formats.names() if formats.of_ggml(name) and name != "q8_1")
LARGEST = float(np.finfo(np.float32).max)
_SPECIAL = (
    (0, -0.0, 1, -1, 0.5, 127, -127.5, np.nan, np.inf, -np.inf, LARGEST, -LARGEST, 2.0**-149, -(2.0**-149), 2.0**-126),
    (88.7, -88.8, 103.9, -104, 65504, 65520, 8.3e6, 1.9e19, -1e30, 2.0**-24, 2.0**-25, 3.7e-6, 3.7e-37),
)
SPECIAL = np.concatenate(_SPECIAL).astype(np.float32)
Run = Callable[[Any], np.ndarray]


def numbers(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """float32 of a kind: any bits, special ones, one special one in a row, any exponent, large, small, or ties."""
    kind = rng.integers(7)
    sign = rng.choice([-1, 1], shape)
    if kind == 0:
        return rng.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32)
    if kind == 1:
        return rng.choice(SPECIAL, shape)
    if kind == 2:
        x = rng.standard_normal(shape, dtype=np.float32)
        flat = x.reshape(len(x), -1)
        flat[np.arange(len(flat)), rng.integers(0, flat.shape[1], len(flat))] = rng.choice(SPECIAL, len(flat))
        return x
    if kind == 3:
        exponents = rng.uniform(-149, 128, shape)
    elif kind == 4:
        exponents = rng.uniform(10, 128) + rng.uniform(-10, 0, shape)
    elif kind == 5:
        exponents = rng.uniform(-149, -10) + rng.uniform(0, 10, shape)
    else:
        x = rng.integers(-254, 255, shape) * 0.5
        x.reshape(len(x), -1)[:, 0] = 127
        return (x * 2.0 ** rng.integers(-20, 20)).astype(np.float32)
    return (sign * 2.0**exponents).astype(np.float32)


def blocks(rng: np.random.Generator, format: str, rows: int, per_row: int) -> np.ndarray:
    """uint8[rows, row_bytes]: any bytes, or any bytes but for scales that are numbers."""
    fmt = formats.get(format)
    raw = rng.integers(0, 256, (rows * per_row, fmt.type_size), dtype=np.uint8)
    if rng.random() < 0.5:
        fields = fmt.unpack(raw)
        for name in fmt.half_fields:
            shape = fields[name].shape
            fields[name] = (rng.choice([-1, 1], shape) * 2.0 ** rng.uniform(-24, 15.9, shape)).astype(np.float16)
        raw = fmt.pack(fields)
    return raw.reshape(rows, -1)


def by_block(call: Callable[[str, np.ndarray], np.ndarray], format: str, rows: np.ndarray, size: int) -> np.ndarray:
    """Rows of whole blocks, whichever of the two shapes an implementation takes."""
    return call(format, rows.reshape(-1, size)).reshape(len(rows), -1)


def case(rng: np.random.Generator, rows: int) -> tuple[str, Run]:
    """(words that say which operation, a call of it by an implementation), of one of all operations."""
    kind = rng.choice(["vec_dot", "dequantize", "quantize", "rms_norm", "soft_max", "silu", "swiglu", "rope"])
    n = int(rng.choice([1, 2, 7, 15, 16, 17, 31, 33, 100, 256]))
    if kind == "vec_dot":
        format = str(rng.choice(WEIGHT_FORMATS))
        per_row = int(rng.integers(1, 4))
        w, x = blocks(rng, format, rows, per_row), numbers(rng, (rows, per_row * formats.get(format).block_size))
        return f"vec_dot {format}", lambda k: k.vec_dot_rows(format, w, x)
    if kind == "dequantize":
        format = str(rng.choice(OF_GGML))
        w = blocks(rng, format, rows, 2)
        return f"dequantize {format}", lambda k: by_block(k.dequantize, format, w, formats.get(format).type_size)
    if kind == "quantize":
        format = str(rng.choice(ACTIVATIONS))
        size = formats.get(format).block_size
        x = numbers(rng, (rows, 2 * size))

        # As numbers: of a NaN scale the payload is not the model's, nor are the sums of a block of zeros.
        def stored(k: Any) -> np.ndarray:
            fields = formats.get(format).unpack(by_block(k.quantize, format, x, size).reshape(2 * rows, -1))
            return np.concatenate(
                [fields[name].reshape(2 * rows, -1).astype(np.float32) for name in fields if name != "bsums"], axis=1
            )

        return f"quantize {format}", stored
    if kind == "rms_norm":
        x, eps = numbers(rng, (rows, n)), float(rng.choice([0, 1e-6, 1e-5, 1e30]))
        return f"rms_norm n={n} eps={eps}", lambda k: k.rms_norm(x, eps)
    if kind == "rope":
        d, base, mode = int(rng.choice([2, 6, 64, 80])), float(rng.choice([1, 1e4, 1e6, 1e30])), "neox"
        if rng.random() < 0.5:
            mode = "norm"
        x = numbers(rng, (rows, 2, d))
        where = rng.integers(-(2**31), 2**31 - 1, rows) >> rng.integers(0, 31, rows)
        return f"rope {mode} d={d} base={base}", lambda k: k.rope(x, where.astype(np.int32), base, mode)
    x, up = numbers(rng, (rows, n)), numbers(rng, (rows, n))
    if kind == "swiglu":
        return f"swiglu n={n}", lambda k: k.swiglu(x, up)
    return f"{kind} n={n}", lambda k: getattr(k, kind)(x)


def differing(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where bits differ; any NaN is every NaN."""
    bits = np.ascontiguousarray(one).view(np.uint32) != np.ascontiguousarray(other).view(np.uint32)
    return bits & ~(np.isnan(one) & np.isnan(other))


def running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc which processes are left")
@pytest.mark.parametrize("seed", [0])
def test_the_model_is_the_library_under_hostile_input(seed: int, ggml_model: Any, pytestconfig: pytest.Config) -> None:
    """Every operation has the model's bits, or NaN with it; a killed process costs no result, and none is left."""
    rng, library = np.random.default_rng(seed), libggml.Library()
    processes: set[int] = set()
    kills = 0

    def kill() -> None:
        nonlocal kills
        worker = library._workers.get("worker")
        process = worker._process if worker is not None else None
        if process is not None and running(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
                kills += 1

    for call in range(-(-pytestconfig.getoption("--cases") // BATCH)):
        name, run = case(rng, BATCH)
        with np.errstate(all="ignore"):
            expected = run(ggml_model)
        timer = Timer(rng.uniform(0, 2e-3), kill) if call % KILLED == KILLED - 1 else None
        if timer is not None:
            timer.start()
        got = run(library)
        if timer is not None:
            timer.join()
        process = library._workers["worker"]._process
        if process is not None:
            processes.add(process.pid)
        wrong = differing(expected, got)
        assert not wrong.any(), (
            f"{name}, call {call}: {expected[wrong][0]} in the model, {got[wrong][0]} in the library"
        )
    library.close()
    deadline = time.monotonic() + 5
    while any(map(running, processes)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [] == [pid for pid in processes if running(pid)]
    assert kills > 0
    assert len(processes) > 1
