"""The real ggml CPU library, in a process of its own: operations as graphs of one node, and its row functions.

    native     what the library was compiled to: kernels.get("libggml")
    generic    its portable C row functions: kernels.get("libggml:generic")

    native.at("build/bin")         another build of the library: kernels.get("libggml@build/bin")

The operations are those of diffuzz.kernels, ``norm`` and ``gelu``; ``soft_max`` takes a mask and a scale, ``rope``
frequency factors. Every batch is one call of a cached graph, by one thread, or a loop over rows for ``generic``, which
has ``vec_dot_rows`` and ``quantize`` only. Shapes are checked before the call. A row on which the library aborts,
crashes or hangs has no result: RowsFailedError, with the results of the others (see diffuzz.worker).

The library is that of the ggml-python package (``pip install 'diffuzz-kernels[ggml]'``), or the one in the folder, or
of the file, that is given.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.kernels import arguments
from diffuzz.kernels.libggml_process import ABOUT_BYTES
from diffuzz.worker import RowsFailedError, Worker, WorkerError

# Bytes of the weights that are no blocks.
_FLOATS = {"f32": 4, "f16": 2, "bf16": 2}

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
        said = self._run("about", {}, {"x": np.zeros((1, 1), np.float32)}, (ABOUT_BYTES,), "uint8")
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
            argument = (files(self.path), self.generic)
            self._workers["worker"] = Worker("diffuzz.kernels.libggml_process:serve", argument, timeout=self.timeout)
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


def files(path: str | None) -> tuple[str, ...]:
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
