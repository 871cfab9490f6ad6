"""From a function of torch tensors, or a module, to a graph of ATen operations over float64.

`torch.export` traces the function once for the shapes of its arguments, and takes it apart into operations that are
simple enough to have a rule each. Like the trace of a function of jax.numpy it is made in float64: parameters, buffers
and the tensors that a function holds on to are converted first (exactly, for every narrower type), and what is made
without a type is float64. So Python constants keep their digits, no cast of an implementation ("compute in float32
where the input is bfloat16") is part of the graph, and a cast in it is one that the user wrote.

Parameters, buffers and held tensors are inputs of the graph, and their values are read at each call: training a module
between two calls needs no new trace.
"""

import copy
import functools
import io
import logging
import os
import re
import traceback
import types
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

import attrs
import numpy as np
import torch
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils import _pytree as pytree

from diffuzz.analysis.torch_graph.decompositions import decompositions
from diffuzz.analysis.walking import AnalysisError

_FLOATS = frozenset(
    (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2),
)
_FOLDER_OF_TORCH = os.path.dirname(torch.__file__) + os.sep
_SIMPLE = (bool, int, float, str, bytes, type(None), torch.dtype)
# Traces that are kept for each function: one for each combination of shapes that a test-suite uses.
_KEPT = 16


@attrs.frozen(eq=False)
class Captured:
    """A graph of ATen operations, with what its inputs and outputs are.

    `inputs` has an entry for each placeholder of the graph: the position among the tensors of the call, or the value of
    a parameter, buffer or constant. `outputs` are the places of the user's results among the outputs of the graph,
    `tree` their structure. `needed` are the nodes that the results depend on: checks, and updates of statistics, are
    left out.
    """

    module: torch.fx.GraphModule
    inputs: tuple["int | torch.Tensor", ...]
    outputs: tuple[int, ...]
    tree: pytree.TreeSpec
    needed: frozenset[torch.fx.Node]

    def values(self, tensors: Sequence[torch.Tensor]) -> list[np.ndarray]:
        """The inputs of the graph for these tensors of the call, as NumPy arrays."""
        return [array(tensors[source] if isinstance(source, int) else source) for source in self.inputs]


def array(tensor: torch.Tensor) -> np.ndarray:
    """The values of a tensor, exactly: float64 for each type of floats, the same type for integers and truth values."""
    if tensor.is_complex() or tensor.is_quantized or tensor.layout is not torch.strided:
        raise AnalysisError(
            f"no rules for tensors of {tensor.dtype}, {tensor.layout}: pass dense ones of floats or integers"
        )
    tensor = tensor.detach().cpu()
    return np.asarray((tensor.to(torch.float64) if tensor.dtype in _FLOATS else tensor).numpy())


def tensors_of(arguments: Any) -> list[torch.Tensor]:
    """The tensors in nested arguments, in the order in which a call sees them."""
    return [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, torch.Tensor)]


def where_written(node: torch.fx.Node) -> str:
    """`, at FILE:LINE` of the user's code that a node comes from, or nothing where torch does not know."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    users = [frame for frame in frames if _of_user(frame[0])]
    return f", at {users[-1][0]}:{users[-1][1]}" if users else ""


_kept: "weakref.WeakKeyDictionary[Any, dict[Any, Captured]]" = weakref.WeakKeyDictionary()


def capture(function: Callable[..., Any], arguments: Sequence[Any], named: Mapping[str, Any]) -> Captured:
    """The graph of `function(*arguments, **named)`; it is traced once for each function and shapes.

    Raises AnalysisError, one line, if torch cannot export the function: its control flow depends on values, for
    example.
    """
    leaves, structure = pytree.tree_flatten((list(arguments), dict(named)))
    shapes = (_state(function), str(structure), *(_signature(leaf) for leaf in leaves))
    dtype = storage_of(function, leaves)
    try:
        kept = _kept.setdefault(function, {})
    except TypeError:  # a callable that has no weak references, or is not hashable
        kept = {}
    # A graph serves all dtypes, unless the function asked what the limits of its own are.
    for key in ((shapes, None), (shapes, dtype)):
        if key in kept:
            return kept[key]
    while len(kept) >= _KEPT:
        del kept[next(iter(kept))]
    asked: list[torch.dtype] = []
    with _limits_of(dtype, asked):
        captured = _export(function, arguments, named)
    kept[shapes, dtype if asked else None] = captured
    return captured


def storage_of(function: Callable[..., Any], leaves: Sequence[Any]) -> torch.dtype:
    """The dtype of the first of these that is a tensor of floats, else of a module's parameters, else torch's
    default."""
    held = function.parameters() if isinstance(function, torch.nn.Module) else ()
    for leaf in (*leaves, *held):
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
            return leaf.dtype
    return torch.get_default_dtype()


def _signature(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        # All floats are traced alike.
        return "float" if leaf.is_floating_point() else str(leaf.dtype), tuple(leaf.shape)
    return type(leaf).__name__, repr(leaf)


def _export(function: Callable[..., Any], arguments: Sequence[Any], named: Mapping[str, Any]) -> Captured:
    originals: dict[Any, torch.Tensor] = {}
    converted = _Conversion(originals).convert(function)
    root = converted if isinstance(converted, torch.nn.Module) else _Calls(converted)
    # Fresh tensors: an argument that is passed twice, or that is a parameter as well, stays two inputs of the graph.
    wide_arguments, wide_named = pytree.tree_map_only(torch.Tensor, _wide, (tuple(arguments), dict(named)))
    with _quiet(), _default_dtype(torch.float64), torch.no_grad():
        try:
            # The math form of attention is its formula; fused ones differ by device.
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                program = torch.export.export(root, wide_arguments, wide_named, strict=False)
                program = program.run_decompositions(decompositions())
        except Exception as error:
            raise AnalysisError(_refusal(error)) from error
    state = dict(program.state_dict)
    inputs: list[int | torch.Tensor] = []
    number = 0
    for specification in program.graph_signature.input_specs:
        if specification.kind is InputKind.USER_INPUT:
            if isinstance(specification.arg, torch.export.graph_signature.TensorArgument):
                inputs.append(number)
                number += 1
            else:
                inputs.append(torch.zeros(()))  # a Python value: it is in the graph already
            continue
        target = specification.target or ""
        value = state[target] if target in state else program.constants[target]
        inputs.append(originals.get(_place(value), value))
    outputs = [
        place
        for place, specification in enumerate(program.graph_signature.output_specs)
        if specification.kind is OutputKind.USER_OUTPUT
    ]
    tree = program.call_spec.out_spec
    if tree is None:
        raise AnalysisError(
            "torch.export did not say what the results are: return tensors, or tuples, lists or dicts of them"
        )
    needed = _needed(program.graph_module, outputs)
    return Captured(program.graph_module, tuple(inputs), tuple(outputs), tree, needed)


def _needed(module: torch.fx.GraphModule, outputs: Sequence[int]) -> frozenset[torch.fx.Node]:
    results = module.graph.output_node().args[0]
    waiting = [results[place] for place in outputs if isinstance(results[place], torch.fx.Node)]
    needed: set[torch.fx.Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    return frozenset(needed)


class _Calls(torch.nn.Module):  # type: ignore[misc]  # torch is Any to mypy, see pyproject
    """A function as the module that torch.export asks for."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *arguments: Any, **named: Any) -> Any:
        return self._function(*arguments, **named)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(array(tensor).copy())


def _place(tensor: torch.Tensor) -> Any:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype


class _Conversion:
    """Copies a function or module, with everything in it that is a tensor of floats as float64.

    `originals` gets the tensor that each copy was made from, by the place of the copy in memory: torch.export keeps
    that, but makes new tensor objects.
    """

    def __init__(self, originals: dict[Any, torch.Tensor]) -> None:
        self._originals = originals
        self._copies: dict[int, Any] = {}
        self._alive: list[Any] = []

    def convert(self, value: Any, file: str | None = None) -> Any:
        """The copy of a value; the value itself where nothing in it is a tensor. Functions of `file` are followed
        through globals."""
        if isinstance(value, _SIMPLE):
            return value
        if id(value) not in self._copies:
            self._alive.append(value)
            self._copies[id(value)] = value  # a function that refers to itself ends here
            self._copies[id(value)] = self._copy(value, file)
        return self._copies[id(value)]

    def _copy(self, value: Any, file: str | None) -> Any:
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, torch.nn.Module):
            return self._module(value)
        if isinstance(value, functools.partial):
            named = {name: self.convert(part, file) for name, part in value.keywords.items()}
            given = [self.convert(part, file) for part in value.args]
            return functools.partial(self.convert(value.func, file), *given, **named)
        if isinstance(value, types.MethodType):
            return types.MethodType(self.convert(value.__func__, file), self.convert(value.__self__, file))
        if isinstance(value, types.FunctionType):
            return self._function(value, file)
        if type(value) is list:
            return [self.convert(part, file) for part in value]
        if type(value) is tuple:
            return tuple(self.convert(part, file) for part in value)
        if type(value) is dict:
            return {name: self.convert(part, file) for name, part in value.items()}
        return value

    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        result = _wide(tensor)
        if isinstance(tensor, torch.nn.Parameter):
            result = torch.nn.Parameter(result, requires_grad=False)
        self._originals[_place(result)] = tensor
        self._alive.append(result)
        return result

    def _module(self, module: torch.nn.Module) -> torch.nn.Module:
        # Parameters are replaced one by one, rather than by `to(float64)`, so that each copy knows what it was made
        # from. Shared ones stay shared: the memo of deepcopy goes by identity.
        memo: dict[int, Any] = {}
        for tensor in (*module.parameters(), *module.buffers(), *_other_tensors(module)):
            if id(tensor) not in memo:
                memo[id(tensor)] = self.convert(tensor)
        return copy.deepcopy(module, memo)

    def _function(self, function: types.FunctionType, file: str | None) -> types.FunctionType:
        file = file or function.__code__.co_filename
        if function.__code__.co_filename != file:
            return function
        cells = tuple(
            _cell(self.convert(cell.cell_contents, file)) if _full(cell) else cell
            for cell in function.__closure__ or ()
        )
        named = {name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__}
        replaced = {name: self.convert(value, file) for name, value in named.items()}
        result = types.FunctionType(
            # Torch records a line of the user's code for an operation only inside functions of this name.
            function.__code__.replace(co_name="forward"),
            {**function.__globals__, **replaced},
            function.__name__,
            self.convert(function.__defaults__, file),
            cells,
        )
        result.__kwdefaults__ = self.convert(function.__kwdefaults__, file)
        return result


def _other_tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Tensors that are plain attributes of a module: neither parameters nor buffers."""
    for part in module.modules():
        yield from (value for value in vars(part).values() if isinstance(value, torch.Tensor))


def _names(code: types.CodeType) -> set[str]:
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*inner)


def _cell(value: Any) -> types.CellType:
    return types.CellType(value)


def _full(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - reading it is the question
    except ValueError:
        return False
    return True


def _state(value: Any, seen: frozenset[int] = frozenset()) -> Any:
    """What a trace depends on besides shapes: the settings of modules, and which objects a function holds on to."""
    if isinstance(value, _SIMPLE):
        return repr(value)
    if id(value) in seen:
        return None
    seen |= {id(value)}
    if isinstance(value, torch.nn.Module):
        tensors = (*value.parameters(), *value.buffers(), *_other_tensors(value))
        settings = tuple(
            (name, tuple((key, setting) for key, setting in vars(part).items() if isinstance(setting, _SIMPLE)))
            for name, part in value.named_modules()
        )
        return id(value), settings, tuple((id(tensor), tuple(tensor.shape)) for tensor in tensors)
    if isinstance(value, functools.partial):
        return tuple(_state(part, seen) for part in (value.func, *value.args, *value.keywords.values()))
    if isinstance(value, types.MethodType):
        return _state(value.__func__, seen), _state(value.__self__, seen)
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _full(cell)]
        named = [value.__globals__[name] for name in sorted(_names(value.__code__)) if name in value.__globals__]
        same_file = [part for part in named if not isinstance(part, types.FunctionType) or _file(part) == _file(value)]
        return id(value), tuple(_state(part, seen) for part in (*cells, *same_file))
    return id(value)


def _file(function: types.FunctionType) -> str:
    return function.__code__.co_filename


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch.export from writing to stderr (graphs that it could not finish), logging, and warning about parts of
    itself."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _limits_of(dtype: torch.dtype, asked: list[torch.dtype]) -> Iterator[None]:
    """Within the trace every float is float64; who asks for its limits, as in `torch.finfo(x.dtype).eps`, means those
    of the dtype that the call is made with. `asked` gets that dtype each time.
    """
    original, default = torch.finfo, torch.get_default_dtype()

    def limits(given: torch.dtype | None = None) -> Any:
        if given is torch.float64:
            asked.append(dtype)
            return original(dtype)
        return original(default if given is None else given)

    torch.finfo = limits
    try:
        yield
    finally:
        torch.finfo = original


def _refusal(error: Exception) -> str:
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    frames = [frame for frame in re.findall(r'File "([^"]+)", line (\d+)', text) if _of_user(frame[0])]
    if not frames:
        frames = [
            (frame.filename, str(frame.lineno))
            for frame in traceback.extract_tb(error.__traceback__)
            if _of_user(frame.filename)
        ]
    where = f" (at {frames[-1][0]}:{frames[-1][1]})" if frames else ""
    if isinstance(error, GuardOnDataDependentSymNode):
        return f"its Python code branches on values of tensors{where}: use torch.where, or decide by a Python value"
    return f"torch.export cannot make a graph of it: {lines[0]}{where}"


def _of_user(file: str) -> bool:
    return not file.startswith((_FOLDER_OF_TORCH, "<")) and file != __file__
