"""The process that has loaded the real ggml library and calls its functions (see diffuzz.kernels.libggml).

Every operation is a graph of one or two nodes, computed in one thread, whose tensors are the arrays in shared memory;
graphs are cached. Calls go through ctypes to functions whose signatures have been the same for years, and no struct of
the library is read. The caller has checked the shapes, because the library aborts the process where they are wrong.
"""

from __future__ import annotations

import ctypes
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import numpy as np

from diffuzz import formats

# enum ggml_type, a part of the GGUF file format.
_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "q8_1": 9, "q2_K": 10, "q3_K": 11,
    "q4_K": 12, "q5_K": 13, "q6_K": 14, "q8_K": 15, "iq4_nl": 20, "i32": 26, "bf16": 30, "mxfp4": 39,
}  # fmt: skip
_ROPE_MODES = {"norm": 0, "neox": 2}
_CACHED_GRAPHS = 32
# Bytes of a context, which holds the headers of a few tensors and a graph of one or two nodes.
_OVERHEAD = 2**20
# The library requires this alignment, in bytes, of a buffer, but not of the tensors in it.
_ALIGNMENT = 64
ABOUT_BYTES = 1024
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


class Loaded:
    """The loaded library. Its methods are the operations, each of which writes its result to ``out``."""

    def __init__(self, files: tuple[str, ...], generic: bool) -> None:
        self._files = files
        self._generic = generic
        self._libraries = [ctypes.CDLL(file, mode=ctypes.RTLD_GLOBAL) for file in files]
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
        raise AttributeError(f"the library has no function {name}")

    def about(self, arrays: dict[str, Array], out: Array) -> None:
        lines = [Path(self._files[-1]).parent.name, "unknown", "unknown", ""]
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
        function = self._function(f"dequantize_row_{format}", (None, (_POINTER, _POINTER, _LONG)))
        function(arrays["blocks"].ctypes.data, out.ctypes.data, out.size)

    def quantize(self, arrays: dict[str, Array], out: Array, format: str) -> None:
        values, fmt = arrays["values"], formats.get(format)
        suffix = "" if not self._generic else "_generic" if fmt.activation is None or format == "q8_0" else "_ref"
        function = self._function(f"quantize_row_{format}{suffix}", (None, (_POINTER, _POINTER, _LONG)))
        # A quantiser may leave bytes unwritten (the sums of a q8_K block of zeros); they are 0, not what was there.
        out[:] = 0
        function(values.ctypes.data, out.ctypes.data, values.size)

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
