"""Dumps: what an engine wrote of one run of one model over one sequence of tokens (docs/dump-format.md).

    dump = read("run.safetensors")                  # or an .npz with the same names
    dump.tokens, dump.taps["blk.0.attn_norm"]       # int32[n], float32[n, d]
    check_against(dump, model)                      # raises ModelError: "blk.0.q has 577 columns, where ..."
    write("copy.safetensors", dump)

A dump is somebody else's, as a model is: lengths, places, types and shapes are held against the file and against each
other before anything is used. Arrays are mapped and read where they are looked at. NaN and infinity are findings and
no errors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from diffuzz.models import arrays_file
from diffuzz.models.arrays_file import TYPES, Array
from diffuzz.models.mapped import mapped, shown
from diffuzz.models.model import Model, ModelError

if TYPE_CHECKING:
    from jaxtyping import Int32

FORMAT, VERSION = "diffuzz-dump", "1"
REQUIRED = ("format", "version", "engine", "arch")
LAYOUTS = ("norm", "neox")
_FLOATS = tuple(TYPES[name] for name in ("F32", "F16", "BF16", "F64"))
_INTEGERS = TYPES["I32"]
_NUMBER = r"(?:0|[1-9]\d{0,5})"

# The shape of each tap by name: n tokens, d width, H heads, G heads of keys, c and w widths of a head of keys and of
# values, f feed-forward width, V vocabulary, P keys, p past. Dimensions in one word may be one or several.
TAPS: Mapping[str, str] = {
    "embd": "n d", "final_norm": "n d", "logits": "n V",
}  # fmt: skip
LAYER_TAPS: Mapping[str, str] = {
    "attn_norm": "n d", "q": "n H*c", "k": "n G*c", "v": "n G*w", "qkv": "n qkv",
    "q_norm": "n H*c", "k_norm": "n G*c", "q_rope": "n H*c", "k_rope": "n G*c",
    "scores": "H n P", "probs": "H n P", "attn": "n H*w", "attn_out": "n d", "attn_post_norm": "n d",
    "ffn_inp": "n d", "ffn_norm": "n d", "gate": "n f", "up": "n f", "gate_up": "n gate_up", "glu": "n f",
    "down": "n d", "ffn_post_norm": "n d", "l_out": "n d", "k_past": "p G*c", "v_past": "p G*w",
}  # fmt: skip
_PAST = ("k_past", "v_past")
_LAYER = re.compile(rf"blk\.(?P<layer>{_NUMBER})\.(?P<tap>[a-z_]+)", re.ASCII)


@attrs.frozen(eq=False)
class Dump:
    """The arrays of a run.

    ``metadata`` strings by key: format, version, engine, arch and those that may be missing. ``taps`` by name, in
    float32, float16, bfloat16 (of ml_dtypes) or float64, k_past and v_past among them; ``rows`` by the name of the tap,
    the tokens that it exists for, where these are not all. ``unknown`` has the names that are not understood.
    """

    metadata: Mapping[str, str]
    tokens: Int32[np.ndarray, " n"]
    positions: Int32[np.ndarray, " n"]
    taps: Mapping[str, np.ndarray]
    rows: Mapping[str, Int32[np.ndarray, " r"]] = attrs.field(factory=dict)
    unknown: tuple[str, ...] = ()


def shape_of(tap: str) -> str | None:
    """The shape of a tap of that name, as in TAPS; None for a name that is not understood."""
    if tap in TAPS:
        return TAPS[tap]
    found = _LAYER.fullmatch(tap)
    return LAYER_TAPS.get(found["tap"]) if found else None


def layer_of(tap: str) -> int | None:
    """The layer of a tap; None outside layers."""
    found = _LAYER.fullmatch(tap)
    return int(found["layer"]) if found else None


def read(path: Path | str) -> Dump:
    """The dump in a .safetensors or an .npz file, by its first bytes.

    Raises ModelError for one that is not as docs/dump-format.md says, and OSError for one that cannot be opened.
    """
    file = mapped(path)
    metadata, arrays = arrays_file.read(file)
    _check_metadata(metadata)
    if "tokens" not in arrays:
        raise ModelError("it has no array tokens, int32[n], which every dump needs")
    tokens = arrays["tokens"].get()
    rows, taps, unknown = {}, {}, []
    for name, array in arrays.items():
        tap = name.removesuffix(".rows")
        if name in ("tokens", "positions"):
            continue
        if shape_of(tap) is None:
            unknown.append(name)
        elif tap == name:
            taps[name] = array
        else:
            rows[tap] = array.get()
    positions = arrays["positions"].get() if "positions" in arrays else np.arange(len(tokens), dtype=np.int32)
    dump = Dump(metadata, tokens, positions, _Taps(taps), rows, tuple(unknown))
    _check(dump, {name: (array.dtype, array.shape) for name, array in taps.items()})
    return dump


@attrs.frozen(eq=False)
class _Taps(Mapping[str, np.ndarray]):
    """The taps of a file by name."""

    _arrays: dict[str, Array]

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name].get()

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def _check_metadata(metadata: Mapping[str, str]) -> None:
    for key in REQUIRED:
        if not metadata.get(key):
            raise ModelError(f"its metadata has no {key}: {', '.join(REQUIRED)} are needed")
    if metadata["format"] != FORMAT:
        raise ModelError(f"its format is {shown(metadata['format'])}, where '{FORMAT}' is needed")
    if metadata["version"] != VERSION:
        raise ModelError(f"it is of version {shown(metadata['version'])}: only '{VERSION}' can be read")
    if metadata.get("rope_layout", LAYOUTS[0]) not in LAYOUTS:
        raise ModelError(f"its rope_layout is {shown(metadata['rope_layout'])}: {' or '.join(LAYOUTS)} is needed")
    if "model_sha256" in metadata and not re.fullmatch(r"[0-9a-f]{64}", metadata["model_sha256"], re.ASCII):
        raise ModelError("its model_sha256 is no SHA-256: 64 small hexadecimal digits are needed")


def _check(dump: Dump, kinds: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> None:
    """What can be checked without the model: types, and the dimensions that are numbers of tokens."""
    count = len(_integers(dump.tokens, "tokens", None))
    if not count:
        raise ModelError("it has no tokens: at least one is needed, and five or more are better")
    if dump.tokens.min() < 0:
        raise ModelError(f"tokens has {dump.tokens.min()}, which no token can be")
    if _integers(dump.positions, "positions", count).min() < 0:
        raise ModelError(f"positions has {dump.positions.min()}, which no position can be")
    if (np.diff(dump.positions.astype(np.int64)) <= 0).any():
        raise ModelError("positions have to rise from each token to the next")
    for tap, rows in dump.rows.items():
        _integers(rows, f"{tap}.rows", None)
        if not len(rows):
            raise ModelError(f"{tap}.rows names no token: leave {tap} out")
        if tap not in kinds:
            raise ModelError(f"{tap}.rows has no {tap} beside it")
        if len(rows) and (rows.min() < 0 or rows.max() >= count or len(np.unique(rows)) != len(rows)):
            raise ModelError(f"{tap}.rows has to name different tokens of 0 to {count - 1}")
    for tap, (dtype, shape) in kinds.items():
        _check_tap(dump, tap, dtype, shape, kinds)


def _integers(array: np.ndarray, name: str, count: int | None) -> np.ndarray:
    if array.dtype != _INTEGERS or array.ndim != 1 or (count is not None and len(array) != count):
        raise ModelError(
            f"{name} is {array.dtype}{list(array.shape)}, where int32[{'n' if count is None else count}] is needed"
        )
    return array


def _check_tap(
    dump: Dump,
    tap: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    kinds: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
) -> None:
    if dtype not in _FLOATS:
        raise ModelError(f"{tap} is {dtype}{list(shape)}: float32, float16, bfloat16 or float64 is needed")
    words = (shape_of(tap) or "").split()
    if len(shape) != len(words) and not ("*" in words[-1] and len(shape) == len(words) + 1):
        raise ModelError(f"{tap} has {len(shape)} dimensions {list(shape)}, where [{', '.join(words)}] is needed")
    rows = len(dump.rows[tap]) if tap in dump.rows else len(dump.tokens)
    if "n" in words and shape[words.index("n")] != rows:
        raise ModelError(f"{tap} is {list(shape)}, where [{', '.join(words)}] with n = {rows} tokens is needed")
    if words[-1] == "P":
        past = kinds.get(tap.rpartition(".")[0] + ".k_past")
        keys = len(dump.tokens) + (past[1][0] if past and past[1] else 0)
        if shape[-1] < keys or (past and shape[-1] != keys):
            raise ModelError(f"{tap} is {list(shape)}, where [{', '.join(words)}] with P = {keys} keys is needed")
    for name in _PAST:
        stem = tap.rpartition(".")[0]
        if tap.endswith(f".{name}"):
            other = kinds.get(f"{stem}.{_PAST[1 - _PAST.index(name)]}")
            if tap in dump.rows:
                raise ModelError(f"{tap}.rows: a cache has no rows of tokens")
            if other is None or other[1][:1] != shape[:1]:
                raise ModelError(f"{tap} has {shape[0]} keys, and {stem} has not as many in both k_past and v_past")


def check_against(dump: Dump, model: Model) -> None:
    """Raise ModelError, one line that names the array, unless the dump can be one of this model.

    Compared are the architecture, the SHA-256 of the file if the dump has it, tokens and positions with the vocabulary
    and the context, layers with their number, and each shape with the numbers of the model.
    """
    arch = dump.metadata["arch"]
    if arch != model.architecture:
        raise ModelError(
            f"it is a dump of the architecture {shown(arch)}, and the model is {shown(model.architecture)}"
        )
    sha256 = dump.metadata.get("model_sha256")
    if sha256 is not None and sha256 != model.sha256:
        raise ModelError(
            f"it is a dump of another model: its model_sha256 is {sha256[:12]}..., the file's {model.sha256[:12]}..."
        )
    sizes = sizes_of(model)
    if dump.tokens.max() >= sizes["V"]:
        raise ModelError(f"tokens has {dump.tokens.max()}: the model's vocabulary has 0 to {sizes['V'] - 1}")
    context = model.number("context_length", math.inf)
    if len(dump.tokens) > context or dump.positions.max() >= context:
        raise ModelError(
            f"it has {len(dump.tokens)} tokens up to position {dump.positions.max()}: the model's context has {context}"
        )
    layers = model.number("block_count")
    for tap in dump.taps:
        layer = layer_of(tap)
        if layer is not None and layer >= layers:
            raise ModelError(f"{tap}: the model has layers 0 to {layers - 1}")
        _check_shape(tap, _shape(dump.taps, tap), sizes)


def _shape(taps: Mapping[str, np.ndarray], tap: str) -> tuple[int, ...]:
    """The shape of a tap, which is not unpacked for it."""
    return taps._arrays[tap].shape if isinstance(taps, _Taps) else taps[tap].shape


def sizes_of(model: Model) -> dict[str, int]:
    """The dimensions of a model by the letters of TAPS. Raises ModelError where one is missing or cannot be one."""
    numbers = {
        "d": model.number("embedding_length"),
        "H": (heads := model.number("attention.head_count")),
        "G": model.number("attention.head_count_kv", heads),
        "f": model.number("feed_forward_length"),
    }
    sizes = {letter: _size(number, letter) for letter, number in numbers.items()}
    even = sizes["d"] / sizes["H"]
    sizes["c"] = _size(model.number("attention.key_length", even), "c")
    sizes["w"] = _size(model.number("attention.value_length", even), "w")
    if "token_embd.weight" not in model.tensors:
        raise ModelError("the model has no tensor token_embd.weight")
    sizes["V"] = model.tensors["token_embd.weight"].rows
    sizes["qkv"] = sizes["H"] * sizes["c"] + sizes["G"] * (sizes["c"] + sizes["w"])
    sizes["gate_up"] = 2 * sizes["f"]
    return sizes


_MEANINGS = {
    "d": "embedding_length", "H": "attention.head_count", "G": "attention.head_count_kv", "f": "feed_forward_length",
    "c": "attention.key_length, or else embedding_length / attention.head_count,",
    "w": "attention.value_length, or else embedding_length / attention.head_count,",
}  # fmt: skip


def _size(number: int | float, letter: str) -> int:
    if number != number or number < 1 or number >= 2**32 or number != int(number):
        raise ModelError(f"the model's {_MEANINGS[letter]} is {number}: a whole number from 1 up is needed")
    return int(number)


def _check_shape(tap: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> None:
    """Raise ModelError where a dimension is not that of the model; the dimensions n, P and p are the dump's own."""
    words = (shape_of(tap) or "").split()
    for index, word in enumerate(words):
        if word in "nPp":
            continue
        parts = word.split("*")
        # [n, H, c] and [n, H c] are the same.
        needed = [sizes[part] for part in parts]
        found = list(shape[index:]) if len(parts) > 1 else [shape[index]]
        if found not in (needed, [math.prod(needed)]):
            names = ", ".join(f"{part} = {sizes[part]}" for part in parts)
            raise ModelError(f"{tap} is {list(shape)}, where [{', '.join(words)}] with {names} is needed")


def write(path: Path | str, dump: Dump) -> None:
    """Write a dump as a .safetensors file, beside its place first, and rename it into it.

    Raises ModelError for a dump that could not be read again, and OSError where it cannot be written (no space left).
    """
    path = Path(path)
    arrays: dict[str, np.ndarray] = {"tokens": dump.tokens, "positions": dump.positions}
    arrays |= {tap: np.asarray(dump.taps[tap]) for tap in dump.taps}
    if unknown := [tap for tap in dump.taps if shape_of(tap) is None]:
        raise ModelError(f"{shown(unknown[0])} is no name of a tap")
    _check_metadata(arrays_file.strings(dict(dump.metadata)))
    _check(dump, {tap: (arrays[tap].dtype, arrays[tap].shape) for tap in dump.taps})
    arrays |= {f"{tap}.rows": rows for tap, rows in dump.rows.items()}
    arrays_file.write(path, dump.metadata, arrays)
