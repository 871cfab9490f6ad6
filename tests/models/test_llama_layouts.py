"""Structures of llama.cpp, recognised by their defaults, and nodes by their names; without the library."""

import ctypes
from collections.abc import Sequence

import pytest

from diffuzz.models.process.llama_layouts import CONTEXT, MODEL, Bytes, Field, LayoutError, recognised
from diffuzz.models.process.llama_nodes import Nodes


def filled(layout: Sequence[Field], without: Sequence[str] = (), **others: float) -> Bytes:
    """A structure of the fields that are not in ``without``, with the last of their defaults, or ``others``."""
    there = [(name.lstrip("*"), *rest) for name, *rest in layout if name.lstrip("*") not in without]
    kind = type("Filled", (ctypes.Structure,), {"_fields_": [(name, type) for name, type, _ in there]})
    value = kind(**{name: others.get(name, defaults[-1]) for name, _, defaults in there})
    result = Bytes()
    # What comes after it is not its own.
    ctypes.memset(ctypes.addressof(result), 0xA5, ctypes.sizeof(result))
    ctypes.memmove(ctypes.addressof(result), ctypes.addressof(value), ctypes.sizeof(value))
    return result


# Fields that builds did not have, from the newest to that of xllamacpp 0.2.4.
CONTEXTS = [
    (),
    ("another",),
    ("another", "n_outputs_max_per_seq"),
    ("another", "n_outputs_max_per_seq", "n_outputs_max"),
]
CONTEXTS += [("another", "n_outputs_max_per_seq", "n_outputs_max", "n_rs_seq", "ctx_type")]
MODELS = [("use_mmap", "use_direct_io", "use_mlock"), ("lazy_mode", "use_mmap", "use_direct_io", "use_mlock")]
MODELS += [("load_mode", "lazy_mode"), ("load_mode", "lazy_mode", "use_direct_io")]


@pytest.mark.parametrize("without", CONTEXTS)
def test_contexts_are_recognised(without: tuple[str, ...]) -> None:
    """A field is set where that build has it."""
    given = filled(CONTEXT, without)
    setting = ("n_threads", "cb_eval", "type_k", "op_offload")
    parameters = recognised(CONTEXT, given, setting, "it")
    parameters.type_k, parameters.n_threads = 0, 2
    assert bytes(filled(CONTEXT, without, type_k=0, n_threads=2)) == bytes(parameters)


@pytest.mark.parametrize("without", MODELS)
def test_models_are_recognised(without: tuple[str, ...]) -> None:
    """A field is set where that build has it."""
    parameters = recognised(MODEL, filled(MODEL, without), ("n_gpu_layers", "use_extra_bufts"), "it")
    parameters.n_gpu_layers, parameters.use_extra_bufts = 0, False
    assert bytes(filled(MODEL, without, n_gpu_layers=0, use_extra_bufts=0)) == bytes(parameters)


@pytest.mark.parametrize("field", [name.lstrip("*") for name, kind, _ in CONTEXT if kind is not ctypes.c_void_p])
def test_another_default_is_refused(field: str) -> None:
    """Where any field does not hold its default, the layout is none that is known."""
    kind = {name.lstrip("*"): kind for name, kind, _ in CONTEXT}[field]
    kinds_of_booleans = kind is ctypes.c_bool
    current = {name.lstrip("*"): defaults for name, _, defaults in CONTEXT}[field][-1]
    given = filled(CONTEXT, **{field: (not current) if kinds_of_booleans else 77})
    with pytest.raises(LayoutError, match="it does not read as any that is known"):
        recognised(CONTEXT, given, ("type_k",), "it")


def test_an_ambiguous_layout_is_refused() -> None:
    """Two layouts that fit and put a field at different places are told apart by nothing."""
    layout = (("first", ctypes.c_int32, (0,)), ("*second", ctypes.c_int32, (0,)), ("third", ctypes.c_int32, (0,)))
    given = Bytes()
    assert recognised(layout, given, ("first",), "it").first == 0
    with pytest.raises(LayoutError, match="it can be read in more than one way"):
        recognised(layout, given, ("third",), "it")


def test_nodes_of_a_layer_with_biases() -> None:
    """Where a product has a bias, the sum is the tap; nodes without a name count after attention only."""
    nodes = Nodes("qwen2", {"blk.0.attn_q.bias"})
    graph = [
        ("embd", "GET_ROWS", "embd"), ("node_1", "MUL_MAT", ""), ("norm-0", "RMS_NORM", ""),
        ("attn_norm-0", "MUL", "blk.0.attn_norm"),
        ("Qcur-0", "MUL_MAT", ""), ("Qcur-0", "ADD", "blk.0.q"), ("Qcur-0", "RESHAPE", ""),
        ("Qcur-0", "ROPE", "blk.0.q_rope"), ("Kcur-0", "MUL_MAT", "blk.0.k"), ("Kcur-0 (view)", "VIEW", ""),
        ("kqv_out-0", "CONT", "blk.0.attn"), ("node_34", "MUL_MAT", "blk.0.attn_out"), ("node_35", "MUL_MAT", ""),
        ("ffn_out-0", "MUL_MAT", "blk.0.down"), ("result_norm", "MUL", "final_norm"),
    ]  # fmt: skip
    assert [tap for _, _, tap in graph] == [nodes.tap(name, operation, 0.5) for name, operation, _ in graph]


@pytest.mark.parametrize(("scale", "factor"), [(0.0625, 0.0625), (0.1, None)])
def test_scaled_queries(scale: float, factor: float | None) -> None:
    """A scale between the rotation of q and the product with k is divided out of the scores where that is exact."""
    nodes = Nodes("gemma3", ())
    for name, operation in (("Qcur-2", "ROPE"), ("node_9", "SCALE"), ("Kcur-2", "ROPE"), ("kq-2", "MUL_MAT")):
        nodes.tap(name, operation, scale)
    assert factor == nodes.factor("blk.2.scores")
    assert nodes.factor("blk.1.scores") == nodes.factor("blk.2.attn") == 1
