"""The real ggml CPU library, in a process of its own: operations as graphs of one node, and its row functions.

    native     what the library was compiled to: kernels.get("libggml")
    generic    its portable C row functions: kernels.get("libggml:generic")

    native.at("build/bin")         another build of the library: kernels.get("libggml@build/bin")

The operations are those of diffuzz.kernels, ``norm`` and ``gelu``; ``soft_max`` takes a mask and a scale, ``rope``
frequency factors. Every batch is one call of a cached graph, by one thread, or a loop over rows for ``generic``, which
has ``vec_dot_rows`` and ``quantize`` only. Shapes are checked before the call. A row on which the library aborts,
crashes or hangs has no result: RowsFailedError, with the results of the others (see diffuzz.worker).

The library is that of the ggml-python package (``pip install 'diffuzz-kernels[ggml]'``), or the one in the folder, or
of the file, that is given. Calls go through ctypes to functions whose signatures have been the same for years; no
struct of the library is read.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.kernels import arguments
from diffuzz.worker import RowsFailedError, Worker, WorkerError

# enum ggml_type, a part of the GGUF file format.
_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "q8_1": 9, "q2_K": 10, "q3_K": 11,
    "q4_K": 12, "q5_K": 13, "q6_K": 14, "q8_K": 15, "iq4_nl": 20, "i32": 26, "bf16": 30, "mxfp4": 39,
}  # fmt: skip
# Bytes of the weights that are no blocks.
_FLOATS = {"f32": 4, "f16": 2, "bf16": 2}
_ROPE_MODES = {"norm": 0, "neox": 2}
_CACHED_GRAPHS = 32
# What a context needs: headers of tensors, and a graph of one or two nodes.
_OVERHEAD = 2**20
# Of a buffer, as the library demands; its kernels take tensors at any place.
_ALIGNMENT = 64
_ABOUT_BYTES = 1024
_FEATURES = ("avx", "avx2", "avx_vnni", "avx512", "avx512_vbmi", "avx512_vnni", "avx512_bf16", "amx_int8", "fma",
             "f16c", "bmi2", "neon", "arm_fma", "fp16_va", "dotprod", "matmul_int8", "sve", "sme", "riscv_v", "vsx",
             "llamafile")  # fmt: skip

Array = np.ndarray


@attrs.define
class Library:
    """One build of the library; ``path`` is a folder or file, the ggml-python package's by default."""

    path: str | None = None
    generic: bool = False
    timeout: float = 10.0
    _workers: dict[str, Worker] = attrs.field(init=False, factory=dict)

    def at(self, path: str) -> Library:
        """The same functions of another build. Raises ValueError if there is no such file or folder."""
        if not Path(path).exists():
            raise ValueError(f"library {path}: there is no such file or folder")
        return _library(str(Path(path).resolve()), self.generic)

    def close(self) -> None:
        """End the process; the next call starts another."""
        for worker in self._workers.values():
            worker.close()

    def about(self) -> dict[str, str]:
        """Version, compiler and CPU features, from the library itself."""
        said = self._run("about", {}, {"x": np.zeros((1, 1), np.float32)}, (_ABOUT_BYTES,), "uint8")
        name, version, compiler, features = bytes(said[0]).rstrip(b"\0").decode().split("\n")
        return {"library": name, "version": version, "compiler": compiler, "features": features}

    def vec_dot_rows(self, format: str, weights: Array, x: Array) -> Array:
        """float32[b] of uint8[b, row_bytes] and float32[b, k]: row i with x i. Formats are those of diffuzz.formats,
        and, not of ``generic``, the bytes of f32, f16 and bf16, which ggml multiplies with x in the same type.
        """
        x = arguments.vector("x", x)
        if format in _FLOATS and not self.generic:
            rows = np.asarray(weights)
            if rows.dtype != np.uint8 or rows.shape[1:] != (x.shape[1] * _FLOATS[format],):
                raise ValueError(f"weights is {rows.dtype}{list(rows.shape)}: the bytes of rows like x are needed")
        else:
            blocks = arguments.blocks(format, weights)
            rows = blocks.reshape(len(blocks), -1)
        _same_length(len(rows), len(x))
        return self._run("vec_dot_rows", {"format": format}, {"weights": rows, "x": x}, (), "float32")

    def vec_dot(self, format: str, weights: Array, x: Array) -> Array:
        """float32[m, b] of uint8[m, row_bytes] and float32[b, k]: every row with every x."""
        m, b = len(weights), len(x)
        every = self.vec_dot_rows(format, np.repeat(weights, b, axis=0), np.tile(x, (m, 1)))
        return every.reshape(m, b)

    def dequantize(self, format: str, blocks: Array) -> Array:
        """float32[b, k] of uint8[b, row_bytes]."""
        rows = arguments.blocks(format, blocks).reshape(len(blocks), -1)
        fmt = formats.get(format)
        k = rows.shape[1] // fmt.type_size * fmt.block_size
        return self._run("dequantize", {"format": format}, {"blocks": rows}, (k,), "float32")

    def quantize(self, format: str, values: Array) -> Array:
        """uint8[b, row_bytes] of float32[b, k]."""
        x, fmt = arguments.vector("values", values), formats.get(format)
        if x.shape[1] % fmt.block_size:
            raise ValueError(f"values has rows of {x.shape[1]}: whole blocks of {fmt.block_size} are needed")
        width = x.shape[1] // fmt.block_size * fmt.type_size
        return self._run("quantize", {"format": format}, {"values": x}, (width,), "uint8")

    def rms_norm(self, x: Array, eps: float, weight: Array | None = None) -> Array:
        """x / sqrt(mean x^2 + eps), times weight: float32[b, n]."""
        x, weight = arguments.norm(x, eps, weight)
        arrays = {"x": x} if weight is None else {"x": x, "weight": np.broadcast_to(weight, x.shape)}
        return self._run("rms_norm", {"eps": float(eps)}, arrays, x.shape[1:], "float32")

    def norm(self, x: Array, eps: float) -> Array:
        """(x - mean x) / sqrt(var x + eps): float32[b, n]."""
        x, _ = arguments.norm(x, eps, None)
        return self._run("norm", {"eps": float(eps)}, {"x": x}, x.shape[1:], "float32")

    def soft_max(self, x: Array, mask: Array | None = None, scale: float = 1.0) -> Array:
        """softmax(scale x + mask) over the last axis: float32[b, n]."""
        x = arguments.vector("x", x)
        arrays = {"x": x} if mask is None else {"x": x, "mask": np.broadcast_to(arguments.real("mask", mask), x.shape)}
        return self._run("soft_max", {"scale": float(scale)}, arrays, x.shape[1:], "float32")

    def silu(self, x: Array) -> Array:
        """x / (1 + exp(-x)): float32[b, n]."""
        return self._run("silu", {}, {"x": arguments.vector("x", x)}, np.shape(x)[1:], "float32")

    def gelu(self, x: Array) -> Array:
        """x (1 + tanh(sqrt(2/pi) x (1 + 0.044715 x^2))) / 2, by a table of f16 in ggml: float32[b, n]."""
        return self._run("gelu", {}, {"x": arguments.vector("x", x)}, np.shape(x)[1:], "float32")

    def swiglu(self, gate: Array, up: Array) -> Array:
        """silu(gate) up: float32[b, n]."""
        gate, up = arguments.pair(gate, up)
        return self._run("swiglu", {}, {"gate": gate, "up": up}, gate.shape[1:], "float32")

    def rope(self, x: Array, positions: Array, base: float, mode: str, frequency_factors: Array | None = None) -> Array:
        """Pairs rotated by positions base^(-2i/d) / factor_i: float32[b, heads, d]."""
        x, where = arguments.rope(x, positions, base, mode)
        options = {"base": float(base), "mode": mode}
        arrays = {"x": x, "positions": where.astype(np.int32)}
        if frequency_factors is not None:
            factors = np.asarray(frequency_factors, np.float32)
            if factors.shape != (x.shape[2] // 2,):
                raise ValueError(f"frequency_factors has shape {factors.shape}: ({x.shape[2] // 2},) is needed")
            arrays["factors"] = np.broadcast_to(factors, (len(x), len(factors)))
        return self._run("rope", options, arrays, x.shape[1:], "float32")

    def _run(
        self,
        operation: str,
        options: Mapping[str, Any],
        arrays: Mapping[str, Array],
        shape: tuple[int, ...],
        dtype: str,
    ) -> Array:
        if not len(next(iter(arrays.values()))):
            return np.zeros((0, *shape), dtype)
        if "worker" not in self._workers:
            argument = (_files(self.path), self.generic)
            self._workers["worker"] = Worker("diffuzz.kernels.libggml:serve", argument, timeout=self.timeout)
        try:
            ran = self._workers["worker"].run((operation, dict(options)), arrays, shape=shape, dtype=dtype)
        except WorkerError as error:
            raise ValueError(f"libggml{f' at {self.path}' if self.path else ''}: {error}") from error
        if ran.failures:
            raise RowsFailedError(ran)
        return ran.result


_libraries: dict[tuple[str | None, bool], Library] = {}


def _library(path: str | None, generic: bool) -> Library:
    return _libraries.setdefault((path, generic), Library(path, generic))


native = _library(None, False)
generic = _library(None, True)


def _same_length(one: int, other: int) -> None:
    if one != other:
        raise ValueError(f"weights has {one} rows: {other}, as many as x, are needed")


def _files(path: str | None) -> tuple[str, ...]:
    """The shared libraries to load, the base first. Raises ImportError without the package, ValueError without them."""
    if path is None:
        spec = importlib.util.find_spec("ggml")
        if spec is None or spec.origin is None:
            raise ImportError("kernels libggml need the ggml-python package: pip install 'diffuzz-kernels[ggml]'")
        path = str(Path(spec.origin).parent / "lib")
    folder = Path(path)
    if folder.is_file():
        base = sorted(folder.parent.glob("libggml-base.*"))[:1]
        return (*map(str, base), str(folder))
    found = [
        sorted(each for each in folder.glob(f"{name}.*") if re.search(r"\.(so|dylib)(\.[\d.]+)?$", each.name))[:1]
        for name in ("libggml-base", "libggml-cpu", "libggml")
    ]
    files = tuple(str(each) for group in found for each in group)
    if not files:
        raise ValueError(f"library {path}: no libggml-base, libggml-cpu or libggml in it")
    return files


# In the process


def serve(
    argument: tuple[tuple[str, ...], bool],
) -> Callable[[tuple[str, dict[str, Any]], dict[str, Array], Array], Array]:
    """What the process does: load the library, and call one of its operations for each batch."""
    loaded = _Loaded(*argument)

    def answer(request: tuple[str, dict[str, Any]], arrays: dict[str, Array], out: Array) -> Array:
        operation, options = request
        getattr(loaded, operation)(arrays, out, **options)
        return out

    return answer


class _InitParams(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


@attrs.frozen
class _Graph:
    """A graph of one operation, whose tensors are where its arrays are."""

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
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_init": (_POINTER, (_InitParams,)),
    "ggml_free": (None, (_POINTER,)),
    "ggml_new_tensor": (_POINTER, (_POINTER, _INT, _INT, ctypes.POINTER(_LONG))),
    "ggml_nbytes": (_SIZE, (_POINTER,)),
    "ggml_get_first_tensor": (_POINTER, (_POINTER,)),
    "ggml_get_next_tensor": (_POINTER, (_POINTER, _POINTER)),
    "ggml_backend_cpu_buffer_from_ptr": (_POINTER, (_POINTER, _SIZE)),
    "ggml_backend_buffer_free": (None, (_POINTER,)),
    # Older versions return nothing.
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


class _Loaded:
    """The library, loaded; its methods are the operations, each of which writes its result to ``out``."""

    def __init__(self, files: tuple[str, ...], generic: bool) -> None:
        self._files = files
        self._generic = generic
        self._libraries = [ctypes.CDLL(file, mode=ctypes.RTLD_GLOBAL) for file in files]
        # Tables, among them those of f16: without it dot products are silently 0.
        self._function("ggml_cpu_init")()
        self._backend = self._function("ggml_backend_cpu_init")()
        self._function("ggml_backend_cpu_set_n_threads")(self._backend, 1)
        self._compute_graph = self._function("ggml_backend_graph_compute")
        self._graphs: OrderedDict[Any, _Graph] = OrderedDict()

    def _function(self, name: str, signature: tuple[Any, tuple[Any, ...]] | None = None) -> Any:
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
        text = "\n".join(line.replace("\n", " ") for line in lines).encode()[:_ABOUT_BYTES]
        out[:] = np.frombuffer(text.ljust(_ABOUT_BYTES, b"\0"), np.uint8)

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
        # What a quantiser leaves as it is (the sums of a q8_K block of zeros) is not what was there before.
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
        # The same factors for every row: the first are all that the tensor holds.
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
        key: Any,
        tensors: tuple[tuple[str, tuple[int, ...]], ...],
        build: Callable[..., int],
        given: tuple[Array, ...],
        out: Array,
    ) -> None:
        """Write to ``out``, float32, the result of a graph with these arrays as its inputs.

        The graph reads and writes the arrays where they are. It is built once for every operation and place.
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
            raise RuntimeError(f"ggml_backend_graph_compute returns status {status}")

    def _built(
        self,
        tensors: tuple[tuple[str, tuple[int, ...]], ...],
        build: Callable[..., int],
        given: tuple[Array, ...],
        out: Array,
    ) -> _Graph:
        context = self._function("ggml_init")(_InitParams(_OVERHEAD, None, True))
        if not context:
            raise MemoryError("ggml_init")
        made = []
        for kind, extent in tensors:
            sizes = (ctypes.c_int64 * len(extent))(*extent)
            made.append(self._function("ggml_new_tensor")(context, _TYPES[kind], len(extent), sizes))
        result = build(context, *made)
        graph = self._function("ggml_new_graph")(context)
        self._function("ggml_build_forward_expand")(graph, result)
        places = dict(zip(made, given, strict=True))
        # What lies between the inputs and the result is as large as the result, and is overwritten by it.
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
