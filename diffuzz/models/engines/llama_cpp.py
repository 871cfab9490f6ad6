"""llama.cpp: a model run by the real library, in a process of its own.

    run("model.gguf", [1780, 314, 216])                  # a Dump of all taps
    run("model.gguf", [1780, 314, 216], kv="f16")        # with llama.cpp's own default for the KV cache
    run("model.gguf", tokens, patch=dump)                # each tap of the dump in the place of its own

    with opened("model.gguf", threads=2) as engine:      # the model is loaded once
        engine.run(tokens)

The library is that of the package xllamacpp (``pip install 'diffuzz-kernels[llama]'``), or of llama-cpp-python, or a
file libllama that ``library`` names. It runs on the processor, with the KV cache in f32, without flash attention and
without repacking the weights, unless asked; so that what is added up in which order is what ggml's plain code does.

Asking for taps keeps llama.cpp from fusing nodes, so logits may differ from those without; ``logits`` gives the latter.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np

from diffuzz.escaping import escaped, unwrapped
from diffuzz.kernels.process.worker import ResourceError, Worker, WorkerError
from diffuzz.models import model as models
from diffuzz.models import sequence
from diffuzz.models.dump import Dump
from diffuzz.models.engines import EngineError, MissingEngineError, checked_batches
from diffuzz.models.process.llama_cpp import ANSWER_BYTES, KV_TYPES, Options, save

# Distributions that have the library: the module, and patterns of the file in its folder.
_PACKAGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "xllamacpp": ("xllamacpp", ("xllamacpp.*.so", "xllamacpp.so")),
    "llama-cpp-python": ("llama_cpp", ("lib/libllama.so", "lib/libllama.dylib")),
}
_LIBRARIES = ("libllama.so", "libllama.dylib")
# Taps whose heads may be in another order.
_ROTATED = ("q", "k", "q_norm", "k_norm", "q_rope", "k_rope")


def run(
    model: Path,
    tokens: Sequence[int],
    *,
    patch: Dump | None = None,
    batches: Sequence[int] = (),
    library: str = "",
    kv: str = "f32",
    flash_attention: bool = False,
    repack: bool = False,
    threads: int = 1,
    timeout: float = 120.0,
) -> Dump:
    """The dump of a run over ``tokens``, in which each tap of ``patch`` was put in the place of llama.cpp's own as soon
    as that was copied; taps that llama.cpp does not compute are left out.

    Of ``batches`` see diffuzz.models.engines. ``library`` is the name of a package or a path, by default the first
    package that is installed; ``kv`` is f32, f16, bf16 or q8_0 (with flash attention only); ``timeout`` is in seconds,
    the loading included. Raises EngineError, and MissingEngineError where there is no library, or none that is known.
    """
    with opened(
        model,
        library=library,
        kv=kv,
        flash_attention=flash_attention,
        repack=repack,
        threads=threads,
        timeout=timeout,
    ) as engine:
        return engine.run(tokens, patch, batches)


@contextlib.contextmanager
def opened(
    model: Path,
    *,
    library: str = "",
    kv: str = "f32",
    flash_attention: bool = False,
    repack: bool = False,
    threads: int = 1,
    timeout: float = 120.0,
) -> Iterator[Opened]:
    """The same for several runs of one model."""
    if kv not in KV_TYPES:
        raise EngineError(f"llama.cpp: kv {kv!r}: {', '.join(KV_TYPES)} are possible")
    if threads < 1:
        raise EngineError(f"llama.cpp: threads {threads}: at least 1 is needed")
    name, file = found(library)
    try:
        given = models.open(Path(model))
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise EngineError(f"llama.cpp: {escaped(str(model))}: {said}") from error
    biases = tuple(tensor for tensor in given.tensors if tensor.endswith(".bias"))
    options = Options(biases, kv, threads, flash_attention, repack)
    argument = (str(file), str(Path(model).resolve()), options)
    with Worker("diffuzz.models.process.llama_cpp:serve", argument, timeout=timeout) as worker:
        # Flash attention converts keys and values of f32 to f16.
        yield Opened(name, given, "f16" if flash_attention and kv == "f32" else kv, worker)


@attrs.frozen(eq=False)
class Opened:
    """A model in the library ``name``, in the process of a worker."""

    name: str
    _model: models.Model
    _kv: str
    _worker: Worker

    def run(self, tokens: Sequence[int], patch: Dump | None = None, batches: Sequence[int] = ()) -> Dump:
        """As the module's ``run``."""
        sizes = checked_batches(f"llama.cpp {self.name}", tokens, batches, patch)
        about, taps = self._asked(tokens, patch, sizes, watch=True)
        metadata = {
            "format": "diffuzz-dump",
            "version": "1",
            "engine": f"llama.cpp {self.name} {about['features']}".strip(),
            "arch": about["architecture"],
            "model_sha256": self._model.sha256,
            "rope_layout": about["rope_layout"],
            "kv": self._kv,
            "products": "q8",
        }
        if patch is not None:
            metadata["patched"] = about["patched"]
        where = sequence.of_tokens(tuple(tokens[-sizes[-1] :]), past=len(tokens) - sizes[-1])
        return Dump(metadata, where.tokens, where.positions, taps, {}, ())

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """float32[n, V] of a run that nothing watches."""
        return self._asked(tokens, None, (len(tokens),), watch=False)[1]["logits"]

    def _asked(
        self, tokens: Sequence[int], patch: Dump | None, batches: Sequence[int], watch: bool
    ) -> tuple[dict[str, str], dict[str, np.ndarray]]:
        if not len(tokens):
            raise EngineError("llama.cpp: there are no tokens")
        name = f"llama.cpp {self.name}"
        try:
            with tempfile.TemporaryDirectory(prefix="diffuzz-") as folder:
                dump, given = Path(folder, "dump.npz"), Path(folder, "patch.npz")
                if patch is not None:
                    save(given, _arranged(patch, self._model))
                request = {
                    "tokens": [int(token) for token in tokens],
                    "watch": watch,
                    "patch": "" if patch is None else str(given),
                    "dump": str(dump),
                    "batches": list(batches),
                }
                one = {"x": np.zeros((1, 1), np.uint8)}
                ran = self._worker.run(request, one, shape=(ANSWER_BYTES,), dtype="uint8")
                for failure in ran.failures.values():
                    raise EngineError(f"{name}: {failure}")
                about = _answer(name, bytes(ran.result[0]))
                try:
                    with np.load(dump, allow_pickle=False) as taps:
                        return about, dict(taps)
                except (OSError, ValueError, zipfile.BadZipFile) as error:
                    raise EngineError(f"{name}: it wrote no dump that can be read: {unwrapped(str(error))}") from error
        except (WorkerError, ResourceError, OSError) as error:
            raise EngineError(f"{name}: {unwrapped(str(error))}") from error


def _answer(name: str, raw: bytes) -> dict[str, str]:
    """What the process says of itself. Raises EngineError where that is an error, or no answer at all."""
    try:
        about = json.loads(raw.rstrip(b"\0"))
        if "error" in about:
            kind = MissingEngineError if about["missing"] else EngineError
            raise kind(f"{name}: {unwrapped(str(about['error']))}")
        return {key: str(about[key]) for key in ("architecture", "features", "rope_layout", "patched")}
    except EngineError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{name}: it answers garbage: {escaped(repr(raw[:80]))}") from error


def found(library: str = "") -> tuple[str, Path]:
    """Name and file of the library that ``library`` names: a package, a file, or a folder with a libllama.

    Raises MissingEngineError where no package is installed, EngineError where there is no such file.
    """
    for package in [library] if library in _PACKAGES else [] if library else _PACKAGES:
        module, patterns = _PACKAGES[package]
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            continue
        folder = Path(spec.origin).parent
        files = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
        if files:
            return f"{package} {importlib.metadata.version(package)}", files[0]
    if library in _PACKAGES:
        raise MissingEngineError(f"llama.cpp: the package {library} is not installed; pip install {library}")
    if not library:
        raise MissingEngineError(
            "llama.cpp: no package with its library is installed; pip install 'diffuzz-kernels[llama]' or "
            "pip install llama-cpp-python"
        )
    path = Path(library)
    files = [path / name for name in _LIBRARIES if (path / name).is_file()] if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise EngineError(f"llama.cpp: library {library}: there is no such package, file or folder with a libllama")
    return str(path), files[0].resolve()


def _arranged(patch: Dump, model: models.Model) -> dict[str, np.ndarray]:
    """The taps and rows of a patch in the dtype and the order of heads that llama.cpp has."""
    own = "norm" if model.architecture == "llama" else "neox"
    turned = patch.metadata.get("rope_layout", own) != own
    arrays = {}
    for name, values in patch.taps.items():
        arrays[name] = np.asarray(values).astype(np.float32)
        step = name.rpartition(".")[2]
        if turned and step in _ROTATED:
            heads = int(model.number(f"attention.head_count{'_kv' if step.startswith('k') else ''}"))
            arrays[name] = _turned(arrays[name], heads, own)
    return arrays | {f"{name}.rows": rows for name, rows in patch.rows.items()}


def _turned(values: np.ndarray, heads: int, layout: str) -> np.ndarray:
    """Heads whose pairs are half a head apart ("neox") with pairs of neighbours ("norm"), or the other way round."""
    halves = (2, -1) if layout == "norm" else (-1, 2)
    return values.reshape(len(values), heads, *halves).swapaxes(2, 3).reshape(values.shape)
