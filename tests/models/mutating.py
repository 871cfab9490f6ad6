"""Damaged files for the readers: seeded, and aware of what a file is made of.

    walk = gguf_fields(raw)                     # where its numbers are, and its parts
    for mutant in mutants(raw, walk, count=100, seed=0): ...

A mutant has one to four changes: a byte or a bit is another, a number is an extreme one, or nearly what it was, or that
of another place; a part is there twice, is gone, or lies elsewhere; the file ends early, or has more. Where a file has
checksums they are right again afterwards, three times out of four, so that what is behind them is reached.
"""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from diffuzz.models import dump, model
from diffuzz.models.model import ModelError


@attrs.frozen
class Walk:
    """Where a file has its numbers (place and bytes of each) and its parts (place and end); ``head`` is where all that
    describes the file ends. ``mend`` makes its checksums right, and ``rewrite`` makes a file whose JSON says something
    else and is where it should be.
    """

    numbers: tuple[tuple[int, int], ...]
    parts: tuple[tuple[int, int], ...]
    head: int
    mend: Callable[[bytes], bytes] | None = None
    rewrite: Callable[[random.Random], bytes] | None = None


def mutants(raw: bytes, walk: Walk, count: int, seed: int) -> Iterator[bytes]:
    """So many damaged files; some may be as good as ``raw``."""
    rng = random.Random(seed)
    for _ in range(count):
        rewritten = walk.rewrite is not None and rng.random() < 0.5
        mutant = bytearray(walk.rewrite(rng) if walk.rewrite and rewritten else raw)
        for _ in range(rng.choice((0, 0, 0, 1) if rewritten else (1, 1, 1, 2, 2, 3, 4))):
            rng.choice(_CHANGES)(mutant, walk, rng)
        damaged = bytes(mutant)
        yield walk.mend(damaged) if walk.mend and rng.random() < 0.75 and len(damaged) > 68 else damaged


def _byte(raw: bytearray, walk: Walk, rng: random.Random) -> None:
    if raw:
        at = rng.randrange(min(walk.head, len(raw)) if rng.random() < 0.9 else len(raw))
        raw[at] = rng.choice((0, 1, 0x22, 0x2C, 0x5B, 0x7B, 0x7F, 0x80, 0xFF, raw[at] ^ 1 << rng.randrange(8)))


def _number(raw: bytearray, at: int, width: int, value: int) -> None:
    if at + width <= len(raw):
        raw[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")


def _extreme(raw: bytearray, walk: Walk, rng: random.Random) -> None:
    at, width = rng.choice(walk.numbers)
    _number(raw, at, width, rng.choice((0, 1, 2, 2 ** rng.randrange(8 * width), 2 ** rng.randrange(1, 65) - 1, len(raw),
                                        len(raw) - at, len(raw) - at - width)))  # fmt: skip


def _near(raw: bytearray, walk: Walk, rng: random.Random) -> None:
    at, width = rng.choice(walk.numbers)
    old = int.from_bytes(raw[at : at + width], "little")
    _number(raw, at, width, old + rng.choice((-64, -32, -8, -1, 1, 8, 32, 64, old)))


def _swap(raw: bytearray, walk: Walk, rng: random.Random) -> None:
    (one, width), (other, _) = rng.choice(walk.numbers), rng.choice(walk.numbers)
    first, second = raw[one : one + width], raw[other : other + width]
    if len(first) == len(second) == width and abs(one - other) >= width:
        raw[one : one + width], raw[other : other + width] = second, first


def _copy(raw: bytearray, walk: Walk, rng: random.Random) -> None:
    (one, width), (other, _) = rng.choice(walk.numbers), rng.choice(walk.numbers)
    if len(found := raw[other : other + width]) == width and one + width <= len(raw):
        raw[one : one + width] = found


def _twice(raw: bytearray, walk: Walk, rng: random.Random) -> None:
    start, end = rng.choice(walk.parts)
    at = rng.choice((end, rng.choice(walk.parts)[0]))
    raw[at:at] = raw[start:end]


def _gone(raw: bytearray, walk: Walk, rng: random.Random) -> None:
    start, end = rng.choice(walk.parts)
    del raw[start:end]


def _moved(raw: bytearray, walk: Walk, rng: random.Random) -> None:
    start, end = rng.choice(walk.parts)
    part = raw[start:end]
    del raw[start:end]
    at = rng.choice(walk.parts)[0]
    raw[at:at] = part


def _overwritten(raw: bytearray, walk: Walk, rng: random.Random) -> None:
    (start, end), (other, _) = rng.choice(walk.parts), rng.choice(walk.parts)
    raw[other : other + end - start] = raw[start:end]


def _cut(raw: bytearray, walk: Walk, rng: random.Random) -> None:
    del raw[rng.choice((rng.randrange(len(raw) + 1), rng.choice(walk.parts)[0], len(raw) - 1)) :]


def _longer(raw: bytearray, walk: Walk, rng: random.Random) -> None:
    raw += bytes(rng.choice((1, 7, 64, 4096)))


_CHANGES = (
    _byte, _byte, _byte, _extreme, _extreme, _extreme, _near, _near, _swap, _copy, _twice, _gone, _moved, _overwritten,
    _cut, _longer,
)  # fmt: skip


def _other(old: Any, rng: random.Random) -> Any:
    """A value of JSON in the place of another."""
    numbers = (0, 1, -1, 2, 4, 5, 8, 2**31, 2**53, 2**63, 2**64 - 1, 10**30, 0.5, 1e308)
    if isinstance(old, int) and rng.random() < 0.6:
        return old + rng.choice((-8, -4, -1, 1, 4, 8, old))
    if isinstance(old, list) and rng.random() < 0.6:
        return rng.choice(
            (old[::-1], old + old, old[:-1], [*old, rng.choice(numbers)], [rng.choice(numbers)] * len(old))
        )
    texts = (
        "",
        "F32",
        "F64",
        "BF16",
        "I32",
        "BOOL",
        "F8_E4M3",
        "norm",
        "llama",
        "2",
        "\x1b[31m\n",
        "\ud800",
        "x" * 5000,
    )
    return rng.choice(
        (*numbers, *texts, None, True, [], {}, [[]], {"": []}, [rng.choice(numbers)] * 3, "é\N{GRINNING FACE}")
    )


def changed_json(found: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The object with one to three values that are others, keys that are gone, new, or have changed places."""
    found = json.loads(json.dumps(found))
    for _ in range(rng.choice((1, 1, 2, 3))):
        within, key = found, rng.choice([*found, ""])
        if isinstance(found.get(key), dict) and found[key] and rng.random() < 0.8:
            within, key = found[key], rng.choice(list(found[key]))
        change, others = rng.random(), list(within)
        if change < 0.5:
            within[key] = _other(within.get(key), rng)
        elif change < 0.65:
            within.pop(key, None)
        elif change < 0.8:
            within[rng.choice((key + ".rows", key[:-1], key + "\0", "blk.7.q", "tokens", "x" * 300))] = within.get(key)
        elif others:
            other = rng.choice(others)
            within[key], within[other] = within[other], within.get(key)
    return found


_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def gguf_fields(raw: bytes) -> Walk:
    """The numbers and parts of a good GGUF file."""
    numbers, parts, at = [(4, 4), (8, 8), (16, 8)], [], 24

    def number(width: int) -> int:
        nonlocal at
        numbers.append((at, width))
        at += width
        return int.from_bytes(raw[at - width : at], "little")

    def text() -> None:
        nonlocal at
        length = number(8)
        at += length

    def value(kind: int) -> None:
        if kind == 8:
            text()
        elif kind == 9:
            inner, count = number(4), number(8)
            for _ in range(count):
                value(inner)
        else:
            number(_WIDTHS[kind])

    tensors, entries = struct.unpack_from("<2Q", raw, 8)
    for _ in range(entries):
        start = at
        text()
        value(number(4))
        parts.append((start, at))
    for _ in range(tensors):
        start = at
        text()
        for _ in range(number(4)):
            number(8)
        number(4)
        number(8)
        parts.append((start, at))
    return Walk(tuple(numbers), (*parts, (at, len(raw))), at)


def apr_fields(raw: bytes, mend: Callable[[bytes], bytes], rewrite: Callable[[random.Random], bytes]) -> Walk:
    """The numbers and parts of a good .apr file; ``rewrite`` makes one of other metadata."""
    tensors, _, _, index, data = struct.unpack_from("<IQIQQ", raw, 8)
    numbers = [(4, 1), (5, 1), (6, 2), (8, 4), (12, 8), (20, 4), (24, 8), (32, 8), (40, 4), (len(raw) - 4, 4)]
    parts, at = [(0, 64), (64, index), (index, data), (data, len(raw) - 4)], index
    for _ in range(tensors):
        start, length = at, struct.unpack_from("<H", raw, at)[0]
        dimensions = raw[at + 2 + length + 1]
        numbers += [(at, 2), (at + 2 + length, 1), (at + 3 + length, 1)]
        at += 4 + length
        numbers += [(at + 8 * one, 8) for one in range(dimensions + 2)]
        at += 8 * (dimensions + 2)
        parts.append((start, at))
    return Walk(tuple(numbers), tuple(parts), data, mend, rewrite)


def safetensors_fields(raw: bytes) -> Walk:
    """The numbers and parts of a good .safetensors file: its header is text, so its parts are those of JSON."""
    end = 8 + struct.unpack_from("<Q", raw)[0]
    places = [at for at in range(8, end) if raw[at] in b'",:[]{}']
    parts = [(one, other) for one in places[::3] for other in places[1::7] if one < other < one + 200]
    digits = [(at, 1) for at in range(8, end) if chr(raw[at]).isdigit()]
    header = json.loads(raw[8:end])

    def rewrite(rng: random.Random) -> bytes:
        text = json.dumps(changed_json(header, rng)).encode()
        return struct.pack("<Q", len(text)) + text + raw[end:]

    return Walk(((0, 8), (0, 4), *digits), (*parts, (end, len(raw))), end, None, rewrite)


def npz_fields(raw: bytes) -> Walk:
    """The numbers and parts of a good .npz file."""
    numbers, parts = [], []
    archive = zipfile.ZipFile(io.BytesIO(raw))
    at = archive.start_dir
    for info in archive.infolist():
        named, extra = struct.unpack_from("<2H", raw, info.header_offset + 26)
        local = info.header_offset
        numbers += [
            (local + one, width) for one, width in ((6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2))
        ]
        start = local + 30 + named + extra
        parts += [(local, start), (start, start + info.compress_size), (start, start + 128)]
        numbers += [(start + one, 1) for one in (6, 7, 8, 9, *range(10, 100, 3))]
        central = 46 + sum(struct.unpack_from("<3H", raw, at + 28))
        numbers += [(at + one, width) for one, width in
                    ((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (42, 4))]  # fmt: skip
        parts.append((at, at + central))
        at += central
    numbers += [(at + one, 2) for one in (4, 6, 8, 10, 20)] + [(at + 12, 4), (at + 16, 4)]
    return Walk(tuple(numbers), (*parts, (at, len(raw))), len(raw), _mended)


def _mended(raw: bytes) -> bytes:
    """An archive with the checksums that its stored files have."""
    out, at = bytearray(raw), raw.find(b"PK\1\2")
    while 0 <= at and at + 46 <= len(raw):
        method, size, local = *struct.unpack_from("<H", raw, at + 10), *struct.unpack_from("<I", raw, at + 20), \
            *struct.unpack_from("<I", raw, at + 42)  # fmt: skip
        if method == 0 and local + 30 <= len(raw):
            start = local + 30 + sum(struct.unpack_from("<2H", raw, local + 26))
            struct.pack_into("<I", out, at + 16, zlib.crc32(raw[start : start + size]))
        at = raw.find(b"PK\1\2", at + 1)
    return bytes(out)


def small_dump(n: int = 5) -> dump.Dump:
    """A dump of a model of width 4 with two heads."""
    rng = np.random.default_rng(0)
    metadata = {"format": "diffuzz-dump", "version": "1", "engine": "none", "arch": "llama", "rope_layout": "norm"}
    taps: dict[str, np.ndarray] = {
        "embd": rng.normal(size=(n, 4)).astype(np.float32),
        "blk.0.q": rng.normal(size=(n, 2, 2)).astype(np.float16),
        "blk.0.k_past": rng.normal(size=(3, 1, 2)),
        "blk.0.v_past": rng.normal(size=(3, 1, 2)).astype(np.float32),
        "blk.0.scores": rng.normal(size=(2, n, n + 3)).astype(np.float32),
        "logits": rng.normal(size=(1, 11)).astype(np.float32),
    }
    rows = {"logits": np.array([n - 1], np.int32)}
    positions = np.arange(3, 3 + n, dtype=np.int32)
    return dump.Dump(metadata, np.arange(n, dtype=np.int32), positions, taps, rows)


def small_npz(*, compressed: bool) -> bytes:
    """The same as an .npz file."""
    whole, file = small_dump(), io.BytesIO()
    arrays: dict[str, Any] = {"tokens": whole.tokens, "positions": whole.positions, **whole.taps}
    arrays |= {f"{tap}.rows": rows for tap, rows in whole.rows.items()}
    arrays["__metadata__"] = np.array(json.dumps(dict(whole.metadata)))
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def look_at_model(path: Path) -> str | None:
    """Open a model and look at all of it; the message if it is refused. Whatever else is raised is a fault."""
    try:
        found = model.open(path)
    except ModelError as error:
        return _one_line(error)
    places = [
        (one.ctypes.data, one.ctypes.data + len(one)) for one in (np.frombuffer(f, np.uint8) for f in found._files)
    ]
    for tensor in found.tensors.values():
        at = tensor.data.ctypes.data
        assert not len(tensor.data) or any(start <= at and at + len(tensor.data) <= end for start, end in places)
        assert tensor.data.nbytes == tensor.rows * tensor.row_bytes
        assert tensor.values(slice(0, 2)).dtype == np.float32
    for key in found.metadata:
        try:
            assert found.metadata[key] is not None
        except ModelError as error:
            _one_line(error)
    return None


def look_at_dump(path: Path) -> str | None:
    """The same for a dump."""
    try:
        found = dump.read(path)
        for tap in found.taps:
            assert found.taps[tap].size >= 0
            found.taps[tap].tobytes()
    except ModelError as error:
        return _one_line(error)
    return None


def _one_line(error: ModelError) -> str:
    assert str(error).isprintable()
    assert len(str(error)) < 2000
    return str(error)
