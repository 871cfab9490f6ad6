"""GGUF files: what is in a good one is read as it is, and a damaged one is one line, at once and in little memory."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from diffuzz import formats
from diffuzz.formats import gguf_file
from diffuzz.formats.gguf_file import GGUFError
from diffuzz.studies.claims import model, reproductions
from diffuzz.targets.published import seed_block

U8, U16, I16, U32, F32, BOOL, STRING, ARRAY, U64, F64 = 0, 2, 3, 4, 6, 7, 8, 9, 10, 12
Q4_K, F16 = 12, 1
DATA = seed_block(3).tobytes() + seed_block(0).tobytes()


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def text(name: bytes | str) -> bytes:
    raw = name.encode() if isinstance(name, str) else name
    return u64(len(raw)) + raw


def entry(key: bytes | str, kind: int, value: bytes) -> bytes:
    return text(key) + u32(kind) + value


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return u32(kind) + u64(count) + values


def tensor(name: bytes | str, sizes: tuple[int, ...], kind: int = F16, offset: int = 0) -> bytes:
    return text(name) + u32(len(sizes)) + b"".join(map(u64, sizes)) + u32(kind) + u64(offset)


def file(
    entries: tuple[bytes, ...] = (), tensors: tuple[bytes, ...] = (), data: bytes = b"", alignment: int = 32
) -> bytes:
    header = b"GGUF" + u32(3) + u64(len(tensors)) + u64(len(entries)) + b"".join(entries) + b"".join(tensors)
    return header + bytes(-len(header) % alignment) + data


ENTRIES = (
    entry("general.architecture", STRING, text("llama")),
    entry("general.alignment", U32, u32(64)),
    entry("llama.scale", F32, struct.pack("<f", 1.5)),
    entry("llama.flag", BOOL, b"\1"),
    entry("tokens", ARRAY, array(STRING, 3, text("a") + text("") + text("\N{GREEK SMALL LETTER BETA}"))),
    entry("scores", ARRAY, array(F64, 2, bytes(16))),
    entry("nested", ARRAY, array(ARRAY, 2, array(I16, 1, bytes(2)) + array(STRING, 1, text("x")))),
)
TENSORS = (
    tensor("blk.3.ffn_down.weight", (256, 2), Q4_K, 0),
    tensor("blk.0.ffn_down.weight", (3, 1, 2), F16, 320),
    tensor("scalar", (), F16, 384),
    tensor("nothing", (0, 7), Q4_K, 384),
)
SMALL = file(ENTRIES, TENSORS, DATA + bytes(32) + bytes(range(12)) + bytes(52) + b"\0\x3c", 64)
HEADER = len(SMALL) - 386


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def error(path: Path, raw: bytes) -> str:
    """The message with which these bytes are refused."""
    path.write_bytes(raw)
    with pytest.raises(GGUFError) as caught:
        gguf_file.read(path)
    return str(caught.value)


def test_a_small_file_is_read(path: Path) -> None:
    """Every type of entry is passed over; tensors have their kinds, sizes, places and bytes."""
    path.write_bytes(SMALL)
    found = gguf_file.read(path)
    assert (found.version, found.alignment) == (3, 64)
    assert [(one.name, one.kind, one.sizes, one.offset - HEADER, one.nbytes) for one in found.tensors.values()] == [
        ("blk.3.ffn_down.weight", "q4_K", (256, 2), 0, 288),
        ("blk.0.ffn_down.weight", "f16", (3, 1, 2), 320, 12),
        ("scalar", "f16", (), 384, 2),
        ("nothing", "q4_K", (0, 7), 384, 0),
    ]
    assert found.data(found.tensors["blk.3.ffn_down.weight"]).tobytes() == DATA
    assert found.data(found.tensors["blk.0.ffn_down.weight"]).tobytes() == bytes(range(12))
    assert not found.data(found.tensors["scalar"]).flags.writeable


def test_kinds_are_those_of_the_formats() -> None:
    """Each block format has its number, and the size of its blocks."""
    kinds = {kind.name: (kind.elements, kind.nbytes) for kind in gguf_file.KINDS.values()}
    names = tuple(filter(formats.of_ggml, formats.names()))
    assert {name: kinds[name] for name in names} == {
        name: (formats.get(name).block_size, formats.get(name).type_size) for name in names
    }


def test_files_of_the_package_are_read(path: Path) -> None:
    """What llama.cpp's own package writes, it reads back as we do; its kinds are ours."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("tokens", ["a", "b"])
    writer.add_custom_alignment(128)
    writer.add_tensor("x", np.arange(7, dtype=np.float32))
    writer.add_tensor("w", seed_block(1)[None], raw_dtype=gguf.GGMLQuantizationType.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours = gguf_file.read(path)
    for theirs in gguf.GGUFReader(path).tensors:
        one = ours.tensors[theirs.name]
        assert (one.offset, one.nbytes, one.sizes) == (theirs.data_offset, theirs.n_bytes, tuple(theirs.shape))
        assert ours.data(one).tobytes() == theirs.data.tobytes()
    # The package says 40 bytes of q8_1, whose d and s it takes for float32.
    known = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items() if kind.name != "Q8_1"}
    assert known == {number: (gguf_file.KINDS[number].elements, gguf_file.KINDS[number].nbytes) for number in known}


BAD = {
    "nothing": (b"", "it is empty"),
    "text": (b"no model", "it begins with b'no m'"),
    "magic alone": (b"GGUF", "it is cut short: the version"),
    "version": (b"GGUF" + u32(1) + bytes(16), "it is of version 1: 2 or 3"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3) + bytes(16), "it is big-endian"),
    "entries": (b"GGUF" + u32(3) + u64(0) + u64(2**63), "9223372036854775808 entries, of at least 14 bytes each"),
    "tensors": (b"GGUF" + u32(3) + u64(2**64 - 1) + u64(0), "18446744073709551615 tensors, of at least 25 bytes each"),
    "key": (file((entry("", U8, b"\0"),), data=bytes(99)), "the key of entry 0 has 0 bytes"),
    "long key": (file((entry(b"k" * 2**16, U8, b"\0"),)), "the key of entry 0 has 65536 bytes: 1 to 65535"),
    "key's bytes": (file((entry(b"\xff", U8, b"\0"),), data=bytes(99)), "the key of entry 0 is not UTF-8"),
    "two keys": (file((entry("k\n", U8, b"\0"),) * 2), r"it has two entries 'k\\n'"),
    "type": (file((entry("k", 13, b"\0"),), data=bytes(99)), "entry 'k' is of type 13, which there is not"),
    "string": (file((entry("k", STRING, u64(2**64 - 1)),), data=bytes(9)), "the last string of entry 'k' ends at byte"),
    "array": (file((entry("k", ARRAY, array(U64, 2**61)),), data=bytes(9)), "entry 'k' takes 18446744073709551616 byt"),
    "array's type": (file((entry("k", ARRAY, array(99, 0)),), data=bytes(9)), "entry 'k' is of type 99"),
    "strings": (file((entry("k", ARRAY, array(STRING, 2**61)),), data=bytes(9)), "2305843009213693952 strings in entr"),
    "strings end": (
        file((entry("k", ARRAY, array(STRING, 3, u64(2**40) + b"x" * 40)),)),
        "entry 'k' has 3 strings, and one of them",
    ),
    "arrays": (file((entry("k", ARRAY, array(ARRAY, 2**61)),), data=bytes(9)), "2305843009213693952 arrays in entry"),
    "deep arrays": (file((entry("k", ARRAY, array(ARRAY, 1) * 5),), data=bytes(99)), "more than 4 arrays within each"),
    "alignment": (file((entry("general.alignment", U32, u32(24)),)), "is 24: a power of two"),
    "no alignment": (file((entry("general.alignment", U32, u32(0)),)), "is 0: a power of two"),
    "alignment's type": (file((entry("general.alignment", U64, u64(32)),)), "is of type 10, where 4"),
    "name": (file((), (tensor("", (1,)),), bytes(64)), "the name of tensor 0 has 0 bytes"),
    "two names": (file((), (tensor("w", (1,)),) * 2, bytes(64)), "it has two tensors 'w'"),
    "dimensions": (file((), (tensor("w", (1,) * 5),), bytes(64)), "has 5 dimensions: at most 4"),
    "kind": (file((), (tensor("w", (1,), 4),), bytes(64)), "is of kind 4, which is not known"),
    "row": (file((), (tensor("w", (255, 2), Q4_K),), DATA), "has rows of 255: q4_K has blocks of 256"),
    "no row": (file((), (tensor("w", (), Q4_K),), DATA), "has rows of 1: q4_K has blocks of 256"),
    "offset": (file((), (tensor("w", (1,), F16, 31),), bytes(64)), "has offset 31: a multiple of 32"),
    "empty tensor": (file((), (tensor("w", (0,), F16, 2**40),), bytes(64)), "it is cut short: tensor 'w' ends at"),
    "size": (file((), (tensor("w", (2**63, 2**63, 2**63, 2**63)),), bytes(64)), "it is cut short: tensor 'w' ends"),
    "place": (file((), (tensor("w", (1,), F16, 2**64 - 32),), bytes(64)), "it is cut short: tensor 'w' ends at"),
    "overlap": (
        file((), (tensor("b", (17,), F16, 0), tensor("w", (1,), F16, 32)), bytes(64)),
        "tensors 'b' and 'w' overlap",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_contradicts_itself_is_one_line(name: str, path: Path) -> None:
    """Each check has its message, which says what, how much, and where."""
    raw, message = BAD[name]
    said = error(path, raw)
    assert message.replace("\\\\", "\\") in said
    assert said.isprintable()


def test_most_things(path: Path) -> None:
    """So many strings, or tensors, that the file has room for them and passing over them takes long, are refused."""
    many = gguf_file.MOST_STRINGS + 1
    assert "more than 2097152 in all" in error(
        path, file((entry("k", ARRAY, array(STRING, many)),), data=bytes(8 * many))
    )
    many = gguf_file.MOST_OTHERS + 1
    raw = b"GGUF" + u32(3) + u64(many) + u64(0) + bytes(25 * many)
    assert "more than 32768 entries, tensors and arrays" in error(path, raw)


def mutants() -> Iterator[bytes]:
    """SMALL with each byte of its header replaced by several others, each 8 of them too, and cut at every length."""
    for at in range(HEADER):
        old = SMALL[at]
        for new in {0, 1, 9, 0x7F, 0x80, 0xFF, old ^ 1, old ^ 0x80, (old + 1) % 256} - {old}:
            yield SMALL[:at] + bytes([new]) + SMALL[at + 1 :]
        for new in (0, 2**31, 2**40, 2**63 - 1, 2**64 - 1):
            yield SMALL[:at] + u64(new) + SMALL[at + 8 :]
    for length in range(len(SMALL)):
        yield SMALL[:length]


def test_mutants_are_read_or_refused_at_once(path: Path) -> None:
    """Whatever byte of a header is another, and wherever a file ends: figures, or one line, in no time and memory."""
    messages, slowest = [], 0.0
    tracemalloc.start()
    try:
        for raw in mutants():
            path.write_bytes(raw)
            began = time.monotonic()
            try:
                found = gguf_file.read(path)
                for one in found.tensors.values():
                    assert len(found.data(one)) == one.nbytes
            except GGUFError as error:
                messages.append(str(error))
            slowest = max(slowest, time.monotonic() - began)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert slowest < 1
    assert peak < 2**22
    assert all(message.isprintable() for message in messages)
    # Most bytes of a header matter; those of names and values do not.
    assert len(messages) > 3000


def test_figures_of_mutants(path: Path) -> None:
    """A damaged model gives figures, or a ModelError that names it, and nothing else."""
    shown, messages = 0, []
    for index, raw in enumerate(mutants()):
        if index % 7:
            continue
        path.write_bytes(raw)
        try:
            model.amplification(path, layer=3)
            shown += 1
        except model.ModelError as error:
            messages.append(str(error))
    assert shown > 100
    assert all(message.startswith(f"{path}: ") and message.isprintable() for message in messages)
    path.write_bytes(SMALL)
    drift = reproductions.two_paths(seed_block(3))[2]
    assert model.amplification(path, layer=3)["rel_diff"] == drift


def test_a_model_opens_fast(path: Path) -> None:
    """A vocabulary of 500 000 words and a gigabyte of weights, which nobody looks at, take a second at most."""
    words = text("word") * 500_000
    raw = file((entry("tokens", ARRAY, array(STRING, 500_000, words)),), (tensor("w", (2**29,)),))
    path.write_bytes(raw)
    os.truncate(path, len(raw) + 2**30)
    began = time.monotonic()
    found = gguf_file.read(path)
    assert time.monotonic() - began < 1
    assert found.tensors["w"].nbytes == 2**30


def test_no_regular_file(tmp_path: Path) -> None:
    """A folder, and a pipe to which nobody writes, are refused, and nothing waits."""
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path, "no regular file"), (tmp_path / "pipe", "no regular file")):
        with pytest.raises(GGUFError, match=message):
            gguf_file.read(path)
        with pytest.raises(model.ModelError, match=message):
            model.layers(path, 5)


HOSTILE = {
    # Of which llama.cpp's package reads one number after another, past the end of the file.
    "numbers": file((entry("k", ARRAY, array(U8, 2**40, bytes(3300))),)),
    "strings": file((entry("k", ARRAY, array(STRING, 2**32, text("x") * 300)),)),
    "arrays": file((entry("k", ARRAY, array(ARRAY, 2**40, array(U8, 0) * 250)),)),
    "tensors": b"GGUF" + u32(3) + u64(2**31) + u64(0) + bytes(3400),
    "truncated": SMALL[:-100],
}


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
sys.argv = ["diffuzz", "claims", "--model", sys.argv[1]]
runpy.run_module("diffuzz", run_name="__main__")
"""


@pytest.mark.parametrize("name", HOSTILE)
def test_claims_refuse_a_hostile_model(name: str, path: Path) -> None:
    """``claims --model`` ends with one line that names the file, and exit code 2, in a gigabyte of memory."""
    path.write_bytes(HOSTILE[name])
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert f"{path}: not a readable GGUF file: it " in done.stderr
