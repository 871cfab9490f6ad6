"""The process that has loaded the real ggml library and calls its functions (see diffuzz.kernels.libggml).

Every operation is a graph of one or two nodes, computed in one thread, whose tensors are the arrays in shared memory;
graphs are cached. Calls go through ctypes to functions whose signatures have been the same for years, and no struct of
the library is read. The caller has checked the shapes, because the library aborts the process where they are wrong.

A release of llama.cpp has its CPU backend many times over, built for the instructions of different processors:
libggml-cpu-haswell, libggml-cpu-zen4 and so on. Each of these exports ggml_backend_score, which is 0 where the
processor lacks one of the instructions and else the higher, the more of them were used. ggml_backend_load_best of
ggml-backend-reg.cpp takes the one with the highest score, and so does ``taken``.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.formats.tensor_types import KINDS

# enum ggml_type.
_TYPES = {kind.name: kind.number for kind in KINDS.values()}
_ROPE_MODES = {"norm": 0, "neox": 2}
_CACHED_GRAPHS = 32
# Bytes of a context, which holds the headers of a few tensors and a graph of one or two nodes.
_OVERHEAD = 2**20
# The library requires this alignment, in bytes, of a buffer, but not of the tensors in it.
_ALIGNMENT = 64
ABOUT_BYTES = 1024
# Bytes of what is said of one build of the CPU backend: less than a pipe holds.
_LONGEST_ANSWER = 1024
_FEATURES = ("avx", "avx2", "avx_vnni", "avx512", "avx512_vbmi", "avx512_vnni", "avx512_bf16", "amx_int8", "fma",
             "f16c", "bmi2", "neon", "arm_fma", "fp16_va", "dotprod", "matmul_int8", "sve", "sme", "riscv_v", "vsx",
             "llamafile")  # fmt: skip

Array: TypeAlias = np.ndarray
# Scalar arguments of an operation, by name.
Options: TypeAlias = dict[str, str | float]
# A function of the library is ``Any`` where it is called: ctypes converts arguments and results by its signature.
Foreign: TypeAlias = Any
# Types of result and arguments, as ctypes has them (its types have no public base class): None is void.
Signature: TypeAlias = tuple[Any, tuple[Any, ...]]


def serve(
    argument: tuple[tuple[str, ...], bool],
) -> Callable[[tuple[str, Options], dict[str, Array], Array], Array]:
    """The worker's opener: loads the files of the library; what it returns calls one operation for each batch.

    ``argument`` is (files, whether to use the portable C functions of rows).
    """
    loaded = Loaded(*argument)

    def answer(request: tuple[str, Options], arrays: dict[str, Array], out: Array) -> Array:
        operation, options = request
        getattr(loaded, operation)(arrays, out, **options)
        return out

    return answer


class _InitParams(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


@attrs.frozen
class _Graph:
    """Addresses of the objects that make up the graph of one operation."""

    context: int
    buffer: int
    graph: int


_POINTER, _INT, _LONG, _FLOAT, _SIZE = (
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_float,
    ctypes.c_size_t,
)
_SIGNATURES: dict[str, Signature] = {
    "ggml_init": (_POINTER, (_InitParams,)),
    "ggml_free": (None, (_POINTER,)),
    "ggml_new_tensor": (_POINTER, (_POINTER, _INT, _INT, ctypes.POINTER(_LONG))),
    "ggml_nbytes": (_SIZE, (_POINTER,)),
    "ggml_get_first_tensor": (_POINTER, (_POINTER,)),
    "ggml_get_next_tensor": (_POINTER, (_POINTER, _POINTER)),
    "ggml_backend_cpu_buffer_from_ptr": (_POINTER, (_POINTER, _SIZE)),
    "ggml_backend_buffer_free": (None, (_POINTER,)),
    # Newer versions return a status; older ones return nothing.
    "ggml_backend_tensor_alloc": (None, (_POINTER, _POINTER, _POINTER)),
    "ggml_new_graph": (_POINTER, (_POINTER,)),
    "ggml_build_forward_expand": (None, (_POINTER, _POINTER)),
    "ggml_backend_cpu_init": (_POINTER, ()),
    "ggml_backend_cpu_set_n_threads": (None, (_POINTER, _INT)),
    "ggml_backend_graph_compute": (_INT, (_POINTER, _POINTER)),
    "ggml_cpu_init": (None, ()),
    "ggml_mul_mat": (_POINTER, (_POINTER, _POINTER, _POINTER)),
    "ggml_mul": (_POINTER, (_POINTER, _POINTER, _POINTER)),
    "ggml_norm": (_POINTER, (_POINTER, _POINTER, _FLOAT)),
    "ggml_rms_norm": (_POINTER, (_POINTER, _POINTER, _FLOAT)),
    "ggml_soft_max_ext": (_POINTER, (_POINTER, _POINTER, _POINTER, _FLOAT, _FLOAT)),
    "ggml_silu": (_POINTER, (_POINTER, _POINTER)),
    "ggml_gelu": (_POINTER, (_POINTER, _POINTER)),
    "ggml_swiglu_split": (_POINTER, (_POINTER, _POINTER, _POINTER)),
    "ggml_rope_ext": (_POINTER, (*[_POINTER] * 4, *[_INT] * 3, *[_FLOAT] * 6)),
    "ggml_version": (ctypes.c_char_p, ()),
    "ggml_commit": (ctypes.c_char_p, ()),
}
# What every operation of a graph calls.
_GRAPH = (
    "ggml_init", "ggml_free", "ggml_new_tensor", "ggml_nbytes", "ggml_get_first_tensor", "ggml_get_next_tensor",
    "ggml_backend_cpu_buffer_from_ptr", "ggml_backend_buffer_free", "ggml_backend_tensor_alloc", "ggml_new_graph",
    "ggml_build_forward_expand",
)  # fmt: skip
_OPERATIONS = {
    "vec_dot_rows": ("ggml_mul_mat",),
    "rms_norm": ("ggml_rms_norm", "ggml_mul"),
    "norm": ("ggml_norm",),
    "soft_max": ("ggml_soft_max_ext",),
    "silu": ("ggml_silu",),
    "gelu": ("ggml_gelu",),
    "swiglu": ("ggml_swiglu_split",),
    "rope": ("ggml_rope_ext",),
}
# Since when llama.cpp has functions that are not as old as the others: from its pull requests 10144 and 14158.
_SINCE = {
    "ggml_cpu_init": "November 2024",
    "ggml_swiglu_split": "July 2025",
}


def needed(operation: str, format: object, generic: bool) -> tuple[str, ...]:
    """The functions of the library that an operation calls; of ``format``, also one that is there where it is known."""
    if operation == "quantize":
        return (_quantiser(str(format), generic),)
    if operation == "dequantize":
        return (_dequantiser(str(format)),)
    if operation == "vec_dot_rows" and generic:
        activation = formats.get(str(format)).activation or ""
        return (f"ggml_vec_dot_{format}_{activation}_generic", _quantiser(activation, generic))
    if operation not in _OPERATIONS:
        return ()
    # A tensor of an unknown type would abort the process.
    known = (_dequantiser(str(format)),) if formats.of_ggml(str(format)) else ()
    return (*_GRAPH, *_OPERATIONS[operation], *known)


def since(name: str) -> str:
    """Since when ggml has a function, as the end of a sentence; empty where nobody has looked."""
    return f": it is older than {_SINCE[name]}" if name in _SINCE else ""


# What restores and converts rows of the types without blocks, and the name of those types in these functions.
_FLOATS = {"f16": "fp16", "bf16": "bf16"}
# Formats that only the general function quantises: it takes the weight that each column has for its error.
_WEIGHTED = ("iq2_xxs", "iq2_xs", "iq1_s", "iq1_m")


def _dequantiser(format: str) -> str:
    return f"ggml_{_FLOATS[format]}_to_fp32_row" if format in _FLOATS else f"dequantize_row_{format}"


def _quantiser(format: str, generic: bool) -> str:
    if format in _FLOATS:
        return f"ggml_fp32_to_{_FLOATS[format]}_row"
    if format in _WEIGHTED:
        return "ggml_quantize_chunk"
    if format in ("iq2_s", "iq3_xxs", "iq3_s"):
        return f"quantize_row_{format}_ref"
    suffix = "" if not generic else "_generic" if formats.get(format).activation is None or format == "q8_0" else "_ref"
    return f"quantize_row_{format}{suffix}"


def plain_name(file: str) -> str:
    """``libggml-base`` of ``lib/libggml-base.so.0``, and of ``libggml-base-67036419.so.0`` as wheels have it."""
    return re.sub(r"-[0-9a-f]{8}$", "", Path(file).name.partition(".")[0])


def _is_build(file: str) -> bool:
    return plain_name(file).startswith("libggml-cpu-")


def taken(files: tuple[str, ...]) -> tuple[str, ...]:
    """Of ``files`` those to load: of the builds of the CPU backend for different processors the one with the highest
    score, in place of a build for all of them; that, if there is none that runs here.

    Raises RuntimeError, one line, where nothing is left.
    """
    others = tuple(file for file in files if not _is_build(file))
    if len(others) == len(files):
        return files
    base = tuple(file for file in others if plain_name(file) == "libggml-base")
    scored = [(_score(base, file), file) for file in files if _is_build(file)]
    (best, _), build = max(scored, key=lambda one: one[0][0])
    if best > 0:
        return (*base, build, *(file for file in others if file not in base and plain_name(file) != "libggml-cpu"))
    if any(plain_name(file) == "libggml-cpu" for file in others):
        return others
    (_, why), build = scored[0]
    raise RuntimeError(
        f"{Path(build).name} does not run on this processor: {why}"
        + (f"; nor do {len(scored) - 1} other builds beside it" if len(scored) > 1 else "")
    )


def _score(base: tuple[str, ...], build: str) -> tuple[int, str]:
    """The score of a build of the CPU backend, 0 where it does not run here, and then why.

    It is asked in a process of its own: a build may crash where it does not run, and one that was loaded, and not
    taken, could stand in for functions of the one that is.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Newer Pythons warn of a fork while there are threads; this one only loads a library, and there are none.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, _said(base, build).encode()[:_LONGEST_ANSWER])
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        score, _, why = pipe.read().decode(errors="replace").partition(" ")
    status = os.waitpid(pid, 0)[1]
    if not score:
        return 0, f"it ends with {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else "it ends"
    return int(score), why


def _said(base: tuple[str, ...], build: str) -> str:
    """Score and reason, as text."""
    try:
        for file in base:
            ctypes.CDLL(file, mode=ctypes.RTLD_GLOBAL)
        function: Foreign = getattr(ctypes.CDLL(build), "ggml_backend_score", None)
    except OSError as error:
        return f"0 {error}"
    if function is None:
        # So it is where only one build was made; ggml's loader takes it then.
        return "1"
    score = int(function())
    return str(score) if score > 0 else "0 its ggml_backend_score is 0"


class Loaded:
    """The loaded library. Its methods are the operations, each of which writes its result to ``out``."""

    def __init__(self, files: tuple[str, ...], generic: bool) -> None:
        self._files = taken(files)
        self._generic = generic
        self._libraries = [ctypes.CDLL(file, mode=ctypes.RTLD_GLOBAL) for file in self._files]
        # Fills tables, among them those of f16; without them dot products are silently 0.
        self._function("ggml_cpu_init")()
        self._backend = self._function("ggml_backend_cpu_init")()
        self._function("ggml_backend_cpu_set_n_threads")(self._backend, 1)
        self._compute_graph = self._function("ggml_backend_graph_compute")
        self._graphs: OrderedDict[object, _Graph] = OrderedDict()

    def _function(self, name: str, signature: Signature | None = None) -> Foreign:
        for library in self._libraries:
            function = getattr(library, name, None)
            if function is not None:
                function.restype, function.argtypes = signature or _SIGNATURES[name]
                return function
        raise AttributeError(f"{', '.join(Path(file).name for file in self._files)}: no function {name}{since(name)}")

    def _has_function(self, name: str) -> bool:
        return any(hasattr(library, name) for library in self._libraries)

    def lacks(self, arrays: dict[str, Array], out: Array, names: str) -> None:
        """1 for each of these functions that the library does not have, 0 for the others."""
        out[:] = [not self._has_function(name) for name in names.split()]

    def about(self, arrays: dict[str, Array], out: Array) -> None:
        backend = next(
            file
            for file, library in zip(self._files, self._libraries, strict=True)
            if hasattr(library, "ggml_backend_cpu_init")
        )
        lines = [f"{Path(backend).parent.name}/{Path(backend).name}", "unknown", "unknown", ""]
        for index, (name, more) in enumerate((("ggml_version", "ggml_commit"),), 1):
            try:
                lines[index] = f"{self._function(name)().decode()} ({self._function(more)().decode()})"
            except AttributeError:
                continue
        compilers = {
            match.decode(errors="replace")
            for file in self._files
            for match in re.findall(rb"GCC: \([ -~]*|(?:Apple )?clang version [ -~]*", Path(file).read_bytes())
        }
        lines[2] = "; ".join(sorted(compilers)) or "unknown"
        lines[3] = " ".join(feature for feature in _FEATURES if self._has(feature)) or "no SIMD"
        text = "\n".join(line.replace("\n", " ") for line in lines).encode()[:ABOUT_BYTES]
        out[:] = np.frombuffer(text.ljust(ABOUT_BYTES, b"\0"), np.uint8)

    def _has(self, feature: str) -> bool:
        try:
            return bool(self._function(f"ggml_cpu_has_{feature}", (_INT, ()))())
        except AttributeError:
            return False

    def vec_dot_rows(self, arrays: dict[str, Array], out: Array, format: str) -> None:
        weights, x = arrays["weights"], arrays["x"]
        b, k = x.shape
        if self._generic:
            self._generic_dots(format, weights, x, out)
            return
        self._compute(
            ("mul_mat", format, b, k),
            ((format, (k, 1, b)), ("f32", (k, 1, b))),
            lambda context, w, v: self._function("ggml_mul_mat")(context, w, v),
            (weights, x),
            out,
        )

    def _generic_dots(self, format: str, weights: Array, x: Array, out: Array) -> None:
        activation = formats.get(format).activation or ""
        fmt = formats.get(activation)
        quantised = np.zeros((len(x), x.shape[1] // fmt.block_size * fmt.type_size), np.uint8)
        self.quantize({"values": x}, quantised, activation)
        void = (None, (_INT, _POINTER, _SIZE, _POINTER, _SIZE, _POINTER, _SIZE, _INT))
        dot = self._function(f"ggml_vec_dot_{format}_{activation}_generic", void)
        for row in range(len(x)):
            dot(x.shape[1], out[row:].ctypes.data, 0, weights[row].ctypes.data, 0, quantised[row].ctypes.data, 0, 1)

    def dequantize(self, arrays: dict[str, Array], out: Array, format: str) -> None:
        function = self._function(_dequantiser(format), (None, (_POINTER, _POINTER, _LONG)))
        function(arrays["blocks"].ctypes.data, out.ctypes.data, out.size)

    def quantize(self, arrays: dict[str, Array], out: Array, format: str) -> None:
        values = arrays["values"]
        if format in _WEIGHTED:
            self._quantize_weighted(values, out, format)
            return
        if format.startswith("iq"):
            # Fills the tables of the grids.
            self._function("ggml_quantize_init", (None, (_INT,)))(_TYPES[format])
        function = self._function(_quantiser(format, self._generic), (None, (_POINTER, _POINTER, _LONG)))
        # A quantiser may leave bytes unwritten (the sums of a q8_K block of zeros); they are 0, not what was there.
        out[:] = 0
        function(values.ctypes.data, out.ctypes.data, values.size)

    def _quantize_weighted(self, values: Array, out: Array, format: str) -> None:
        """With all columns of the same weight."""
        weight = np.ones(values.shape[1], np.float32)
        signature = (_SIZE, (_INT, _POINTER, _POINTER, _LONG, _LONG, _LONG, _POINTER))
        rows, columns = values.shape
        function = self._function("ggml_quantize_chunk", signature)
        function(_TYPES[format], values.ctypes.data, out.ctypes.data, 0, rows, columns, weight.ctypes.data)

    def rms_norm(self, arrays: dict[str, Array], out: Array, eps: float) -> None:
        x, weight = arrays["x"], arrays.get("weight")
        b, n = x.shape

        def build(context: int, x: int, *weight: int) -> int:
            normed: int = self._function("ggml_rms_norm")(context, x, eps)
            return self._function("ggml_mul")(context, normed, weight[0]) if weight else normed

        given = (x,) if weight is None else (x, weight)
        self._compute(("rms_norm", len(given), b, n, eps), (("f32", (n, b)),) * len(given), build, given, out)

    def norm(self, arrays: dict[str, Array], out: Array, eps: float) -> None:
        b, n = arrays["x"].shape
        self._compute(
            ("norm", b, n, eps),
            (("f32", (n, b)),),
            lambda context, x: self._function("ggml_norm")(context, x, eps),
            (arrays["x"],),
            out,
        )

    def soft_max(self, arrays: dict[str, Array], out: Array, scale: float) -> None:
        x, mask = arrays["x"], arrays.get("mask")
        b, n = x.shape
        given = (x,) if mask is None else (x, mask)
        self._compute(
            ("soft_max", len(given), b, n, scale),
            (("f32", (n, b)),) * len(given),
            lambda context, x, *mask: self._function("ggml_soft_max_ext")(
                context, x, mask[0] if mask else None, scale, 0.0
            ),
            given,
            out,
        )

    def silu(self, arrays: dict[str, Array], out: Array) -> None:
        self._elementwise("ggml_silu", (arrays["x"],), out)

    def gelu(self, arrays: dict[str, Array], out: Array) -> None:
        self._elementwise("ggml_gelu", (arrays["x"],), out)

    def swiglu(self, arrays: dict[str, Array], out: Array) -> None:
        self._elementwise("ggml_swiglu_split", (arrays["gate"], arrays["up"]), out)

    def _elementwise(self, name: str, given: tuple[Array, ...], out: Array) -> None:
        b, n = given[0].shape
        self._compute(
            (name, b, n),
            (("f32", (n, b)),) * len(given),
            lambda context, *tensors: self._function(name)(context, *tensors),
            given,
            out,
        )

    def rope(self, arrays: dict[str, Array], out: Array, base: float, mode: str) -> None:
        x, factors = arrays["x"], arrays.get("factors")
        b, heads, d = x.shape
        # Every row has the same factors, and the tensor holds them once.
        given = (x, arrays["positions"]) if factors is None else (x, arrays["positions"], factors[0])
        tensors: tuple[tuple[str, tuple[int, ...]], ...] = (("f32", (d, heads, b)), ("i32", (b,)), ("f32", (d // 2,)))
        self._compute(
            ("rope", len(given), x.shape, base, mode),
            tensors[: len(given)],
            lambda context, x, positions, *factors: self._function("ggml_rope_ext")(
                context, x, positions, factors[0] if factors else None,
                d, _ROPE_MODES[mode], 0, base, 1.0, 0.0, 1.0, 32.0, 1.0,
            ),
            given,
            out,
        )  # fmt: skip

    def _compute(
        self,
        key: object,
        tensors: tuple[tuple[str, tuple[int, ...]], ...],
        build: Callable[..., int],
        given: tuple[Array, ...],
        out: Array,
    ) -> None:
        """Write to ``out``, float32, the result of a graph with the inputs ``given``.

        ``key`` and ``tensors`` (type and sizes of each input) identify the operation; ``build`` makes its node from the
        context and the input tensors. A graph belongs to one operation on arrays at certain addresses, and is cached.
        """
        key = (key, tuple((array.ctypes.data, array.nbytes) for array in (*given, out)))
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._graphs[key] = self._built(tensors, build, given, out)
            if len(self._graphs) > _CACHED_GRAPHS:
                _, oldest = self._graphs.popitem(last=False)
                self._function("ggml_free")(oldest.context)
                self._function("ggml_backend_buffer_free")(oldest.buffer)
        self._graphs.move_to_end(key)
        status = self._compute_graph(self._backend, graph.graph)
        if status != 0:
            raise RuntimeError(f"ggml_backend_graph_compute returned status {status}")

    def _built(
        self,
        tensors: tuple[tuple[str, tuple[int, ...]], ...],
        build: Callable[..., int],
        given: tuple[Array, ...],
        out: Array,
    ) -> _Graph:
        context = self._function("ggml_init")(_InitParams(_OVERHEAD, None, True))
        if not context:
            raise MemoryError("ggml_init returned no context")
        made = []
        for kind, extent in tensors:
            sizes = (ctypes.c_int64 * len(extent))(*extent)
            made.append(self._function("ggml_new_tensor")(context, _TYPES[kind], len(extent), sizes))
        result = build(context, *made)
        graph = self._function("ggml_new_graph")(context)
        self._function("ggml_build_forward_expand")(graph, result)
        places = dict(zip(made, given, strict=True))
        # An intermediate tensor is as large as the result, which may overwrite it.
        tensor = self._function("ggml_get_first_tensor")(context)
        while tensor:
            places.setdefault(tensor, out)
            tensor = self._function("ggml_get_next_tensor")(context, tensor)
        nbytes = self._function("ggml_nbytes")
        for tensor, array in places.items():
            if array.nbytes != nbytes(tensor) or not array.flags.c_contiguous:
                self._function("ggml_free")(context)
                raise ValueError(f"an array of {array.nbytes} bytes, where the tensor has {nbytes(tensor)}")
        start = min(array.ctypes.data for array in places.values()) // _ALIGNMENT * _ALIGNMENT
        end = max(array.ctypes.data + array.nbytes for array in places.values())
        buffer = self._function("ggml_backend_cpu_buffer_from_ptr")(start, end - start)
        for tensor, array in places.items():
            self._function("ggml_backend_tensor_alloc")(buffer, tensor, array.ctypes.data)
        return _Graph(context, buffer, graph)
