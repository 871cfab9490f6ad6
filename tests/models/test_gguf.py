"""GGUF files: what is in a good one is read as it is, and a damaged one is one line, at once and in little memory."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from diffuzz import formats
from diffuzz.formats.tensor_types import KINDS
from diffuzz.models import gguf, model
from diffuzz.models.model import ModelError
from diffuzz.studies.claims import model as claims_model
from diffuzz.targets.published import seed_block

U8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, F64 = 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12
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


ARCHITECTURE = entry("general.architecture", STRING, text("llama"))
ENTRIES = (
    ARCHITECTURE,
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
    with pytest.raises(ModelError) as caught:
        gguf.read(path)
    return str(caught.value)


def test_a_small_file_is_read(path: Path) -> None:
    """Each type of entry has its value; tensors have their formats, shapes and bytes."""
    path.write_bytes(SMALL)
    found = gguf.read(path)
    assert found.architecture == "llama"
    assert list(found.metadata) == [
        "general.architecture", "general.alignment", "llama.scale", "llama.flag", "tokens", "scores", "nested",
    ]  # fmt: skip
    assert found.metadata["general.alignment"] == 64
    assert (found.metadata["llama.scale"], found.metadata["llama.flag"]) == (1.5, True)
    assert found.metadata["tokens"] == ("a", "", "\N{GREEK SMALL LETTER BETA}")
    scores = found.metadata["scores"]
    assert isinstance(scores, np.ndarray)
    assert (scores.tolist(), scores.dtype) == ([0.0, 0.0], np.float64)
    assert [list(one) for one in found.metadata["nested"]] == [[0], ["x"]]  # type: ignore[attr-defined]
    assert [(one.name, one.format, one.shape, len(one.data)) for one in found.tensors.values()] == [
        ("blk.3.ffn_down.weight", "q4_K", (2, 256), 288),
        ("blk.0.ffn_down.weight", "f16", (2, 1, 3), 12),
        ("scalar", "f16", (), 2),
        ("nothing", "q4_K", (7, 0), 0),
    ]
    assert found.tensors["blk.3.ffn_down.weight"].data.tobytes() == DATA
    assert found.tensors["blk.0.ffn_down.weight"].blocks().tolist() == [list(range(6)), list(range(6, 12))]
    assert found.tensors["scalar"].values().tolist() == [1.0]
    assert found.tensors["nothing"].values().shape == (7, 0)
    assert not found.tensors["scalar"].data.flags.writeable
    assert found.sha256 == hashlib.sha256(SMALL).hexdigest()


def test_kinds_are_those_of_the_formats() -> None:
    """Each block format has its number, and the size of its blocks."""
    kinds = {kind.name: (kind.elements, kind.nbytes) for kind in KINDS.values()}
    names = tuple(filter(formats.of_ggml, formats.names()))
    assert {name: kinds[name] for name in names} == {
        name: (formats.get(name).block_size, formats.get(name).type_size) for name in names
    }


PLAIN = {
    "F32": np.arange(-3, 4, dtype=np.float32), "F16": np.arange(7, dtype=np.float16) / 3, "F64": np.arange(7) / 3,
    "I8": np.arange(7, dtype=np.int8), "I16": np.arange(7, dtype=np.int16), "I32": np.arange(7, dtype=np.int32),
    "I64": np.arange(7, dtype=np.int64),
}  # fmt: skip


def test_files_of_the_package_are_read(path: Path) -> None:
    """What llama.cpp's own package writes, it reads back as we do: entries, places, and values in all formats."""
    package = pytest.importorskip("gguf")
    rng = np.random.default_rng(0)
    writer = package.GGUFWriter(path, "llama")
    writer.add_array("tokens", ["a", "\N{GREEK SMALL LETTER BETA}"])
    writer.add_array("scores", [1.5, -2.5])
    writer.add_uint64("many", 2**64 - 1)
    writer.add_bool("flag", False)
    writer.add_custom_alignment(128)
    for name, array in PLAIN.items():
        writer.add_tensor(name, array)
    halves = rng.integers(0, 2**16, (3, 7), np.uint16)
    writer.add_tensor("BF16", halves.view(np.uint8), raw_dtype=package.GGMLQuantizationType.BF16)
    for name in package.GGML_QUANT_SIZES:
        if name.name.lower() in {one.lower() for one in formats.names()} - {"f16", "bf16", "q8_1"}:
            raw = rng.integers(0, 256, (3, 2 * package.GGML_QUANT_SIZES[name][1]), np.uint8)
            writer.add_tensor(name.name, raw, raw_dtype=name)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours, theirs = gguf.read(path), package.GGUFReader(path)
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF."):
            found = ours.metadata[key]
            assert field.contents() == (list(found) if isinstance(found, tuple | np.ndarray) else found), key
    assert len(ours.tensors) == len(theirs.tensors) > 25
    for tensor in theirs.tensors:
        one = ours.tensors[tensor.name]
        assert (one.shape, len(one.data)) == (tuple(reversed(tensor.shape.tolist())), tensor.n_bytes)
        assert one.data.tobytes() == tensor.data.tobytes()
        if tensor.name in PLAIN:
            assert one.values().tolist() == PLAIN[tensor.name].astype(np.float32).tolist()
            continue
        try:
            with np.errstate(all="ignore"):
                needed = package.quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            continue
        np.testing.assert_array_equal(one.values(), needed, one.name)
        np.testing.assert_array_equal(one.values(slice(1, 3)), needed[1:3], one.name)
    # The package says 40 bytes of q8_1, whose d and s it takes for float32.
    known = {int(kind): size for kind, size in package.GGML_QUANT_SIZES.items() if kind.name != "Q8_1"}
    assert known == {number: (KINDS[number].elements, KINDS[number].nbytes) for number in known}


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
    "string's bytes": (file((entry("k", STRING, text(b"\xff")),)), "entry 'k' is not UTF-8"),
    "truth": (file((entry("k", BOOL, b"\2"),)), "entry 'k' has a truth value that is neither 0 nor 1"),
    "no architecture": (file(), "it has no general.architecture, a string"),
    "architecture's type": (file((entry("general.architecture", U8, b"\1"),)), "it has no general.architecture"),
    "split": (file((entry("split.count", STRING, text("3")),)), "its split.count is no whole number"),
    "many files": (file((entry("split.count", U16, b"\xff\xff"),)), "its split.count is 65535: at most 1024 files"),
    "split's name": (file((entry("split.count", U16, b"\3\0"),)), "its name has to end with -00001-of-00003.gguf"),
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
    "alignment's type": (file((entry("general.alignment", STRING, text("32")),)), "is no whole number"),
    "name": (file((), (tensor("", (1,)),), bytes(64)), "the name of tensor 0 has 0 bytes"),
    "two names": (file((), (tensor("w", (1,)),) * 2, bytes(64)), "it has two tensors 'w'"),
    "dimensions": (file((), (tensor("w", (1,) * 5),), bytes(64)), "has 5 dimensions: at most 4"),
    "kind": (file((), (tensor("w", (1,), 4),), bytes(64)), "is of kind 4, which is not known"),
    "row": (file((), (tensor("w", (255, 2), Q4_K),), DATA), "has rows of 255: q4_K has blocks of 256"),
    "no row": (file((), (tensor("w", (), Q4_K),), DATA), "has rows of 1: q4_K has blocks of 256"),
    "offset": (file((), (tensor("w", (1,), F16, 31),), bytes(64)), "has offset 31: a multiple of 32"),
    "empty tensor": (file((), (tensor("w", (0,), F16, 2**40),), bytes(64)), "it is cut short: tensor 'w' ends at"),
    "size": (file((), (tensor("w", (2**59,)),), bytes(64)), "it is cut short: tensor 'w' ends"),
    "sizes": (file((), (tensor("w", (2**63, 0, 2**63)),), bytes(64)), "which no tensor can have"),
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
    many = gguf.MOST_STRINGS + 1
    assert "more than 1048576 in all" in error(
        path, file((entry("k", ARRAY, array(STRING, many)),), data=bytes(8 * many))
    )
    many = gguf.MOST_OTHERS + 1
    raw = b"GGUF" + u32(3) + u64(many) + u64(0) + bytes(25 * many)
    assert "more than 32768 entries, tensors and arrays" in error(path, raw)


def mutants() -> Iterator[bytes]:
    """SMALL with each byte of its header another, each 8 of them too, and cut at every length."""
    for at in range(HEADER):
        yield SMALL[:at] + bytes([(SMALL[at] + 1) % 256]) + SMALL[at + 1 :]
        yield SMALL[:at] + u64(2**64 - 1) + SMALL[at + 8 :]
    for length in range(len(SMALL)):
        yield SMALL[:length]


def test_each_byte_and_each_length(path: Path) -> None:
    """Whatever byte of a header is another, and wherever a file ends: a model, or one line (see test_mutants, too)."""
    messages = []
    for raw in mutants():
        path.write_bytes(raw)
        try:
            found = gguf.read(path)
        except ModelError as error:
            messages.append(str(error))
        else:
            assert all(one.data.nbytes == one.rows * one.row_bytes for one in found.tensors.values())
    assert all(message.isprintable() for message in messages)
    # Most bytes of a header matter; those of names and values do not.
    assert len(messages) > 1500


def test_a_model_opens_fast(path: Path) -> None:
    """A vocabulary of 500 000 words and a gigabyte of weights, which nobody looks at, take a second at most."""
    words = text("word") * 500_000
    raw = file((ARCHITECTURE, entry("tokens", ARRAY, array(STRING, 500_000, words))), (tensor("w", (2**29,)),))
    path.write_bytes(raw)
    os.truncate(path, len(raw) + 2**30)
    began = time.monotonic()
    found = gguf.read(path)
    assert time.monotonic() - began < 1
    assert found.tensors["w"].data.nbytes == 2**30


def test_no_regular_file(tmp_path: Path) -> None:
    """A folder, and a pipe to which nobody writes, are refused, and nothing waits."""
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path, "no regular file"), (tmp_path / "pipe", "no regular file")):
        with pytest.raises(ModelError, match=message):
            gguf.read(path)
        with pytest.raises(claims_model.ClaimError, match=message):
            claims_model.opened(path)


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
    assert f"{path}: it " in done.stderr


def shards(folder: Path, changed: dict[str, bytes] | None = None) -> list[Path]:
    """A model in three files, with one tensor each; ``changed`` has other entries of the second, and its tensors."""
    paths = []
    for number in range(3):
        entries = {
            "no": entry("split.no", U16, struct.pack("<H", number)),
            "count": entry("split.count", U16, struct.pack("<H", 3)),
            "total": entry("split.tensors.count", I32, u32(3)),
            "name": entry("name", STRING, text(str(number))),
        } | ((changed or {}) if number == 1 else {})
        tensors = entries.pop("tensors", tensor(f"w{number}", (1,)))
        path = folder / f"small-{number + 1:05}-of-00003.gguf"
        path.write_bytes(file((ARCHITECTURE, *entries.values()), (tensors,) if tensors else (), bytes([number, 0])))
        paths.append(path)
    return paths


def test_any_of_several_files_opens_all(tmp_path: Path) -> None:
    """All tensors, the metadata of the first file, and the digest of the digests."""
    paths = shards(tmp_path)
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)).hexdigest()
    for path in paths:
        found = model.open(path)
        assert list(found.tensors) == ["w0", "w1", "w2"]
        assert [one.data[0] for one in found.tensors.values()] == [0, 1, 2]
        assert (found.metadata["name"], found.sha256, found.path) == ("0", digest, path)


def test_files_of_the_package_in_pieces_are_read(tmp_path: Path) -> None:
    """What llama.cpp's own package splits is joined again."""
    package = pytest.importorskip("gguf")
    writer = package.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=2)
    for index in range(5):
        writer.add_tensor(f"w{index}", np.full(3, index, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = model.open(tmp_path / "m-00002-of-00003.gguf")
    assert [one.values().tolist() for one in found.tensors.values()] == [[index] * 3 for index in range(5)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"no": entry("split.no", U16, b"\2\0")}, "its file 'small-00002-of-00003.gguf' is number 2 of 3"),
        ({"count": entry("split.count", U16, b"\2\0")}, "is number 1 of 2 by its metadata, where 1 of 3 is needed"),
        (
            {"name": entry("\n", STRING, text(b"\xff"))},
            r"its file 'small-00002-of-00003.gguf' is not as it should be: e",
        ),
        ({"tensors": tensor("w0", (1,))}, "two of its 3 files have a tensor 'w0'"),
        ({"tensors": b""}, "its 3 files have 2 tensors, where split.tensors.count is 3"),
    ],
)
def test_files_that_do_not_belong_together(changed: dict[str, bytes], message: str, tmp_path: Path) -> None:
    """Each file has to be the one that its name says."""
    first = shards(tmp_path, changed)[0]
    assert message in error_of(first)


def error_of(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        model.open(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_a_missing_file_of_several(tmp_path: Path) -> None:
    """A file that is not there, and one of another name, are one line."""
    paths = shards(tmp_path)
    other = paths[0].rename(tmp_path / "other.gguf")
    assert "its file 'small-00001-of-00003.gguf' is missing, which has to lie beside it" in error_of(paths[1])
    assert "its name has to end with -00001-of-00003.gguf" in error_of(other)
