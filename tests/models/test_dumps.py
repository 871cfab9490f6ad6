"""Dumps: what is written is read again, bit for bit, and what is not as docs/dump-format.md says is one line."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import attrs
import ml_dtypes
import numpy as np
import pytest
from models import mutating
from models.apr_writer import F32, Entry, apr

from diffuzz.models import dump, model
from diffuzz.models.dump import Dump
from diffuzz.models.model import Model, ModelError

METADATA = {"format": "diffuzz-dump", "version": "1", "engine": "hand", "arch": "llama"}
TOKENS = np.arange(5, dtype=np.int32)
# A model of width 4 with two heads of 2, one of keys, and a vocabulary of 11.
NUMBERS = {
    "architecture": "llama", "hidden_size": 4, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1,
    "intermediate_size": 3, "max_position_embeddings": 8,
}  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def small_model(tmp_path: Path) -> Model:
    return a_model(tmp_path)


def a_model(folder: Path, **numbers: Any) -> Model:
    tensor = Entry("token_embd.weight", F32, (11, 4), bytes(176))
    (folder / "model.apr").write_bytes(apr(NUMBERS | numbers, [tensor]))
    return model.open(folder / "model.apr")


def error(path: Path, raw: bytes) -> str:
    path.write_bytes(raw)
    with pytest.raises(ModelError) as caught:
        dump.read(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def npz(arrays: dict[str, np.ndarray], *, compressed: bool = False) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


SHAPES = {
    "embd": (5, 4), "blk.0.attn_norm": (5, 4), "blk.0.q": (5, 2, 2), "blk.0.k": (5, 2), "blk.0.v": (5, 1, 2),
    "blk.0.qkv": (5, 8), "blk.0.q_rope": (5, 4), "blk.0.scores": (2, 5, 8), "blk.0.probs": (2, 5, 8),
    "blk.0.k_past": (3, 1, 2), "blk.0.v_past": (3, 2), "blk.0.attn": (5, 4), "blk.1.gate_up": (5, 6),
    "blk.1.glu": (5, 3), "blk.1.l_out": (5, 4), "final_norm": (2, 4), "logits": (2, 11),
}  # fmt: skip
TYPES = (np.float32, np.float16, ml_dtypes.bfloat16, np.float64)


def whole() -> Dump:
    """A dump with taps of all types and shapes, NaN and infinity in it; the last two are of two tokens only."""
    rng = np.random.default_rng(0)
    taps = {name: rng.normal(size=shape).astype(TYPES[i % 4]) for i, (name, shape) in enumerate(SHAPES.items())}
    taps["embd"][0, :2] = np.nan, -np.inf
    rows = {name: np.array([4, 1], np.int32) for name in ("final_norm", "logits")}
    return Dump(METADATA | {"kv": "f16"}, TOKENS, TOKENS + 3, taps, rows)


def arrays_of(one: Dump) -> dict[str, np.ndarray]:
    named = {"tokens": one.tokens, "positions": one.positions, **one.taps}
    return named | {f"{tap}.rows": rows for tap, rows in one.rows.items()}


def test_what_is_written_is_read(path: Path, small_model: Model) -> None:
    """All arrays with their types, shapes and bits, and nothing beside the file is left over."""
    one = whole()
    dump.write(path, one)
    other = dump.read(path)
    dump.check_against(other, small_model)
    assert ["model.apr", "run"] == sorted(os.listdir(path.parent))
    assert (one.metadata, ()) == (other.metadata, other.unknown)
    named = arrays_of(other)
    assert named.keys() == arrays_of(one).keys()
    assert all(same(array, named[name]) for name, array in arrays_of(one).items())
    assert not any(array.flags.writeable for array in other.taps.values())


def test_the_package_reads_what_is_written(path: Path) -> None:
    """The package safetensors finds the same arrays and the same metadata."""
    numpy_files = pytest.importorskip("safetensors.numpy")
    safetensors = pytest.importorskip("safetensors")
    one = whole()
    dump.write(path, one)
    theirs = numpy_files.load_file(path)
    assert theirs.keys() == arrays_of(one).keys()
    assert all(same(array, theirs[name]) for name, array in arrays_of(one).items())
    with safetensors.safe_open(path, "np") as file:
        assert one.metadata == file.metadata()


def test_what_the_package_writes_is_read(path: Path) -> None:
    """Files of the package safetensors, whose arrays lie in another order."""
    numpy_files = pytest.importorskip("safetensors.numpy")
    named = arrays_of(whole())
    numpy_files.save_file(named, path, {**METADATA})
    found = arrays_of(dump.read(path))
    assert all(same(array, found[name]) for name, array in named.items())


@pytest.mark.parametrize("compressed", [False, True])
def test_an_npz_is_read(compressed: bool, path: Path, small_model: Model) -> None:
    """The same names in an archive of NumPy, metadata as JSON in a string; bfloat16 is bytes of two there."""
    one = whole()
    named = arrays_of(one) | {"__metadata__": np.array(json.dumps(dict(one.metadata)))}
    path.write_bytes(npz(named, compressed=compressed))
    other = dump.read(path)
    dump.check_against(other, small_model)
    found = arrays_of(other)
    assert one.metadata == other.metadata
    assert all(same(array, found[name]) for name, array in arrays_of(one).items())
    assert not any(array.flags.writeable for array in other.taps.values())


def test_defaults_and_unknown_names(path: Path) -> None:
    """Positions count from 0; names that are not understood are listed, of whatever type they are."""
    named = {"tokens": TOKENS, "blk.0.speed": np.zeros(3, bool), "blk.00.q": TOKENS, "x.rows": TOKENS, "y": TOKENS}
    path.write_bytes(npz(named | {"__metadata__": np.array(json.dumps(METADATA).encode())}))
    found = dump.read(path)
    assert same(TOKENS, found.positions)
    assert ({}, ("blk.0.speed", "blk.00.q", "x.rows", "y")) == (dict(found.taps), found.unknown)


def changed(**fields: Any) -> Dump:
    return attrs.evolve(whole(), **fields)


def with_tap(name: str, array: np.ndarray, **rows: np.ndarray) -> Dump:
    return Dump(METADATA, TOKENS, TOKENS, {name: array}, dict(rows))


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


WRONG: dict[str, tuple[Dump, str]] = {
    "format": (changed(metadata=METADATA | {"format": "x\n"}), r"its format is 'x\n', where 'diffuzz-dump' is needed"),
    "version": (changed(metadata=METADATA | {"version": "2"}), "it is of version '2': only '1' can be read"),
    "engine": (
        changed(metadata=METADATA | {"engine": ""}),
        "its metadata has no engine: format, version, engine, arch",
    ),
    "layout": (changed(metadata=METADATA | {"rope_layout": "x"}), "its rope_layout is 'x': norm or neox is needed"),
    "sha256": (changed(metadata=METADATA | {"model_sha256": "12"}), "its model_sha256 is no SHA-256"),
    "no tokens": (changed(tokens=TOKENS[:0]), "it has no tokens: at least one is needed"),
    "tokens": (changed(tokens=TOKENS.astype(np.int64)), "tokens is int64[5], where int32[n] is needed"),
    "negative": (changed(tokens=TOKENS - 3), "tokens has -3, which no token can be"),
    "positions": (changed(positions=TOKENS[:4]), "positions is int32[4], where int32[5] is needed"),
    "before": (changed(positions=TOKENS - 1), "positions has -1, which no position can be"),
    "rows": (with_tap("embd", zeros(1, 4), embd=zeros(1)), "embd.rows is float32[1], where int32[n] is needed"),
    "no tap": (with_tap("embd", zeros(5, 4), logits=TOKENS), "logits.rows has no logits beside it"),
    "token": (with_tap("embd", zeros(5, 4), embd=TOKENS + 1), "embd.rows has to name different tokens of 0 to 4"),
    "token twice": (with_tap("embd", zeros(5, 4), embd=TOKENS // 2), "embd.rows has to name different tokens"),
    "dtype": (with_tap("embd", zeros(5, 4, dtype=np.int32)), "embd is int32[5, 4]: float32, float16, bfloat16 or"),
    "dimensions": (with_tap("embd", zeros(5, 2, 2)), "embd has 3 dimensions [5, 2, 2], where [n, d] is needed"),
    "n": (with_tap("embd", zeros(4, 4)), "embd is [4, 4], where [n, d] with n = 5 tokens is needed"),
    "n of rows": (with_tap("embd", zeros(4, 4), embd=TOKENS[:3]), "embd is [4, 4], where [n, d] with n = 3 tokens"),
    "keys": (with_tap("blk.0.probs", zeros(2, 5, 4)), "blk.0.probs is [2, 5, 4], where [H, n, P] with P = 5 keys is"),
    "past": (with_tap("blk.0.k_past", zeros(3, 2)), "blk.0.k_past has 3 keys, and blk.0 has not as many in both"),
    "name": (with_tap("blk.0.speed", zeros(5)), "'blk.0.speed' is no name of a tap"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_dump_is_one_line(name: str, path: Path) -> None:
    """It is neither written nor, where another program has written it, read."""
    one, message = WRONG[name]
    with pytest.raises(ModelError) as caught:
        dump.write(path, one)
    assert message in str(caught.value)
    assert not path.exists()
    if name != "name":
        named = arrays_of(one) | {"__metadata__": np.array(json.dumps(dict(one.metadata)))}
        assert message in error(path, npz(named))


FITTING: dict[str, tuple[Dump, str]] = {
    "arch": (changed(metadata=METADATA | {"arch": "qwen2"}), "it is a dump of the architecture 'qwen2', and the model"),
    "sha256": (
        changed(metadata=METADATA | {"model_sha256": "0" * 64}),
        "it is a dump of another model: its model_sha25",
    ),
    "vocabulary": (changed(tokens=TOKENS + 7), "tokens has 11: the model's vocabulary has 0 to 10"),
    "context": (changed(positions=TOKENS + 4), "it has 5 tokens up to position 8: the model's context has 8"),
    "layer": (with_tap("blk.2.q", zeros(5, 4)), "blk.2.q: the model has layers 0 to 1"),
    "width": (with_tap("embd", zeros(5, 3)), "embd is [5, 3], where [n, d] with d = 4 is needed"),
    "heads": (with_tap("blk.0.q", zeros(5, 1, 4)), "blk.0.q is [5, 1, 4], where [n, H*c] with H = 2, c = 2 is needed"),
    "flat heads": (with_tap("blk.0.k", zeros(5, 4)), "blk.0.k is [5, 4], where [n, G*c] with G = 1, c = 2 is needed"),
    "scores": (with_tap("blk.0.scores", zeros(1, 5, 5)), "blk.0.scores is [1, 5, 5], where [H, n, P] with H = 2 is"),
    "past": (
        changed(taps={"blk.0.k_past": zeros(3, 4), "blk.0.v_past": zeros(3, 2)}, rows={}),
        "blk.0.k_past is [3, 4]",
    ),
    "qkv": (with_tap("blk.0.qkv", zeros(5, 9)), "blk.0.qkv is [5, 9], where [n, qkv] with qkv = 8 is needed"),
    "logits": (with_tap("logits", zeros(5, 12)), "logits is [5, 12], where [n, V] with V = 11 is needed"),
}


@pytest.mark.parametrize("name", FITTING)
def test_a_dump_of_another_model_is_one_line(name: str, small_model: Model) -> None:
    """The line names the array, its shape, and the shape that the model needs."""
    one, message = FITTING[name]
    with pytest.raises(ModelError, match=re.escape(message)):
        dump.check_against(one, small_model)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"num_heads": 0}, "the model's attention.head_count is 0: a whole number from 1 up"),
        ({"num_heads": 3}, "or else embedding_length / attention.head_count, is 1.3333333333333333: a whole number"),
        ({"hidden_size": -4}, "the model's embedding_length is -4: a whole number from 1 up"),
        ({"intermediate_size": 1e300}, "the model's feed_forward_length is 1e\\+300: a whole number from 1 up"),
    ],
)
def test_a_model_of_absurd_numbers_is_one_line(numbers: dict[str, Any], message: str, tmp_path: Path) -> None:
    """No division by zero and no overflow."""
    with pytest.raises(ModelError, match=message):
        dump.check_against(whole(), a_model(tmp_path, **numbers))


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(dtype: Any = "I32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "it is empty"),
    "short": (b"1234567", "it has 7 bytes, and a .safetensors file begins with 8 bytes of length"),
    "text": (b"no dump at all", "it is no .safetensors or .npz file, or cut short: its header takes 23"),
    "length": (safetensors({}, length=2**64 - 1), "its header takes 18446744073709551615 bytes, where 2 are left"),
    "long": (safetensors(b" " * (6 * 2**20 + 1)), "its header has 6291457 bytes: at most 6291456"),
    "no JSON": (safetensors(b"{'a': 1}"), "its header is not JSON, or cut short"),
    "no object": (safetensors([]), "its header is no JSON object"),
    "two keys": (safetensors(b'{"a": 1, "a": 2}'), "it has two keys 'a'"),
    "deep": (safetensors(b'{"a":' * 50_000), "its header is nested too deeply"),
    "metadata": (safetensors({"__metadata__": {"a": 1}}), "its __metadata__ is no object of strings"),
    "no metadata": (safetensors({"tokens": entry()}, bytes(4)), "its metadata has no format: format, version, engine"),
    "name": (safetensors({"\ud800": entry()}, bytes(4)), r"the name '\ud800' is no text"),
    "many": (
        safetensors({f"{i}": entry("I32", [0], [0, 0]) for i in range(2**14 + 1)}),
        "it has 16385 arrays: at most",
    ),
    "keys": (
        safetensors({"a": {"dtype": "I32"}}),
        "array 'a' needs a dtype, a shape and data_offsets, and nothing else",
    ),
    "dtype": (safetensors({"a": entry("F4")}, bytes(4)), "array 'a' has the dtype 'F4', which is not known"),
    "dtype's type": (safetensors({"a": entry(["F4"])}, bytes(4)), "which is not known"),
    "shape": (safetensors({"a": entry("I32", [-1])}, bytes(4)), "array 'a' has a shape that is no list of sizes"),
    "shape's type": (safetensors({"a": entry("I32", [True])}, bytes(4)), "array 'a' has a shape that is no list of"),
    "large": (safetensors({"a": entry("I32", [2**63, 2**63, 0], [0, 0])}), "array 'a' has a shape that is no list of"),
    "dimensions": (safetensors({"a": entry("I32", [1] * 9)}, bytes(4)), "array 'a' has a shape that is no list of"),
    "offsets": (
        safetensors({"a": entry("I32", [1], [0, 4, 8])}, bytes(4)),
        "array 'a' has data_offsets that are no pair",
    ),
    "bytes": (safetensors({"a": entry("I32", [2])}, bytes(4)), "array 'a' is I32[2], 8 bytes, and has 4"),
    "hole": (
        safetensors({"a": entry(), "b": entry("I32", [1], [8, 12])}, bytes(12)),
        "array 'b' begins at byte 8 of the data and leaves a hole after array 'a'",
    ),
    "overlap": (
        safetensors({"a": entry(), "b": entry("I32", [1], [2, 6])}, bytes(6)),
        "array 'b' begins at byte 2 of the data and overlaps with array 'a'",
    ),
    "more": (safetensors({"a": entry()}, bytes(5)), "its arrays have 4 bytes, where the file has 5 after its header"),
    "less": (safetensors({"a": entry()}, bytes(3)), "its arrays have 4 bytes, where the file has 3 after its header"),
    "no tokens": (safetensors({"__metadata__": METADATA}), "it has no array tokens, int32[n], which every dump needs"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_safetensors_file_is_one_line(name: str, path: Path) -> None:
    """Each check has its message."""
    raw, message = BAD[name]
    assert message in error(path, raw)


GOOD = {"__metadata__": np.array(json.dumps(METADATA)), "tokens": TOKENS}
PLAIN = npz(GOOD)


def zipped(files: dict[str, bytes], **options: Any) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, raw in files.items():
            archive.writestr(name, raw)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def replaced(raw: bytes, old: bytes, new: bytes) -> bytes:
    assert old in raw
    return raw.replace(old, new)


METADATA_FILE = {"__metadata__.npy": npy(GOOD["__metadata__"])}
BAD_NPZ: dict[str, tuple[bytes, str]] = {
    "cut": (PLAIN[:-1], "it is cut short: a zip archive has its directory at its end"),
    "half": (PLAIN[: len(PLAIN) // 2], "it is cut short: a zip archive has its directory at its end"),
    "more": (PLAIN + b"\0", "the comment of the zip archive does not end where the file ends"),
    "before": (PLAIN[:4] + PLAIN, "the directory of the zip archive ends at byte"),
    "no array": (zipped({"readme.txt": b""}), "it has a file 'readme.txt', which is no .npy array"),
    "no npy": (zipped({"a.npy": b"x" * 99}), "array 'a' is no .npy array of version 1 or 2"),
    "no metadata": (npz({"tokens": TOKENS}), "it has no __metadata__, a string array that holds format, version"),
    "metadata": (npz({"__metadata__": TOKENS}), "its __metadata__ is no 0-d array of a string"),
    "metadata's text": (npz({"__metadata__": np.array("{")}), "its __metadata__ is not JSON, or cut short"),
    "pickle": (zipped(METADATA_FILE | {"a.npy": npy(np.array([{}]))}), "array 'a' has the dtype |O, which is not"),
    "record": (zipped({"a.npy": npy(zeros(2, dtype=[("a", "f4")]))}), "array 'a' has a header that is none of a plain"),
    "dtype": (npz(GOOD | {"a": zeros(2, dtype=">f4")}), "array 'a' has the dtype >f4, which is not known"),
    "order": (npz(GOOD | {"a": np.asfortranarray(zeros(2, 3))}), "array 'a' is in Fortran order, where C order is"),
    "shape": (replaced(npz(GOOD | {"a": zeros(7, 7)}), b"(7, 7)", b"(7, 8)"), "array 'a' does not"),
    "checksum": (PLAIN[:-400] + bytes([PLAIN[-400] ^ 1]) + PLAIN[-399:], "does not have the bytes that it should"),
    "bz2": (zipped({"a.npy": npy(TOKENS)}, compression=zipfile.ZIP_BZIP2), "is compressed by method 12: numpy.savez"),
    "twice": (
        replaced(zipped(METADATA_FILE | {"a.npy": npy(TOKENS), "b.npy": npy(TOKENS)}), b"b.npy", b"a.npy"),
        "it has two arrays 'a'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_NPZ)
def test_a_bad_npz_is_one_line(name: str, path: Path) -> None:
    """Each check has its message."""
    raw, message = BAD_NPZ[name]
    assert message in error(path, raw)


def test_a_large_archive_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a number of the directory takes 64 bits, as from 4 GB on, it is where such numbers are."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 200)
    raw = bytearray(npz(GOOD | {"embd": zeros(5, 100)}))
    assert b"PK\6\6" in raw
    raw[-22 + 8 : -22 + 20] = b"\xff" * 12
    path.write_bytes(raw)
    assert same(zeros(5, 100), dump.read(path).taps["embd"])
    raw[-22 - 20 + 8] ^= 1
    assert "the large directory of the zip archive is not where it should be" == error(path, bytes(raw))


def test_a_bomb_is_not_unpacked(path: Path) -> None:
    """64 MB of zeros in 64 KB, honestly declared or not: one line, and 4 MB of memory."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__metadata__.npy", METADATA_FILE["__metadata__.npy"])
        with archive.open("tokens.npy", "w") as member:
            member.write(npy(TOKENS)[:128])
            for _ in range(64):
                member.write(bytes(2**20))
    raw = file.getvalue()
    size = struct.pack("<I", 128 + 2**26)
    tracemalloc.start()
    try:
        assert "that is no dump" in error(path, raw)
        liar = raw.replace(size, struct.pack("<I", 128 + 4 * len(TOKENS)))
        assert "does not have the bytes that it should (its checksum)" in error(path, liar)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_large_dump_is_not_read_before_it_is_looked_at(path: Path) -> None:
    """A gigabyte of logits opens at once, in little memory."""
    count = 2**28 // 11
    header = {
        "__metadata__": METADATA,
        "tokens": entry("I32", [count], [0, 4 * count]),
        "logits": entry("F32", [count, 11], [4 * count, 48 * count]),
    }
    path.write_bytes(safetensors(header))
    os.truncate(path, path.stat().st_size + 48 * count)
    found = dump.read(path)
    assert (count, 11) == found.taps["logits"].shape


def test_no_space_left(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that was there stays as it was, and nothing is left beside it."""
    path.write_text("as it was")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        dump.write(path, mutating.small_dump())
    assert (["run"], "as it was") == (os.listdir(path.parent), path.read_text())


def test_the_page_has_every_tap() -> None:
    """docs/dump-format.md names each tap that is understood, and no other."""
    page = (Path(__file__).parents[2] / "docs" / "dump-format.md").read_text(encoding="utf-8")
    table = page[page.index("| tap |") : page.index("## Rules")]
    rows = [re.findall(r"`([a-z_.L]+)`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")]
    named = {name.removeprefix("blk.L.") for row in rows for name in row}
    assert named == {*dump.TAPS, *dump.LAYER_TAPS}
