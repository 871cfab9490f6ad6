"""A small model with random weights, made from a seed, as a GGUF file: what tests run where no real model is at hand.

    random_model.write("qwen2.gguf")                                  # 1.9 MB, always the same bytes
    random_model.write("gemma3.gguf", architecture="gemma3", seed=7)

    qwen2     biases of q, k and v; a head of its own
    llama     rotations of neighbours ("norm"); the head is token_embd
    gemma3    norms of the heads of q and k and after attention and feed-forward; heads wider than the model (512 for
              256); a window of 4 positions in five layers of six, which have another rope base; the head is token_embd

The weights are normal with variance gain^2 / inputs, so that every activation is of order 1 and logits spread over a
few units: attention looks at several positions, and a wrong step changes what comes after it. They are stored in K
formats, several in one file. The vocabulary has the 256 bytes, pairs of letters and an end of text, so that texts can
be tokenised, too.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import attrs
import numpy as np

from diffuzz import formats as block_formats
from diffuzz.formats.tensor_types import BY_NAME

ARCHITECTURES = ("qwen2", "llama", "gemma3")
WIDTH, FEED_FORWARD, CONTEXT, WINDOW, EPS = 256, 512, 512, 4, 1e-6
LETTERS = "etaoinshrdlu"
# Of data in a file that says nothing else.
ALIGNMENT = 32

# By role, the name of a tensor without "blk.L." and ".weight". ffn_down alternates, as in llama.cpp's Q4_K_M.
FORMATS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "token_embd": ("q6_K",),
    "attn_q": ("q4_K",),
    "attn_k": ("q5_K",),
    "attn_v": ("q6_K",),
    "attn_output": ("q4_K",),
    "ffn_gate": ("q4_K",),
    "ffn_up": ("q5_K",),
    "ffn_down": ("q6_K", "q4_K"),
    "output": ("q6_K",),
})  # fmt: skip

# A value of an entry: numpy's scalars say their width. A sequence is an array.
Value: TypeAlias = str | bool | np.uint32 | np.int32 | np.float32 | Sequence[str] | np.ndarray
_VALUE_TYPES = {"uint32": 4, "int32": 5, "float32": 6}
_BOOL, _STRING, _ARRAY = 7, 8, 9


@attrs.frozen
class _Sizes:
    layers: int
    heads: int
    key_heads: int
    head: int
    rope_base: float


_SIZES = {
    "qwen2": _Sizes(layers=4, heads=4, key_heads=2, head=64, rope_base=1e6),
    "llama": _Sizes(layers=3, heads=4, key_heads=2, head=64, rope_base=1e4),
    # llama.cpp has every sixth layer look at all positions, whatever the file says.
    "gemma3": _Sizes(layers=6, heads=8, key_heads=2, head=64, rope_base=1e6),
}


def write(
    path: Path | str,
    *,
    architecture: str = "qwen2",
    seed: int = 0,
    layers: int | None = None,
    formats: Mapping[str, tuple[str, ...]] = FORMATS,
) -> None:
    """Write the model to ``path``; the same arguments give the same bytes.

    ``formats`` gives for each role of FORMATS the formats of its tensors, used in turns by layer: names of
    diffuzz.formats that have a quantiser and blocks that fill rows of 256, or "f32". Raises ValueError for an
    architecture, a number of layers or a format that is none, and OSError where the file cannot be written.
    """
    if architecture not in _SIZES:
        raise ValueError(f"architecture {architecture!r}: {', '.join(ARCHITECTURES)} are possible")
    sizes = _SIZES[architecture]
    if layers is not None:
        if layers < 1:
            raise ValueError(f"layers {layers}: at least 1 is needed")
        sizes = attrs.evolve(sizes, layers=layers)
    _check(formats)
    tokens, merges = _vocabulary()
    rng = np.random.default_rng([seed, ARCHITECTURES.index(architecture)])
    values = _tensors(architecture, sizes, len(tokens), rng)
    stored = {name: _stored(name, array, formats) for name, array in values.items()}
    _write(Path(path), _entries(architecture, sizes, tokens, merges), stored)


def _vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges as byte-level tokenizers have them: a byte that is not printable is a letter from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    letter = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    merges = [f"{letter[32]} {b}" for b in LETTERS] + [f"{a} {b}" for a in LETTERS for b in LETTERS]
    tokens = [letter[byte] for byte in range(256)] + [pair.replace(" ", "") for pair in merges]
    return [*tokens, "<|endoftext|>"], merges


def _entries(architecture: str, sizes: _Sizes, tokens: list[str], merges: list[str]) -> dict[str, Value]:
    end = len(tokens) - 1
    own: dict[str, Value] = {
        "vocab_size": np.uint32(len(tokens)),
        "context_length": np.uint32(CONTEXT),
        "embedding_length": np.uint32(WIDTH),
        "block_count": np.uint32(sizes.layers),
        "feed_forward_length": np.uint32(FEED_FORWARD),
        "attention.head_count": np.uint32(sizes.heads),
        "attention.head_count_kv": np.uint32(sizes.key_heads),
        "attention.key_length": np.uint32(sizes.head),
        "attention.value_length": np.uint32(sizes.head),
        "attention.layer_norm_rms_epsilon": np.float32(EPS),
        "rope.dimension_count": np.uint32(sizes.head),
        "rope.freq_base": np.float32(sizes.rope_base),
    }
    if architecture == "gemma3":
        own |= {"attention.sliding_window": np.uint32(WINDOW), "rope.freq_base_swa": np.float32(1e4)}
    return {
        "general.architecture": architecture,
        "general.name": "random",
        "general.quantization_version": np.uint32(2),
        **{f"{architecture}.{key}": value for key, value in own.items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        # Normal tokens are of type 1, the end of text is a control token, 3.
        "tokenizer.ggml.token_type": np.array([1] * end + [3], np.int32),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": np.uint32(end),
        "tokenizer.ggml.eos_token_id": np.uint32(end),
        "tokenizer.ggml.add_bos_token": False,
    }


def _tensors(architecture: str, sizes: _Sizes, vocabulary: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The values by name, float32[rows, columns] or float32[n], in the order of a file that llama.cpp writes."""
    gemma = architecture == "gemma3"

    def product(rows: int, columns: int, gain: float = 1.0) -> np.ndarray:
        return rng.normal(0, gain / columns**0.5, (rows, columns)).astype(np.float32)

    def gains(n: int) -> np.ndarray:
        return rng.lognormal(0, 0.3, n).astype(np.float32)

    queries, keys = sizes.heads * sizes.head, sizes.key_heads * sizes.head
    # Where the head is token_embd, logits spread over 2; gemma3 multiplies the rows by sqrt(WIDTH) when it reads them.
    tensors = {"token_embd.weight": product(vocabulary, WIDTH, gain=2.0)}
    for layer in range(sizes.layers):
        made = {
            "attn_norm.weight": gains(WIDTH),
            # So that scores spread over 2: some positions matter more than others. Norms of heads undo a gain.
            "attn_q.weight": product(queries, WIDTH, gain=1.5),
            "attn_k.weight": product(keys, WIDTH, gain=1.5),
            "attn_v.weight": product(keys, WIDTH),
            "attn_output.weight": product(WIDTH, queries, gain=0.7),
            "ffn_norm.weight": gains(WIDTH),
            "ffn_gate.weight": product(FEED_FORWARD, WIDTH, gain=1.5),
            "ffn_up.weight": product(FEED_FORWARD, WIDTH),
            "ffn_down.weight": product(WIDTH, FEED_FORWARD, gain=0.7),
        }
        if architecture == "qwen2":
            made |= {
                f"attn_{name}.bias": rng.normal(0, 0.5, n).astype(np.float32)
                for name, n in (("q", queries), ("k", keys), ("v", keys))
            }
        if gemma:
            made |= {
                "attn_q_norm.weight": 1.5 * gains(sizes.head),
                "attn_k_norm.weight": 1.5 * gains(sizes.head),
                "post_attention_norm.weight": gains(WIDTH),
                "post_ffw_norm.weight": gains(WIDTH),
            }
        tensors |= {f"blk.{layer}.{name}": array.astype(np.float32) for name, array in made.items()}
    tensors["output_norm.weight"] = gains(WIDTH)
    if architecture == "qwen2":
        tensors["output.weight"] = product(vocabulary, WIDTH, gain=2.0)
    return tensors


def _check(formats: Mapping[str, tuple[str, ...]]) -> None:
    for role, turns in formats.items():
        if role not in FORMATS:
            raise ValueError(f"formats has {role}: roles are {', '.join(FORMATS)}")
        if not turns:
            raise ValueError(f"formats has none for {role}: at least one is needed")
        for name in turns:
            if name == "f32":
                continue
            format = block_formats.get(name)
            if name not in BY_NAME:
                raise ValueError(f"format {name!r} of {role}: a format of GGUF is needed")
            if format.activation is None or format.quantize is None:
                raise ValueError(f"format {name!r} of {role}: a format of weights is needed that has a quantiser")


def _stored(
    name: str, values: np.ndarray, formats: Mapping[str, tuple[str, ...]]
) -> tuple[str, tuple[int, ...], bytes]:
    """Format, sizes with the innermost first, and bytes."""
    chosen = "f32"
    if values.ndim == 2:
        *place, role, _ = name.split(".")
        turns = formats.get(role, FORMATS[role])
        chosen = turns[int(place[1]) % len(turns) if place else 0]
    if chosen == "f32":
        return chosen, values.shape[::-1], values.tobytes()
    format = block_formats.get(chosen)
    quantise = format.quantize
    assert quantise is not None
    return chosen, values.shape[::-1], quantise(values.reshape(-1, format.block_size)).tobytes()


def _write(path: Path, entries: Mapping[str, Value], tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """Write a GGUF file of version 3; its layout is in diffuzz.models.gguf."""
    header = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(entries))]
    for key, value in entries.items():
        number, content = _value(value)
        header += [_string(key), struct.pack("<I", number), content]
    offset = 0
    for name, (format, shape, content) in tensors.items():
        header += [_string(name), struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, BY_NAME[format].number, offset)]
        offset += len(content) + -len(content) % ALIGNMENT
    start = b"".join(header)
    with open(path, "wb") as file:
        file.write(start + bytes(-len(start) % ALIGNMENT))
        for _, _, content in tensors.values():
            file.write(content + bytes(-len(content) % ALIGNMENT))


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> tuple[int, bytes]:
    """The number of the type of a value, and its bytes."""
    if isinstance(value, str):
        return _STRING, _string(value)
    if isinstance(value, bool):
        return _BOOL, bytes([value])
    if isinstance(value, np.generic):
        return _VALUE_TYPES[value.dtype.name], value.tobytes()
    if isinstance(value, np.ndarray):
        return _ARRAY, struct.pack("<IQ", _VALUE_TYPES[value.dtype.name], value.size) + value.tobytes()
    return _ARRAY, struct.pack("<IQ", _STRING, len(value)) + b"".join(map(_string, value))
