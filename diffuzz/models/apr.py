"""Models of aprender, .apr files of version 2, with the names and keys of GGUF.

    model = apr.read("model.apr")
    model.number("attention.head_count"), model.tensors["blk.0.attn_q.weight"].values()

A file is, in little-endian numbers, every part beginning at a multiple of 64 bytes:

    header     64 bytes: "APR\\0", u8 2, u8 0, u16 flags, u32 tensors, u64 offset (64) and u32 bytes of the metadata,
               u64 offset of the index, u64 offset of the data, u32 CRC-32 of the other 60 bytes, 20 bytes of 0
    metadata   a JSON object
    index      tensors, sorted by the bytes of their names: u16 length, name, u8 dtype, u8 dimensions, u64 each (the
               outermost first), u64 offset from the beginning of the data, u64 bytes
    data       the tensors, each at a multiple of 64
    footer     u32 CRC-32 of all before it

A row of a quantised tensor is padded to whole blocks on its own. Both checksums are checked, so opening reads the whole
file once. What is compressed, encrypted, in several files or in column-major order is refused by name.

Names are those of Hugging Face (model.layers.0.self_attn.q_proj.weight) or of GGUF; the first become the second. So do
the keys of the metadata; the others stay as they are. rope_type, which GGUF has no key for, becomes
"<architecture>.rope.type": 0 for pairs of neighbours (norm) and 2 for halves (neox). A file that has none leaves it to
the architecture.

Source: aprender's readers and writer, aprender-core/src/format/v2 and aprender-serve/src/apr. The core reader and the
serve reader understand dtypes 3, 6, 7 and 13 differently: here the size of the tensor decides, which no two of their
meanings share.
"""

from __future__ import annotations

import mmap
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np

from diffuzz.models import json_text
from diffuzz.models.mapped import Cursor, mapped, shown
from diffuzz.models.model import Model, ModelError, Tensor, block_of

MAGIC = b"APR\0"
ALIGNMENT = 64
MOST_TENSORS, LONGEST_NAME, MOST_DIMENSIONS, MOST_ELEMENTS = 2**15, 256, 8, 2**60
_HEADER = struct.Struct("<4sBBHIQIQQI20s")
_CHECKSUM = struct.Struct("<I")
# Where the header has its own checksum.
_OWN = slice(40, 44)
_REFUSED = {
    0x1: "compressed (LZ4)", 0x2: "compressed (ZSTD)", 0x4: "encrypted", 0x10: "one of several files (sharded)",
    0x800: "in column-major order",
}  # fmt: skip
_KNOWN_FLAGS = 0xFFF
# The meanings that a dtype has in one reader or the other.
_FORMATS: Mapping[int, tuple[str, ...]] = {
    0: ("f32",), 1: ("f16",), 2: ("q4_0",), 3: ("f64", "q4_1"), 4: ("i32",), 5: ("i64",), 6: ("i8", "q5_0"),
    7: ("u8", "q5_1"), 12: ("q4_K",), 13: ("q5_K", "q4_K"), 14: ("q6_K",), 30: ("bf16",),
}  # fmt: skip
# Formats of aprender's own.
_OWN_FORMATS = {8: "AprQ4", 128: "AprQ4", 9: "AprQ8", 129: "AprQ8"}

# Keys of GGUF after the architecture's name, by those of the metadata.
_KEYS: Mapping[str, tuple[str, ...]] = {
    "hidden_size": ("embedding_length",),
    "num_layers": ("block_count",),
    "num_heads": ("attention.head_count",),
    "num_kv_heads": ("attention.head_count_kv",),
    "head_dim": ("attention.key_length", "attention.value_length"),
    "intermediate_size": ("feed_forward_length",),
    "vocab_size": ("vocab_size",),
    "max_position_embeddings": ("context_length",),
    "rope_theta": ("rope.freq_base",),
    "rope_type": ("rope.type",),
    "rms_norm_eps": ("attention.layer_norm_rms_epsilon",),
    "num_experts": ("expert_count",),
}
_ROPE_TYPES = (0, 2)
_HEAD = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_LAYER = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
# Gemma has norms after the attention and the feed-forward part as well, and other names for those before.
_LAYER_OF_GEMMA = _LAYER | {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
_IN_LAYER = re.compile(r"(?:model\.)?layers\.(?P<layer>\d+)\.(?P<part>.+)\.(?P<kind>weight|bias)", re.ASCII)
_CLASS = re.compile(r"For(?:CausalLM|ConditionalGeneration)$")


def read(path: Path | str) -> Model:
    """The model in the .apr file at ``path``, checked: see the module's docstring.

    Raises ModelError for a file that is not what it should be, and OSError for one that cannot be opened.
    """
    path = Path(path)
    return parse(path, mapped(path))


def parse(path: Path, file: mmap.mmap) -> Model:
    """The same of a file that is mapped already."""
    header = _header(file)
    found = json_text.parsed(file[ALIGNMENT : ALIGNMENT + header.metadata], "its metadata", repeated=True)
    metadata = _metadata(found)
    architecture = str(metadata["general.architecture"])
    tensors: dict[str, Tensor] = {}
    for entry in _placed(_index(file, header), header, len(file) - _CHECKSUM.size):
        name = _gguf_name(entry.name, architecture)
        if name in tensors:
            raise ModelError(f"two of its tensors are {shown(name)}: one of them is called {shown(entry.name)}")
        data = np.frombuffer(file, np.uint8, entry.nbytes, header.data + entry.offset)
        tensors[name] = Tensor(name, entry.format, entry.shape, data)
    return Model(path, architecture, MappingProxyType(metadata), MappingProxyType(tensors), (file,))


@attrs.frozen
class _Header:
    """The number of tensors, the bytes of the metadata, and where index and data begin."""

    tensors: int
    metadata: int
    index: int
    data: int


def _header(file: mmap.mmap) -> _Header:
    magic = file[:4]
    if magic != MAGIC:
        older = magic[:3] == MAGIC[:3] and magic[3:].isalnum()
        what = f"an .apr file of the kind {magic!r}" if older else f"no .apr file: it begins with {magic!r}"
        raise ModelError(f"it is {what}, where {MAGIC!r} is needed")
    end = len(file) - _CHECKSUM.size
    if end < _HEADER.size:
        raise ModelError(f"it is cut short: it has {len(file)} bytes, and the header and the footer take 68")
    _, major, minor, flags, tensors, start, size, index, data, checksum, reserved = _HEADER.unpack_from(file)
    if (major, minor) != (2, 0):
        raise ModelError(f"it is of version {major}.{minor}: 2.0 is needed")
    raw = file[: _HEADER.size]
    if zlib.crc32(raw[: _OWN.start] + raw[_OWN.stop :]) != checksum:
        raise ModelError("its header is damaged: it does not have the checksum that it says")
    for flag, meaning in _REFUSED.items():
        if flags & flag:
            raise ModelError(f"it is {meaning}, which cannot be read")
    if flags & ~_KNOWN_FLAGS or any(reserved):
        raise ModelError(f"its header says something that is not known (flags {flags:#x}, reserved {reserved.hex()})")
    if start != ALIGNMENT or index % ALIGNMENT or data % ALIGNMENT:
        raise ModelError(f"its parts begin at bytes {start}, {index} and {data}: 64 and two multiples of it are needed")
    if not start + size <= index <= data <= end:
        raise ModelError(
            f"it is cut short, or its parts overlap: the metadata ends at byte {start + size}, the index begins at "
            f"{index}, the data at {data}, and the footer at {end}"
        )
    if tensors > MOST_TENSORS:
        raise ModelError(f"it has {tensors} tensors: at most {MOST_TENSORS} can be read")
    with memoryview(file) as view:
        if zlib.crc32(view[:end]) != _CHECKSUM.unpack_from(file, end)[0]:
            raise ModelError("it is damaged or cut short: it does not have the checksum that is at its end")
    return _Header(tensors, size, index, data)


def _metadata(found: dict[str, Any]) -> dict[str, object]:
    """The metadata by GGUF's keys. What is null is not there."""
    found = {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
    found = {key: value for key, value in found.items() if value is not None}
    architecture = found.pop("architecture", found.get("model_type"))
    if not isinstance(architecture, str) or not architecture:
        raise ModelError("its metadata has no architecture, a string, which every model needs")
    # Some writers have the name of the class (Qwen2ForCausalLM).
    architecture = _CLASS.sub("", architecture).lower()
    metadata: dict[str, object] = {"general.architecture": architecture}
    if isinstance(found.get("name"), str):
        metadata["general.name"] = found.pop("name")
    for key, names in _KEYS.items():
        if key not in found:
            continue
        value = found.pop(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelError(f"its {key} is no number")
        if key == "rope_type" and value not in _ROPE_TYPES:
            raise ModelError(f"its rope_type is {value}: 0 (norm) or 2 (neox) is needed")
        metadata |= {f"{architecture}.{name}": value for name in names}
    return found | metadata


def _gguf_name(name: str, architecture: str) -> str:
    """The name of a tensor in a GGUF file; one that is not known stays as it is."""
    stem, _, kind = name.rpartition(".")
    for theirs, ours in _HEAD.items():
        if kind in ("weight", "bias") and stem in (theirs, theirs.removeprefix("model.")):
            return f"{ours}.{kind}"
    found = _IN_LAYER.fullmatch(name)
    parts = _LAYER_OF_GEMMA if architecture.startswith("gemma") else _LAYER
    if found is None or found["part"] not in parts:
        return name
    return f"blk.{int(found['layer'])}.{parts[found['part']]}.{found['kind']}"


@attrs.frozen
class _Entry:
    """What the index says of a tensor; ``offset`` from the beginning of the data."""

    name: str
    format: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def _index(file: mmap.mmap, header: _Header) -> list[_Entry]:
    cursor, entries, last = Cursor(file, header.index, header.data), [], b""
    for number in range(header.tensors):
        what = f"tensor {number} of the index"
        length = cursor.u16(what)
        if not 0 < length <= LONGEST_NAME:
            raise ModelError(f"{what} has a name of {length} bytes: 1 to {LONGEST_NAME} are needed")
        name = cursor.text(length, f"the name of {what}")
        what = f"tensor {shown(name)}"
        if name.encode() <= last:
            raise ModelError(f"{what} comes after {shown(last.decode())}: the index has to be sorted by name")
        last = name.encode()
        dtype, dimensions = cursor.u8(what), cursor.u8(what)
        if dimensions > MOST_DIMENSIONS:
            raise ModelError(f"{what} has {dimensions} dimensions: at most {MOST_DIMENSIONS} are possible")
        fields = struct.Struct(f"<{dimensions}QQQ")
        *shape, offset, nbytes = fields.unpack_from(file, cursor.skip(fields.size, what))
        most = 1
        for size in shape:
            most *= max(size, 1)
        if most >= MOST_ELEMENTS:
            raise ModelError(f"{what} has the dimensions {'x'.join(map(str, shape))}, which no tensor can have")
        if offset % ALIGNMENT:
            raise ModelError(f"{what} has offset {offset}: a multiple of {ALIGNMENT} is needed")
        entries.append(_Entry(name, _format(dtype, tuple(shape), nbytes, what), tuple(shape), offset, nbytes))
    return entries


def _format(dtype: int, shape: tuple[int, ...], nbytes: int, what: str) -> str:
    """The format among the meanings of a dtype that takes so many bytes."""
    if dtype in _OWN_FORMATS:
        raise ModelError(
            f"{what} is in aprender's own format {_OWN_FORMATS[dtype]} (dtype {dtype}), which is not known"
        )
    if dtype not in _FORMATS:
        raise ModelError(f"{what} has dtype {dtype}, which is not known")
    sizes = {name: _nbytes(name, shape) for name in _FORMATS[dtype]}
    for name, size in sizes.items():
        if size == nbytes:
            return name
    needed = " or ".join(f"{size} ({name})" for name, size in sizes.items())
    raise ModelError(f"{what} {list(shape)} has {nbytes} bytes: {needed} are needed")


def _nbytes(format: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor, each row of which is whole blocks."""
    elements, size = block_of(format)
    *outer, row = shape or (1,)
    total = -(-row // elements) * size
    for count in outer:
        total *= count
    return total


def _placed(entries: list[_Entry], header: _Header, end: int) -> list[_Entry]:
    """The tensors in their order, if each is within the data and clear of the others."""
    last: _Entry | None = None
    for entry in sorted(entries, key=lambda one: one.offset):
        stop = header.data + entry.offset + entry.nbytes
        if stop > end:
            raise ModelError(
                f"it is cut short: tensor {shown(entry.name)} ends at byte {stop}, where the data at {end}"
            )
        if last is not None and entry.nbytes and entry.offset < last.offset + last.nbytes:
            raise ModelError(f"tensors {shown(last.name)} and {shown(entry.name)} overlap")
        last = entry if entry.nbytes else last
    return entries
