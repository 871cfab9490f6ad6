"""How llama.cpp's structures lie in memory, which changes from build to build: found out from what they hold.

    parameters = recognised(CONTEXT, filled)     # filled: bytes of llama_context_default_params()
    parameters.type_k = 0

A build says nothing of its layout, so a structure is taken for one that is known only if every field of it holds its
default. A layout is the list of the fields that there have been, in their order; those marked with "*" are not in all
builds, and any of them may be missing. Where several layouts fit, they must agree about the place of each field that is
going to be set; otherwise, and where none fits, the build is refused. Fields after the last of the list keep what they
hold.

Source: include/llama.h and ggml/include/ggml.h of llama.cpp; tried with xllamacpp 0.2.4 to 2026.10 and llama-cpp-python
0.3.36.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias

# Name, type and defaults; a name that begins with "*" may be missing.
Field: TypeAlias = tuple[str, Any, tuple[float | None, ...]]

# Room for a structure that has grown at its end. The callee copies as much of it as it knows.
ROOM = 512

_u32, _i32, _f32, _bool, _pointer = ctypes.c_uint32, ctypes.c_int32, ctypes.c_float, ctypes.c_bool, ctypes.c_void_p

MODEL: Sequence[Field] = (
    ("devices", _pointer, (None,)),
    ("tensor_buft_overrides", _pointer, (None,)),
    ("n_gpu_layers", _i32, (-1, 0, 999)),
    ("split_mode", _i32, (1,)),
    ("*load_mode", _i32, (-1,)),
    ("*lazy_mode", _i32, (1,)),
    ("main_gpu", _i32, (0,)),
    ("tensor_split", _pointer, (None,)),
    ("progress_callback", _pointer, (None,)),
    ("progress_callback_user_data", _pointer, (None,)),
    ("kv_overrides", _pointer, (None,)),
    ("vocab_only", _bool, (0,)),
    ("*use_mmap", _bool, (1,)),
    ("*use_direct_io", _bool, (0, 1)),
    ("*use_mlock", _bool, (0,)),
    ("check_tensors", _bool, (0,)),
    ("use_extra_bufts", _bool, (1,)),
)

CONTEXT: Sequence[Field] = (
    ("n_ctx", _u32, (512,)),
    ("n_batch", _u32, (2048,)),
    ("n_ubatch", _u32, (512,)),
    ("n_seq_max", _u32, (1,)),
    ("*n_rs_seq", _u32, (0,)),
    ("*n_outputs_max", _u32, (0,)),
    ("*n_outputs_max_per_seq", _u32, (1,)),
    ("n_threads", _i32, (4,)),
    ("n_threads_batch", _i32, (4,)),
    ("*ctx_type", _i32, (0,)),
    ("rope_scaling_type", _i32, (-1,)),
    ("pooling_type", _i32, (-1,)),
    ("attention_type", _i32, (-1,)),
    ("flash_attn_type", _i32, (-1,)),
    ("rope_freq_base", _f32, (0,)),
    ("rope_freq_scale", _f32, (0,)),
    ("yarn_ext_factor", _f32, (-1,)),
    ("yarn_attn_factor", _f32, (-1, 1)),
    ("yarn_beta_fast", _f32, (-1, 32)),
    ("yarn_beta_slow", _f32, (-1, 1)),
    ("yarn_orig_ctx", _u32, (0,)),
    ("defrag_thold", _f32, (-1,)),
    ("cb_eval", _pointer, (None,)),
    ("cb_eval_user_data", _pointer, (None,)),
    ("type_k", _i32, (1,)),
    ("type_v", _i32, (1,)),
    ("abort_callback", _pointer, (None,)),
    ("abort_callback_data", _pointer, (None,)),
    # What it is for is not known; b11549 has it.
    ("*another", _pointer, (None,)),
    ("embeddings", _bool, (0,)),
    ("offload_kqv", _bool, (1,)),
    ("no_perf", _bool, (1,)),
    ("op_offload", _bool, (1,)),
    ("swa_full", _bool, (1,)),
    ("kv_unified", _bool, (0,)),
)


class LayoutError(ValueError):
    """A structure that does not read as one that is known."""


class Batch(ctypes.Structure):
    """llama_batch: see llama_batch_init."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


class Tensor(ctypes.Structure):
    """ggml_tensor up to its name."""

    _fields_ = (
        ("type", ctypes.c_int32),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int32),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    )


class Bytes(ctypes.Structure):
    """Any structure."""

    _fields_ = (("bytes", ctypes.c_uint8 * ROOM),)


def recognised(layout: Sequence[Field], filled: Bytes, setting: Sequence[str], what: str) -> ctypes.Structure:
    """A copy of ``filled`` in the one layout that it can have, so far as the fields of ``setting`` are concerned.

    Raises LayoutError, one line that begins with ``what``, where there is none or more than one.
    """
    optional = [name for name, _, _ in layout if name.startswith("*")]
    found: dict[tuple[int, ...], ctypes.Structure] = {}
    for present in itertools.product((True, False), repeat=len(optional)):
        missing = {name for name, there in zip(optional, present, strict=True) if not there}
        fields = [(name.lstrip("*"), kind, defaults) for name, kind, defaults in layout if name not in missing]
        read = _kind(fields).from_buffer_copy(filled)
        if all(getattr(read, name) in defaults for name, _, defaults in fields):
            places = tuple(getattr(type(read), name).offset for name in setting)
            found.setdefault(places, read)
    if len(found) != 1:
        why = "does not read as any that is known" if not found else "can be read in more than one way"
        raise LayoutError(f"{what} {why}")
    return next(iter(found.values()))


def _kind(fields: Sequence[Field]) -> type[ctypes.Structure]:
    own = [(name, kind) for name, kind, _ in fields]
    # Two steps, because the size of the fields is not known before they are placed.
    size = ctypes.sizeof(type("Fields", (ctypes.Structure,), {"_fields_": own}))
    return type("Parameters", (ctypes.Structure,), {"_fields_": [*own, ("rest", ctypes.c_uint8 * (ROOM - size))]})
