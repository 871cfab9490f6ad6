"""What the kernel tests share: rows of weights, and the golden data of ggml's own library."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diffuzz import formats

WEIGHT_FORMATS = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_K", "q3_K", "q4_K", "q5_K", "q6_K", "iq4_nl", "mxfp4")


def _weights(format: str, rows: int, blocks: int, seed: int, largest: float = 65504.0) -> np.ndarray:
    """Rows of random bytes whose scales are finite, at most ``largest``, of any magnitude down to subnormal f16."""
    fmt, rng = formats.get(format), np.random.default_rng(seed)
    fields = fmt.unpack(rng.integers(0, 256, (rows * blocks, fmt.type_size)).astype(np.uint8))
    top = int(np.float16(largest).view(np.uint16))
    for name in fmt.half_fields:
        signs = rng.integers(0, 2, rows * blocks) << 15
        fields[name] = (rng.integers(0, top + 1, rows * blocks) | signs).astype(np.uint16).view(np.float16)
    if not fmt.half_fields:
        fields["d"] = 2.0 ** rng.integers(-24, int(np.log2(largest)) + 1, rows * blocks)
    return fmt.pack(fields).reshape(rows, -1)


@pytest.fixture(scope="session", params=WEIGHT_FORMATS)
def format(request: pytest.FixtureRequest) -> str:
    """Each format that weights come in."""
    return str(request.param)


@pytest.fixture(scope="session")
def weights() -> Callable[..., np.ndarray]:
    """``(format, rows, blocks, seed, largest=65504) -> uint8[rows, row_bytes]``."""
    return _weights


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """Inputs and outputs of a compiled ggml."""
    found = {}
    for name in ("ggml-cpu.npz", "ggml-cpu-levels.npz"):
        with np.load(Path(__file__).parents[1] / "data" / name) as data:
            found |= dict(data)
    return found
