"""Damaged files: each is read, or refused in one line, at once and in little memory."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from models import mutating, test_apr, test_gguf
from models.apr_writer import apr, sealed

from diffuzz.models import dump


def safetensors_file(folder: Path) -> bytes:
    dump.write(folder / "small", mutating.small_dump())
    return (folder / "small").read_bytes()


def other_apr(rng: random.Random) -> bytes:
    return apr(mutating.changed_json(test_apr.METADATA, rng), test_apr.TENSORS)


READERS: dict[str, tuple[Callable[[Path], bytes], Callable[[bytes], mutating.Walk], Callable[[Path], str | None]]] = {
    "gguf": (lambda _: test_gguf.SMALL, mutating.gguf_fields, mutating.look_at_model),
    "apr": (lambda _: test_apr.GOOD, lambda raw: mutating.apr_fields(raw, sealed, other_apr), mutating.look_at_model),
    "safetensors": (safetensors_file, mutating.safetensors_fields, mutating.look_at_dump),
    "npz": (lambda _: mutating.small_npz(compressed=False), mutating.npz_fields, mutating.look_at_dump),
    "compressed npz": (lambda _: mutating.small_npz(compressed=True), mutating.npz_fields, mutating.look_at_dump),
}


@pytest.mark.parametrize("reader", READERS)
def test_mutants_are_read_or_refused(reader: str, tmp_path: Path) -> None:
    """Whatever is damaged: no other exception, within a second and 2 MB; most are refused, for many reasons."""
    make, fields, look = READERS[reader]
    raw = make(tmp_path)
    path, messages, slowest = tmp_path / "mutant", set(), 0.0
    path.write_bytes(raw)
    assert look(path) is None
    tracemalloc.start()
    try:
        for mutant in mutating.mutants(raw, fields(raw), 400, seed=0):
            path.write_bytes(mutant)
            began = time.monotonic()
            messages.add(look(path))
            slowest = max(slowest, time.monotonic() - began)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert slowest < 1
    assert peak < 2**21
    assert len(messages) > 60
