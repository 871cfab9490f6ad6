"""llama.cpp in a worker's process: one run of a model over tokens, with what its graph computed on the way.

``serve`` is the opener of a worker (diffuzz.kernels.process.worker); the client is diffuzz.models.engines.llama_cpp.
The function that it returns answers a request, a dictionary, by the bytes of one JSON object:

    tokens    list of their numbers                     patch     path of an .npz with taps to put in, or ""
    watch     whether taps are wanted, or only logits   dump      path of the .npz to write
    batches   how many tokens are decoded at a time; taps and logits are those of the last batch

    {"architecture": ..., "version": ..., "features": ..., "rope_layout": ..., "patched": number of taps}
    {"error": text, "missing": whether it is the library that cannot be used}

llama.cpp calls back before and after each node of its graph. A node that is a tap is copied out at once, because its
memory is used again, and then overwritten where there is a patch.
"""

from __future__ import annotations

import collections
import ctypes
import faulthandler
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import numpy as np

from diffuzz.escaping import unwrapped
from diffuzz.models.process import llama_layouts
from diffuzz.models.process.llama_layouts import Batch, Bytes, LayoutError, Tensor
from diffuzz.models.process.llama_nodes import Nodes, arrangement

# Bytes of an answer: what is said in an error is cut to fit.
ANSWER_BYTES, LONGEST_ERROR = 4096, 600
# Names of types of the KV cache and their numbers in ggml.
KV_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8}
ARCHITECTURES = ("llama", "qwen2", "gemma3")
_DTYPES: Mapping[int, np.dtype[Any]] = {0: np.dtype(np.float32), 1: np.dtype(np.float16)}
# Levels of the log: an error, and what goes on with the line before.
_ERROR, _CONTINUED = 4, 5
_ROPE_LAYOUTS = {0: "norm", 2: "neox"}

_POINTER, _INT, _SIZE, _TEXT = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_char_p
_LOG = ctypes.CFUNCTYPE(None, _INT, _TEXT, _POINTER)
_EVAL = ctypes.CFUNCTYPE(ctypes.c_bool, _POINTER, ctypes.c_bool, _POINTER)
Signature: TypeAlias = tuple[Any, tuple[Any, ...]]
_SIGNATURES: Mapping[str, Signature] = {
    "ggml_backend_dev_count": (_SIZE, ()),
    "ggml_backend_load_all_from_path": (None, (_TEXT,)),
    "ggml_backend_tensor_get": (None, (_POINTER, _POINTER, _SIZE, _SIZE)),
    "ggml_backend_tensor_set": (None, (_POINTER, _POINTER, _SIZE, _SIZE)),
    "ggml_free": (None, (_POINTER,)),
    "ggml_get_data": (_POINTER, (_POINTER,)),
    "ggml_get_name": (_POINTER, (_POINTER,)),
    "ggml_nbytes": (_SIZE, (_POINTER,)),
    "ggml_new_tensor_3d": (_POINTER, (_POINTER, _INT, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)),
    "ggml_op_desc": (_TEXT, (_POINTER,)),
    "ggml_scale": (_POINTER, (_POINTER, _POINTER, ctypes.c_float)),
    "ggml_set_name": (_POINTER, (_POINTER, _TEXT)),
    "llama_backend_init": (None, ()),
    "llama_batch_free": (None, (Batch,)),
    "llama_batch_init": (Batch, (ctypes.c_int32, ctypes.c_int32, ctypes.c_int32)),
    "llama_context_default_params": (Bytes, ()),
    "llama_decode": (ctypes.c_int32, (_POINTER, Batch)),
    "llama_free": (None, (_POINTER,)),
    "llama_get_logits": (_POINTER, (_POINTER,)),
    "llama_log_set": (None, (_LOG, _POINTER)),
    "llama_model_default_params": (Bytes, ()),
    "llama_model_get_vocab": (_POINTER, (_POINTER,)),
    "llama_model_meta_val_str": (ctypes.c_int32, (_POINTER, _TEXT, _TEXT, _SIZE)),
    "llama_model_n_ctx_train": (ctypes.c_int32, (_POINTER,)),
    "llama_model_rope_type": (_INT, (_POINTER,)),
    "llama_print_system_info": (_TEXT, ()),
    "llama_vocab_n_tokens": (ctypes.c_int32, (_POINTER,)),
}  # fmt: skip


class RefusedError(ValueError):
    """A run that cannot be; one line. ``missing`` where no run can be, because of the library."""

    def __init__(self, text: str, missing: bool = False) -> None:
        super().__init__(text)
        self.missing = missing


@attrs.frozen
class Options:
    """What a model is run with: names of tensors that are biases, the type of the KV cache, threads, and whether flash
    attention and repacked weights are wanted.
    """

    biases: tuple[str, ...]
    kv: str
    threads: int
    flash_attention: bool
    repack: bool


def save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz; NumPy's functions read it in the order of ``arrays``. Raises OSError."""
    named: Any = arrays
    with open(path, "wb") as file:
        np.savez(file, **named)


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", _SIZE), ("mem_buffer", _POINTER), ("no_alloc", ctypes.c_bool))


def serve(argument: tuple[str, str, Options]) -> Callable[[Mapping[str, Any], object, np.ndarray], np.ndarray]:
    """The worker's opener: ``argument`` is the path of the library, that of the model, and how to run it. The model is
    loaded by the first request, and kept.
    """
    library, model, options = argument
    # Where an assertion of ggml fails, what it says is wanted, and neither a debugger nor lines of Python.
    os.environ["GGML_NO_BACKTRACE"] = "1"
    faulthandler.disable()
    kept: list[Loaded] = []

    def answer(request: Mapping[str, Any], arrays: object, out: np.ndarray) -> np.ndarray:
        del arrays
        try:
            if not kept:
                kept.append(Loaded(Path(library), Path(model), options))
            said = kept[0].run(**request)
        except LayoutError as error:
            said = {"error": str(error), "missing": True}
        except RefusedError as error:
            said = {"error": unwrapped(str(error))[:LONGEST_ERROR], "missing": error.missing}
        text = json.dumps(said).encode()
        out[...] = 0
        out[0, : len(text)] = np.frombuffer(text, np.uint8)
        return out

    return answer


class Loaded:
    """The library and a model. Raises LayoutError and RefusedError."""

    def __init__(self, library: Path, model: Path, options: Options) -> None:
        self._options = options
        self._errors: collections.deque[str] = collections.deque(maxlen=8)
        self._level = 0
        self._library: Any = _library(library)
        self._log = _LOG(self._logged)
        self._library.llama_log_set(self._log, None)
        self._library.llama_backend_init()
        if not self._library.ggml_backend_dev_count():
            self._library.ggml_backend_load_all_from_path(str(library.parent).encode())
        _check_tensors(self._library)
        self._model = self._load(model)
        self.architecture = self._entry("general.architecture")
        if self.architecture not in ARCHITECTURES:
            raise RefusedError(
                f"architecture {self.architecture}: the nodes of {', '.join(ARCHITECTURES)} are known, no others"
            )
        self._vocabulary = int(self._library.llama_vocab_n_tokens(self._library.llama_model_get_vocab(self._model)))

    def run(
        self, tokens: Sequence[int], watch: bool, patch: str, dump: str, batches: Sequence[int]
    ) -> dict[str, object]:
        """One run: see the module's docstring."""
        self._check(tokens)
        patches = {}
        if patch:
            with np.load(patch, allow_pickle=False) as stored:
                patches = dict(stored)
        nodes = Nodes(self.architecture, self._options.biases)
        watcher = _Watcher(self._library, nodes, patches)
        context = self._context(len(tokens), watcher if watch else None)
        past: dict[str, np.ndarray] = {}
        done = 0
        try:
            for size in batches:
                past = _cached(past, watcher.taps)
                watcher.begin(done + size)
                logits = self._decode(context, tokens[done : done + size], done)
                done += size
        finally:
            self._library.llama_free(context)
        if watcher.failure is not None:
            raise watcher.failure
        taps = {**past, **watcher.taps} if watch else {}
        # Not the node's: this is what a program gets.
        taps["logits"] = watcher.taps.get("logits", logits) if watch else logits
        save(Path(dump), taps)
        library = self._library
        return {
            "architecture": self.architecture,
            "features": _features(library.llama_print_system_info().decode(errors="replace")),
            "rope_layout": _ROPE_LAYOUTS.get(int(library.llama_model_rope_type(self._model)), ""),
            "patched": len(watcher.patched),
        }

    def _logged(self, level: int, text: bytes | None, user: object) -> None:
        if level != _CONTINUED:
            self._level = level
        if self._level == _ERROR and text and text.strip():
            self._errors.append(text.decode(errors="replace").strip())

    def _said(self) -> str:
        """The first of the errors that the library has logged: those that come later only say that it failed."""
        said = f": {self._errors[0]}" if self._errors else ""
        self._errors.clear()
        return said

    def _load(self, path: Path) -> int:
        library = self._library
        filled = library.llama_model_default_params()
        what = "this build of llama.cpp cannot be driven: its structure llama_model_params"
        parameters: Any = llama_layouts.recognised(
            llama_layouts.MODEL, filled, ("n_gpu_layers", "use_extra_bufts"), what
        )
        parameters.n_gpu_layers = 0
        parameters.use_extra_bufts = self._options.repack
        load = library.llama_model_load_from_file
        load.restype, load.argtypes = _POINTER, (_TEXT, type(parameters))
        model = load(str(path).encode(), parameters)
        if not model:
            raise RefusedError(f"llama.cpp does not load the model{self._said()}")
        return int(model)

    def _entry(self, key: str) -> str:
        room = ctypes.create_string_buffer(256)
        self._library.llama_model_meta_val_str(self._model, key.encode(), room, len(room))
        return room.value.decode(errors="replace")

    def _check(self, tokens: Sequence[int]) -> None:
        beyond = [token for token in tokens if not 0 <= token < self._vocabulary]
        if beyond:
            raise RefusedError(f"token {beyond[0]}: the model has tokens 0..{self._vocabulary - 1}")
        most = int(self._library.llama_model_n_ctx_train(self._model))
        if len(tokens) > most:
            raise RefusedError(f"{len(tokens)} tokens: the context of the model has {most}")

    def _context(self, tokens: int, watcher: _Watcher | None) -> int:
        library, options = self._library, self._options
        filled = library.llama_context_default_params()
        setting = (
            "n_ctx", "n_batch", "n_ubatch", "n_threads", "n_threads_batch", "flash_attn_type", "cb_eval", "type_k",
            "type_v", "offload_kqv", "op_offload",
        )  # fmt: skip
        what = "this build of llama.cpp cannot be driven: its structure llama_context_params"
        parameters: Any = llama_layouts.recognised(llama_layouts.CONTEXT, filled, setting, what)
        # All tokens are one batch, so that each tap is one node. The cache is padded to 256 places in any case.
        parameters.n_ctx = -(-tokens // 256) * 256
        parameters.n_batch = parameters.n_ubatch = max(tokens, 64)
        parameters.n_threads = parameters.n_threads_batch = options.threads
        parameters.flash_attn_type = int(options.flash_attention)
        parameters.type_k = parameters.type_v = KV_TYPES[options.kv]
        parameters.offload_kqv = parameters.op_offload = False
        if watcher is not None:
            parameters.cb_eval = ctypes.cast(watcher.callback, _POINTER)
        make = library.llama_init_from_model
        make.restype, make.argtypes = _POINTER, (_POINTER, type(parameters))
        context = make(self._model, parameters)
        if not context:
            raise RefusedError(f"llama.cpp makes no context{self._said()}")
        return int(context)

    def _decode(self, context: int, tokens: Sequence[int], start: int) -> np.ndarray:
        library = self._library
        batch = library.llama_batch_init(len(tokens), 0, 1)
        if (
            batch.n_tokens
            or batch.embd
            or not all((batch.token, batch.pos, batch.n_seq_id, batch.seq_id, batch.logits))
        ):
            raise LayoutError(
                "this build of llama.cpp cannot be driven: its structure llama_batch does not read as one that is known"
            )
        for place, token in enumerate(tokens):
            batch.token[place], batch.pos[place] = token, start + place
            batch.n_seq_id[place], batch.seq_id[place][0], batch.logits[place] = 1, 0, 1
        batch.n_tokens = len(tokens)
        status = library.llama_decode(context, batch)
        library.llama_batch_free(batch)
        if status:
            raise RefusedError(f"llama_decode returns {status}{self._said()}")
        shape = len(tokens), self._vocabulary
        logits = ctypes.cast(library.llama_get_logits(context), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(logits, shape).copy()


class _Watcher:
    """The taps of a batch. ``failure`` is what went wrong in the callback, which cannot raise."""

    def __init__(self, library: Any, nodes: Nodes, patches: Mapping[str, np.ndarray]) -> None:
        self.callback = _EVAL(self._called)
        self.taps: dict[str, np.ndarray] = {}
        self.patched: set[str] = set()
        self.failure: Exception | None = None
        self._library, self._nodes, self._patches = library, nodes, patches
        self._tap, self._keys = "", 0

    def begin(self, keys: int) -> None:
        """A batch after which the cache has so many keys."""
        self.taps, self._keys = {}, keys

    def _called(self, address: int, ask: bool, user: object) -> bool:
        """Before a node is computed: whether it is wanted, and so computed before the next is asked for. Afterwards:
        whether to go on.
        """
        try:
            if not ask:
                self._keep(address)
                return True
            tensor = Tensor.from_address(address)
            scale = ctypes.c_float.from_buffer_copy(ctypes.c_int32(tensor.op_params[0])).value
            name, operation = tensor.name.decode(errors="replace"), self._library.ggml_op_desc(address).decode()
            self._tap = self._nodes.tap(name, operation, scale)
            return bool(self._tap)
        except Exception as error:
            self.failure = self.failure or error
            return False

    def _keep(self, address: int) -> None:
        tensor = Tensor.from_address(address)
        if tensor.type not in _DTYPES:
            raise RefusedError(f"{self._tap} is of ggml's type {tensor.type}, which is not known")
        raw = np.empty(self._library.ggml_nbytes(address), np.uint8)
        self._library.ggml_backend_tensor_get(address, raw.ctypes.data, 0, raw.nbytes)
        dtype = _DTYPES[tensor.type]
        shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
        node: np.ndarray = np.lib.stride_tricks.as_strided(raw.view(dtype), shape, strides)
        value = arrangement(self._tap, node, self._keys)
        factor = self._nodes.factor(self._tap)
        if factor is None:
            # What is asked for cannot be had exactly.
            return
        self.taps[self._tap] = value / dtype.type(factor)
        if self._tap in self._patches:
            self._patch(value, self._patches[self._tap], factor)
            self._library.ggml_backend_tensor_set(address, raw.ctypes.data, 0, raw.nbytes)

    def _patch(self, value: np.ndarray, patch: np.ndarray, factor: float) -> None:
        """Write the patch into ``value``, a view of the node's bytes."""
        rows = self._patches.get(f"{self._tap}.rows")
        place = value if rows is None else value[rows]
        if patch.size != place.size or len(patch) != len(place):
            raise RefusedError(
                f"the patch has {self._tap} of shape {list(patch.shape)}, where {list(place.shape)} is needed"
            )
        new = patch.reshape(place.shape).astype(value.dtype) * value.dtype.type(factor)
        if rows is None:
            value[...] = new
        else:
            value[rows] = new
        self.patched.add(self._tap)


def _cached(past: Mapping[str, np.ndarray], taps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the cache has after a batch: what it had, and the keys and values of the batch, before they are stored."""
    kept = dict(past)
    for name, tap in (("k_past", "k_rope"), ("v_past", "v")):
        for key, new in taps.items():
            if key.endswith(f".{tap}"):
                place = f"{key.removesuffix(tap)}{name}"
                new = new.reshape(len(new), -1)
                kept[place] = np.concatenate((past[place], new)) if place in past else new
    return kept


def _library(path: Path) -> Any:
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise RefusedError(f"the library cannot be loaded: {error}", missing=True) from error
    for name, (result, arguments) in _SIGNATURES.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise RefusedError(
                f"this build of llama.cpp cannot be driven: it has no function {name}", missing=True
            ) from None
        function.restype, function.argtypes = result, arguments
    return library


def _check_tensors(library: Any) -> None:
    """Raise LayoutError unless a tensor that is made holds what it should where it should."""
    make = library.ggml_init
    make.restype, make.argtypes = _POINTER, (_InitParams,)
    context = make(_InitParams(2**20, None, False))
    address = library.ggml_new_tensor_3d(context, 0, 3, 5, 7)
    library.ggml_set_name(address, b"a name")
    tensor = Tensor.from_address(address)
    scaled = Tensor.from_address(library.ggml_scale(context, address, 0.25))
    known = (
        tensor.type == 0
        and tuple(tensor.ne) == (3, 5, 7, 1)
        and tuple(tensor.nb) == (4, 12, 60, 420)
        and tensor.data == library.ggml_get_data(address)
        and tensor.name == b"a name"
        and library.ggml_get_name(address) == address + Tensor.name.offset
        and ctypes.c_float.from_buffer_copy(ctypes.c_int32(scaled.op_params[0])).value == 0.25
        and scaled.src[0] == address
    )
    library.ggml_free(context)
    if not known:
        raise LayoutError(
            "this build of llama.cpp cannot be driven: its structure ggml_tensor does not read as one that is known"
        )


def _features(text: str) -> str:
    """Of "CPU : SSE3 = 1 | AVX = 1 | ", the names of what is there."""
    words = [part.partition("=") for part in text.replace(":", "|").split("|")]
    return " ".join(name.strip() for name, _, value in words if value.strip() == "1")
