"""Files of aprender: what is in a good one is read under GGUF's names, and a damaged one is one line."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from models.apr_writer import BF16, F16, F32, F64, I32, Q4_K, Q6_K, ROW_MAJOR, Entry, apr, padded, sealed

from diffuzz import formats
from diffuzz.models import model
from diffuzz.models.model import ModelError

METADATA = {
    "architecture": "qwen2", "model_type": "qwen2", "name": "small", "hidden_size": 4, "num_layers": 1, "num_heads": 2,
    "num_kv_heads": 1, "head_dim": 2, "intermediate_size": 3, "vocab_size": 5, "max_position_embeddings": 64,
    "rope_theta": 1e6, "rope_type": 2, "rms_norm_eps": 1e-6, "quantization": None, "words": ["a", "b"],
}  # fmt: skip
BLOCKS = np.random.default_rng(0).integers(0, 256, (3, 2 * 144), np.uint8)
EMBEDDING = np.arange(20, dtype=np.float32).reshape(5, 4)
TENSORS = (
    Entry("model.embed_tokens.weight", F32, (5, 4), EMBEDDING.tobytes()),
    Entry("model.norm.weight", F64, (4,), np.arange(4.0).tobytes()),
    Entry("model.layers.0.self_attn.q_proj.bias", F16, (4,), np.arange(4, dtype=np.float16).tobytes()),
    Entry("model.layers.0.post_attention_layernorm.weight", BF16, (4,), np.full(4, 0x3F80, np.uint16).tobytes()),
    Entry("model.layers.0.mlp.down_proj.weight", Q4_K, (3, 300), BLOCKS.tobytes()),
    Entry("blk.0.ffn_up.weight", Q6_K, (1, 256), bytes(210)),
    Entry("of.nobody", I32, (2,), bytes(8)),
)
GOOD = apr(METADATA, TENSORS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.apr"


def error(path: Path, raw: bytes) -> str:
    path.write_bytes(raw)
    with pytest.raises(ModelError) as caught:
        model.open(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_a_small_file_is_read(path: Path) -> None:
    """Metadata under GGUF's keys, tensors under its names, with their shapes and values."""
    path.write_bytes(GOOD)
    found = model.open(path)
    assert (found.architecture, found.sha256) == ("qwen2", hashlib.sha256(GOOD).hexdigest())
    assert {key: value for key, value in found.metadata.items() if "." in key} == {
        "general.architecture": "qwen2", "general.name": "small", "qwen2.embedding_length": 4, "qwen2.block_count": 1,
        "qwen2.attention.head_count": 2, "qwen2.attention.head_count_kv": 1, "qwen2.attention.key_length": 2,
        "qwen2.attention.value_length": 2, "qwen2.feed_forward_length": 3, "qwen2.vocab_size": 5,
        "qwen2.context_length": 64, "qwen2.rope.freq_base": 1e6, "qwen2.rope.type": 2,
        "qwen2.attention.layer_norm_rms_epsilon": 1e-6,
    }  # fmt: skip
    assert found.metadata["words"] == ("a", "b")
    assert "quantization" not in found.metadata
    assert {name: (one.format, one.shape) for name, one in found.tensors.items()} == {
        "token_embd.weight": ("f32", (5, 4)),
        "output_norm.weight": ("f64", (4,)),
        "blk.0.attn_q.bias": ("f16", (4,)),
        "blk.0.ffn_norm.weight": ("bf16", (4,)),
        "blk.0.ffn_down.weight": ("q4_K", (3, 300)),
        "blk.0.ffn_up.weight": ("q6_K", (1, 256)),
        "of.nobody": ("i32", (2,)),
    }
    np.testing.assert_array_equal(EMBEDDING, found.tensors["token_embd.weight"].values())
    assert [1.0] * 4 == found.tensors["blk.0.ffn_norm.weight"].values().tolist()


def test_a_row_is_padded_on_its_own(path: Path) -> None:
    """300 columns of q4_K are two blocks a row, and the last 212 numbers of the second are none of the tensor's."""
    path.write_bytes(GOOD)
    one = model.open(path).tensors["blk.0.ffn_down.weight"]
    values = formats.get("q4_K").dequantize(BLOCKS.reshape(-1, 144)).reshape(3, 512)[:, :300]
    with pytest.raises(
        ModelError, match="has rows of 300, padded to whole blocks of 256: products with its q4_K blocks"
    ):
        one.blocks()
    np.testing.assert_array_equal(values, one.values())
    np.testing.assert_array_equal(values[1:2], one.values(slice(1, 2)))


@pytest.mark.parametrize(
    ("dtype", "format", "nbytes"),
    [(3, "f64", 256), (3, "q4_1", 20), (6, "i8", 32), (6, "q5_0", 22), (7, "u8", 32), (7, "q5_1", 24), (2, "q4_0", 18)],
)
def test_a_dtype_of_two_meanings(dtype: int, format: str, nbytes: int, path: Path) -> None:
    """The two readers of aprender disagree about it; the size says which one wrote the file."""
    path.write_bytes(apr(METADATA, [Entry("w", dtype, (1, 32), bytes(nbytes))]))
    assert format == model.open(path).tensors["w"].format


@pytest.mark.parametrize("name", ["architecture", "model_type"])
def test_names_of_gemma(name: str, path: Path) -> None:
    """Its norms after a part have names of their own, and the name of its class says what it is."""
    names = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
    tensors = [Entry(f"model.layers.7.{one}.weight", F32, (1,), bytes(4)) for one in names]
    path.write_bytes(apr({name: "Gemma3ForCausalLM"}, tensors))
    found = model.open(path)
    assert "gemma3" == found.architecture
    assert {"attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"} == {
        one.split(".")[2] for one in found.tensors
    }


def changed(at: int, new: bytes, *, seal: bool = True) -> bytes:
    """GOOD with other bytes, and with the checksums of these unless it should not have them."""
    raw = GOOD[:at] + new + GOOD[at + len(new) :]
    return sealed(raw) if seal else raw


def one(**fields: object) -> bytes:
    """A file of one tensor ``w``, f32[4], but for these fields."""
    entry = {"name": "w", "dtype": F32, "shape": (4,), "data": bytes(16)} | fields
    return apr(METADATA, [Entry(**entry)])  # type: ignore[arg-type]


INDEX = struct.unpack_from("<Q", GOOD, 24)[0]
TWO = (Entry("a", F32, (17,), bytes(68)), Entry("b", F32, (1,), bytes(4)))
BAD = {
    "short": (GOOD[:60], "it is cut short: it has 60 bytes"),
    "cut": (GOOD[:-1], "it is damaged or cut short: it does not have the checksum that is at its end"),
    "half": (GOOD[:400], "it is cut short, or its parts overlap: the metadata ends at byte"),
    "older": (b"APR1" + GOOD[4:], "it is an .apr file of the kind b'APR1'"),
    "version": (apr(METADATA, (), version=(1, 0)), "it is of version 1.0: 2.0 is needed"),
    "header": (changed(8, b"\1", seal=False), "its header is damaged"),
    "data": (changed(len(GOOD) - 80, b"\1", seal=False), "it is damaged or cut short: it does not have the checksum"),
    "reserved": (changed(50, b"\1"), "its header says something that is not known"),
    "flags": (apr(METADATA, (), flags=0x1000), "its header says something that is not known (flags 0x1000"),
    "LZ4": (apr(METADATA, (), flags=ROW_MAJOR | 0x1), "it is compressed (LZ4), which cannot be read"),
    "ZSTD": (apr(METADATA, (), flags=ROW_MAJOR | 0x2), "it is compressed (ZSTD), which cannot be read"),
    "encrypted": (apr(METADATA, (), flags=ROW_MAJOR | 0x4), "it is encrypted, which cannot be read"),
    "sharded": (apr(METADATA, (), flags=ROW_MAJOR | 0x10), "it is one of several files (sharded), which"),
    "columns": (apr(METADATA, (), flags=0x800), "it is in column-major order, which cannot be read"),
    "places": (changed(12, struct.pack("<Q", 65)), "its parts begin at bytes 65"),
    "metadata": (changed(20, struct.pack("<I", 2**31)), "it is cut short, or its parts overlap"),
    "index": (changed(24, struct.pack("<Q", 2**63)), "it is cut short, or its parts overlap"),
    "tensors": (changed(8, struct.pack("<I", 2**32 - 1)), "it has 4294967295 tensors: at most 32768"),
    "one tensor more": (changed(8, struct.pack("<I", len(TENSORS) + 1)), "tensor 7 of the index has a name of 0 bytes"),
    "no JSON": (apr(b"{", ()), "its metadata is not JSON, or cut short"),
    "deep JSON": (apr(b'{"a":' + b"[" * 100_000, ()), "its metadata is nested too deeply"),
    "NaN": (apr(b'{"a": NaN}', ()), "it has the number NaN, which JSON does not have"),
    "long number": (apr(b'{"a": ' + b"1" * 5000 + b"}", ()), "it has a whole number of 5000 digits"),
    "no object": (apr(b"[]", ()), "its metadata is no JSON object"),
    "no text": (apr(b'{"\xff": 0}', ()), "its metadata is not UTF-8 (its byte 2)"),
    "many": (apr(b'{"a":[' + b"0," * 2**19 + b"0]}", ()), "commas, colons and brackets: at most 393216"),
    "long": (apr(b" " * 6 * 2**20 + b"{}", ()), "its metadata has 6291458 bytes: at most 6291456"),
    "no architecture": (apr({"model_type": 3}, ()), "its metadata has no architecture, a string"),
    "number": (apr(METADATA | {"hidden_size": "4"}, ()), "its hidden_size is no number"),
    "rope": (apr(METADATA | {"rope_type": 1}, ()), "its rope_type is 1: 0 (norm) or 2 (neox) is needed"),
    "no name": (one(name=""), "tensor 0 of the index has a name of 0 bytes"),
    "long name": (one(name="n" * 257), "tensor 0 of the index has a name of 257 bytes: 1 to 256"),
    "name's bytes": (changed(INDEX + 2, b"\xff"), "the name of tensor 0 of the index is not UTF-8"),
    "order": (changed(INDEX + 2, b"z"), "the index has to be sorted by name"),
    "twice": (
        apr(METADATA, [Entry(name, F32, (1,), bytes(4)) for name in ("model.norm.weight", "output_norm.weight")]),
        "two of its tensors are 'output_norm.weight': one of them is called 'output_norm.weight'",
    ),
    "dimensions": (one(shape=(1,) * 9), "tensor 'w' has 9 dimensions: at most 8"),
    "sizes": (one(shape=(2**63, 0, 2**63), data=b""), "which no tensor can have"),
    "dtype": (one(dtype=77), "tensor 'w' has dtype 77, which is not known"),
    "AprQ4": (one(dtype=8), "tensor 'w' is in aprender's own format AprQ4 (dtype 8), which is not known"),
    "AprQ8": (one(dtype=129), "tensor 'w' is in aprender's own format AprQ8 (dtype 129), which is not known"),
    "size": (one(data=bytes(15)), "tensor 'w' [4] has 15 bytes: 16 (f32) are needed"),
    "two sizes": (one(dtype=F64), "tensor 'w' [4] has 16 bytes: 32 (f64) or 20 (q4_1) are needed"),
    "offset": (apr(METADATA, TWO, offsets={"b": 132}), "tensor 'b' has offset 132: a multiple of 64"),
    "overlap": (apr(METADATA, TWO, offsets={"b": 64}), "tensors 'a' and 'b' overlap"),
    "end": (apr(METADATA, TWO, offsets={"b": 2**40}), "it is cut short: tensor 'b' ends at byte"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_contradicts_itself_is_one_line(name: str, path: Path) -> None:
    """Each check has its message, which says what, how much, and where."""
    raw, message = BAD[name]
    assert message in error(path, raw)


def test_padding() -> None:
    """The writer of these tests keeps what the format says of places."""
    assert [64, 64, 0] == [len(padded(bytes(count))) for count in (1, 64, 0)]
    assert not INDEX % 64


def test_neither(path: Path) -> None:
    """A file of another kind names both kinds."""
    assert "it begins with b'no m': a GGUF file (b'GGUF') or an .apr file (b'APR\\x00') is needed" == error(
        path, b"no model"
    )


def test_numbers(path: Path) -> None:
    """A number is there, or its default, or one line that says what is missing or what it is."""
    path.write_bytes(apr(METADATA | {"qwen2.flag": True, "qwen2.text": "1", "qwen2.list": [1]}, ()))
    found = model.open(path)
    assert (found.number("block_count"), found.number("expert_count", 7)) == (1, 7)
    for key, message in [
        ("expert_count", "it has no qwen2.expert_count, which a model of the architecture qwen2 needs"),
        ("flag", "qwen2.flag is no number: true or false"),
        ("text", "qwen2.text is no number: a string"),
        ("list", "qwen2.list is no number: an array"),
    ]:
        with pytest.raises(ModelError, match=message):
            found.number(key)
