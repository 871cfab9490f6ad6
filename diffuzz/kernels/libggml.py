"""The real ggml CPU library, in a process of its own: its operations, and its functions of rows of blocks.

    native                    kernels.get("libggml")             the code that the library was compiled to
    generic                   kernels.get("libggml:generic")     its portable C functions of rows
    native.at("build/bin")    kernels.get("libggml@build/bin")   another build of the library

The operations are those of diffuzz.kernels and ``norm`` and ``gelu``. ``soft_max`` also takes a mask and a scale,
``rope`` frequency factors. A batch is one call of a cached graph, in one thread. ``generic`` has only ``vec_dot_rows``
and ``quantize``, and loops over the rows.

Wrong arguments raise ValueError before the library is called, and an operation whose functions the build does not have,
as an older one may not, MissingKernelsError. A row on which the library aborts, crashes or hangs has
no result: RowsFailedError, which has the results of the other rows (see diffuzz.kernels.process.worker).

The library is that of the ggml-python package (``pip install 'diffuzz-kernels[ggml]'``), or one in a folder, or a
file, that the caller names. A folder as llama.cpp is released with, which has a build of the CPU backend for each
family of processors, is taken for the one that ggml itself would take here (see diffuzz.kernels.process.libggml).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.kernels import arguments, names
from diffuzz.kernels.process.libggml import ABOUT_BYTES, Options, needed, plain_name, since
from diffuzz.kernels.process.worker import RowsFailedError, Worker, WorkerError

if TYPE_CHECKING:
    from jaxtyping import Float32, Int, UInt8

# What is asked of a library about itself.
_QUESTIONS = ("about", "lacks")
# Bytes of one weight in the types that have no blocks.
_FLOATS = {"f32": 4, "f16": 2, "bf16": 2}


@attrs.define
class Library:
    """One build of the library, at ``path``: a folder or a file, by default in the ggml-python package.

    ``timeout`` is in seconds, for one call.
    """

    path: str | None = None
    generic: bool = False
    timeout: float = 10.0
    _workers: dict[str, Worker] = attrs.field(init=False, factory=dict)
    # Operations, with their formats, whose functions the build is known to have.
    _known: set[tuple[str, object]] = attrs.field(init=False, factory=set)

    def at(self, path: str) -> Library:
        """The same functions of the build at ``path``. Raises ValueError if there is no such file or folder."""
        if not Path(path).exists():
            raise ValueError(f"library {path}: there is no such file or folder")
        return _library(str(Path(path).resolve()), self.generic)

    def close(self) -> None:
        """End the process, if there is one; the next call starts another."""
        for worker in self._workers.values():
            worker.close()

    def about(self) -> dict[str, str]:
        """Folder and file that was taken, version, compiler and CPU features, as the library reports them."""
        said = self._run("about", {}, {"x": np.zeros((1, 1), np.float32)}, (ABOUT_BYTES,), "uint8")
        name, version, compiler, features = bytes(said[0]).rstrip(b"\0").decode().split("\n")
        return {"library": name, "version": version, "compiler": compiler, "features": features}

    def vec_dot_rows(
        self, format: str, weights: UInt8[np.ndarray, "b row_bytes"], x: Float32[np.ndarray, "b k"]
    ) -> Float32[np.ndarray, " b"]:
        """Row i with x i. ``format`` is one of diffuzz.formats or, but not for ``generic``, f32, f16 or bf16, where the
        weights are the bytes of such numbers and ggml converts x to the same type.
        """
        x = arguments.vector("x", x)
        if format in _FLOATS and not self.generic:
            rows, row_bytes = np.asarray(weights), x.shape[1] * _FLOATS[format]
            if rows.dtype != np.uint8 or rows.shape[1:] != (row_bytes,):
                raise ValueError(f"weights is {rows.dtype}{list(rows.shape)}: uint8[b, {row_bytes}] is needed")
        else:
            blocks = arguments.blocks(format, weights)
            rows = blocks.reshape(len(blocks), -1)
        _same_length(len(rows), len(x))
        return self._run("vec_dot_rows", {"format": format}, {"weights": rows, "x": x}, (), "float32")

    def vec_dot(
        self, format: str, weights: UInt8[np.ndarray, "m row_bytes"], x: Float32[np.ndarray, "b k"]
    ) -> Float32[np.ndarray, "m b"]:
        """Every row with every x."""
        m, b = len(weights), len(x)
        every = self.vec_dot_rows(format, np.repeat(weights, b, axis=0), np.tile(x, (m, 1)))
        return every.reshape(m, b)

    def dequantize(self, format: str, blocks: UInt8[np.ndarray, "b row_bytes"]) -> Float32[np.ndarray, "b k"]:
        """The values of rows of blocks."""
        rows = arguments.blocks(format, blocks).reshape(len(blocks), -1)
        fmt = formats.get(format)
        k = rows.shape[1] // fmt.type_size * fmt.block_size
        return self._run("dequantize", {"format": format}, {"blocks": rows}, (k,), "float32")

    def quantize(self, format: str, values: Float32[np.ndarray, "b k"]) -> UInt8[np.ndarray, "b row_bytes"]:
        """Rows of blocks that store these values."""
        x, fmt = arguments.vector("values", values), formats.get(format)
        if x.shape[1] % fmt.block_size:
            raise ValueError(f"values has rows of {x.shape[1]}: whole blocks of {fmt.block_size} are needed")
        width = x.shape[1] // fmt.block_size * fmt.type_size
        return self._run("quantize", {"format": format}, {"values": x}, (width,), "uint8")

    def rms_norm(
        self, x: Float32[np.ndarray, "b n"], eps: float, weight: Float32[np.ndarray, "... n"] | None = None
    ) -> Float32[np.ndarray, "b n"]:
        """``x / sqrt(mean(x^2) + eps) * weight``."""
        x, weight = arguments.norm(x, eps, weight)
        arrays = {"x": x} if weight is None else {"x": x, "weight": np.broadcast_to(weight, x.shape)}
        return self._run("rms_norm", {"eps": float(eps)}, arrays, x.shape[1:], "float32")

    def norm(self, x: Float32[np.ndarray, "b n"], eps: float) -> Float32[np.ndarray, "b n"]:
        """``(x - mean(x)) / sqrt(var(x) + eps)``."""
        x, _ = arguments.norm(x, eps, None)
        return self._run("norm", {"eps": float(eps)}, {"x": x}, x.shape[1:], "float32")

    def soft_max(
        self, x: Float32[np.ndarray, "b n"], mask: Float32[np.ndarray, "... n"] | None = None, scale: float = 1.0
    ) -> Float32[np.ndarray, "b n"]:
        """``softmax(scale x + mask)`` along the last axis."""
        x = arguments.vector("x", x)
        arrays = {"x": x} if mask is None else {"x": x, "mask": np.broadcast_to(arguments.real("mask", mask), x.shape)}
        return self._run("soft_max", {"scale": float(scale)}, arrays, x.shape[1:], "float32")

    def silu(self, x: Float32[np.ndarray, "b n"]) -> Float32[np.ndarray, "b n"]:
        """``x / (1 + exp(-x))``."""
        return self._run("silu", {}, {"x": arguments.vector("x", x)}, np.shape(x)[1:], "float32")

    def gelu(self, x: Float32[np.ndarray, "b n"]) -> Float32[np.ndarray, "b n"]:
        """``x (1 + tanh(sqrt(2/pi) x (1 + 0.044715 x^2))) / 2``, which ggml looks up in a table of f16 numbers."""
        return self._run("gelu", {}, {"x": arguments.vector("x", x)}, np.shape(x)[1:], "float32")

    def swiglu(self, gate: Float32[np.ndarray, "b n"], up: Float32[np.ndarray, "b n"]) -> Float32[np.ndarray, "b n"]:
        """``silu(gate) * up``."""
        gate, up = arguments.pair(gate, up)
        return self._run("swiglu", {}, {"gate": gate, "up": up}, gate.shape[1:], "float32")

    def rope(
        self,
        x: Float32[np.ndarray, "b heads d"],
        positions: Int[np.ndarray, " b"],
        base: float,
        mode: str,
        frequency_factors: Float32[np.ndarray, " d/2"] | None = None,
    ) -> Float32[np.ndarray, "b heads d"]:
        """Pair i rotated by ``position * base^(-2 i / d) / factor_i``."""
        x, where = arguments.rope(x, positions, base, mode)
        options: Options = {"base": float(base), "mode": mode}
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
        options: Options,
        arrays: Mapping[str, np.ndarray],
        shape: tuple[int, ...],
        dtype: str,
    ) -> np.ndarray:
        if not len(next(iter(arrays.values()))):
            return np.zeros((0, *shape), dtype)
        self._check(operation, options.get("format"))
        return self._asked(operation, options, arrays, shape, dtype)

    def _check(self, operation: str, format: object) -> None:
        """Raise MissingKernelsError, one line, unless the build has the functions of an operation: without them each of
        its cases would seem to make the library fail.
        """
        if (operation, format) in self._known:
            return
        functions = needed(operation, format, self.generic)
        if functions:
            one = {"x": np.zeros((1, 1), np.uint8)}
            lacks = self._asked("lacks", {"names": " ".join(functions)}, one, (len(functions),), "uint8")[0]
            if lacks.any():
                name = functions[int(np.argmax(lacks))]
                what = " of ".join(str(part) for part in (operation, format) if part)
                raise names.MissingKernelsError(
                    f"{self._name}: {self.about()['library']} has no function {name}, which {what} needs{since(name)}"
                )
        self._known.add((operation, format))

    @property
    def _name(self) -> str:
        return f"libggml{':generic' if self.generic else ''}{f' at {self.path}' if self.path else ''}"

    def _asked(
        self,
        operation: str,
        options: Options,
        arrays: Mapping[str, np.ndarray],
        shape: tuple[int, ...],
        dtype: str,
    ) -> np.ndarray:
        if "worker" not in self._workers:
            argument = (files(self.path), self.generic)
            self._workers["worker"] = Worker("diffuzz.kernels.process.libggml:serve", argument, timeout=self.timeout)
        try:
            ran = self._workers["worker"].run((operation, dict(options)), arrays, shape=shape, dtype=dtype)
        except WorkerError as error:
            raise ValueError(f"{self._name}: {error}") from error
        if ran.failures and operation in _QUESTIONS:
            # Not a case of anybody: the library cannot be used.
            raise names.MissingKernelsError(f"{self._name}: it cannot be used: {next(iter(ran.failures.values()))}")
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
    """The shared libraries to load, in order, of the build at ``path`` (of the package if that is None), among them all
    builds of its CPU backend for different processors, of which one is to be taken.

    Raises ImportError where the package is not installed, ValueError where there are no such libraries.
    """
    if path is None:
        spec = importlib.util.find_spec("ggml")
        if spec is None or spec.origin is None:
            raise names.missing_package(names.LIBRARY)
        path = str(Path(spec.origin).parent / "lib")
    folder = Path(path)
    if folder.is_file():
        base = sorted(folder.parent.glob("libggml-base.*"))[:1]
        return (*map(str, base), str(folder))
    found: dict[str, str] = {}
    for each in sorted(folder.iterdir()):
        if re.fullmatch(r"libggml(?:-base|-cpu)?(?:-\w+)?\.(?:[\w.]+\.)?(?:so|dylib)(?:\.[\d.]+)?", each.name):
            found.setdefault(plain_name(each.name), str(each))
    order = ["libggml-base", *(name for name in found if name.startswith("libggml-cpu-")), "libggml-cpu", "libggml"]
    files = tuple(found[name] for name in order if name in found)
    if not files:
        raise ValueError(f"library {path}: no libggml-base, libggml-cpu or libggml in it")
    return files
