"""tract: an ONNX model of one operation."""

import tempfile
from functools import cache
from pathlib import Path

import onnx
import tract
from onnx import helper


@cache
def _runnable(op):
    given, made = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["b", "n"]) for name in "xy")
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"])], "g", [given], [made])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
        return tract.onnx().load(str(path)).into_model().into_runnable()


def soft_max(z):
    return _runnable("Softmax").run([z])[0].to_numpy()


def swiglu(gate, up):
    return gate * _runnable("Sigmoid").run([gate])[0].to_numpy() * up
