"""Where a value was measured: versions, platform, processor, accelerator."""

from __future__ import annotations

import platform
import sys
from functools import cache
from pathlib import Path

import numpy as np

from diffuzz import __version__
from diffuzz.escaping import unwrapped
from diffuzz.judging.question import Judge


@cache
def environment() -> dict[str, str]:
    """Where a value was measured: versions, platform, processor and the instruction sets that matter to kernels."""
    found = {
        "diffuzz": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": platform.processor() or platform.machine(),
    }
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return found
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    # A hypervisor may name its processor as it likes; an entry is printable.
    found["cpu"] = unwrapped(fields.get("model name", found["cpu"]))
    flags = set(fields.get("flags", "").split())
    found["cpu_flags"] = " ".join(
        f for f in ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni") if f in flags
    )
    return found


def arrays_of(judge: Judge | None) -> dict[str, str]:
    """Which arrays the candidate got, on which device, and the version of their package; nothing of NumPy's."""
    return {} if judge is None else judge.handing.about()


def device() -> dict[str, str]:
    """The accelerator and version of JAX, if this process has used JAX; replaying and listing never load it."""
    jax = sys.modules.get("jax")
    if jax is None:
        return {}
    return {"jax": jax.__version__, "device": str(jax.devices()[0].device_kind)}
