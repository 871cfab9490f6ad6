"""transformers and PyTorch on the same GGUF file: ``hf``, or ``hf:dtype=bfloat16,threads=4``.

transformers dequantises all tensors and runs its own code for the architecture, eagerly, on the CPU and without any
network. Forward hooks copy what the modules return; inside of attention, which is one function, its two products and
the softmax are taken as torch is asked for them. A patch is written over a value in place, so that it also reaches what
else reads it, such as the residual stream.

What a GGUF file does not have, transformers takes from its own defaults: queries of a gemma3 are scaled by 256^-1/2
whatever the size of a head, which is that of llama.cpp for heads of 256 only.

transformers rotates elements that are half a head apart, and reorders the rows of q and k of a llama for it. So its q
and k lie in the order "neox", whatever the file has; patches are reordered where they say "norm".

The process is ``diffuzz.models.serving`` with the function ``compute``. Its first run loads the model.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from diffuzz.models.driving import TIMEOUT, Session
from diffuzz.models.engines import EngineError, MissingEngineError, checked_batches

if TYPE_CHECKING:
    from diffuzz.models.dump import Dump

_PACKAGES = ("torch", "transformers", "accelerate", "gguf")
# What a dump says of its products, kv and residual, by the dtype that a model runs in.
_DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
# By tap: the module, and whether the tap is its input.
_Hooks = Mapping[str, tuple[str, bool]]
_ENDS: _Hooks = {
    "embd": ("model.embed_tokens", False),
    "final_norm": ("model.norm", False),
    "logits": ("lm_head", False),
}
_LAYER: _Hooks = {
    "attn_norm": ("input_layernorm", False),
    "q": ("self_attn.q_proj", False),
    "k": ("self_attn.k_proj", False),
    "v": ("self_attn.v_proj", False),
    "attn": ("self_attn.o_proj", True),
    "attn_out": ("self_attn.o_proj", False),
    "gate": ("mlp.gate_proj", False),
    "up": ("mlp.up_proj", False),
    "glu": ("mlp.down_proj", True),
    "down": ("mlp.down_proj", False),
    "l_out": ("", False),
}
_LLAMA: _Hooks = {
    **_LAYER,
    "ffn_inp": ("post_attention_layernorm", True),
    "ffn_norm": ("post_attention_layernorm", False),
}
_GEMMA3: _Hooks = {
    **_LAYER,
    "q_norm": ("self_attn.q_norm", False),
    "k_norm": ("self_attn.k_norm", False),
    "attn_post_norm": ("post_attention_layernorm", False),
    "ffn_inp": ("pre_feedforward_layernorm", True),
    "ffn_norm": ("pre_feedforward_layernorm", False),
    "ffn_post_norm": ("post_feedforward_layernorm", False),
}
_ARCHITECTURES = {"llama": _LLAMA, "qwen2": _LLAMA, "gemma3": _GEMMA3}
# Taps that transformers has as [heads, n, c].
_HEADS_FIRST = ("q_norm", "k_norm", "q_rope", "k_rope")
# Those that lie in the order of the rotation.
_ROTATED = ("q", "k", *_HEADS_FIRST)


def run(
    model: Path,
    tokens: Sequence[int],
    *,
    patch: Dump | None = None,
    batches: Sequence[int] = (),
    dtype: str = "float32",
    threads: int = 2,
    timeout: float = TIMEOUT,
) -> Dump:
    """One run in a process of its own, in ``dtype`` (float32, bfloat16 or float16). Raises EngineError."""
    with opened(model, dtype=dtype, threads=threads, timeout=timeout, several=False) as session:
        return session.run(tokens, patch, batches)


def opened(
    model: Path, *, dtype: str = "float32", threads: int = 2, timeout: float = TIMEOUT, several: bool = True
) -> Session:
    """A process for ``several`` runs. Raises MissingEngineError; EngineError for options of no use."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingEngineError(f"engine hf needs {' and '.join(missing)}: pip install 'diffuzz-kernels[hf]'")
    if dtype not in _DTYPES:
        raise EngineError(f"engine hf: dtype={dtype!r:.80} is none of {', '.join(_DTYPES)}")
    if threads < 1:
        raise EngineError(f"engine hf: threads={threads} is not above zero")
    options = ("--option", f"dtype={dtype}", "--option", f"threads={threads}")
    command = (sys.executable, "-m", "diffuzz.models.serving", f"{__name__}:compute", *options)
    return Session("hf", command, model, timeout=timeout, several=several)


def compute(
    path: Path,
    tokens: Sequence[int],
    patch: Dump | None = None,
    batches: Sequence[int] = (),
    *,
    dtype: str = "float32",
    threads: int = 2,
) -> Dump:
    """The run itself, in this process."""
    import torch
    import transformers

    from diffuzz.models import model as models
    from diffuzz.models.dump import FORMAT, VERSION, Dump

    file = models.open(path)
    if file.architecture not in _ARCHITECTURES:
        raise EngineError(f"the architecture {file.architecture!r} is not one of {', '.join(_ARCHITECTURES)}")
    torch.set_num_threads(threads)
    network = _loaded(path, dtype)
    vocabulary = network.get_input_embeddings().num_embeddings
    if not 0 <= min(tokens) <= max(tokens) < vocabulary:
        raise EngineError(f"tokens are 0 to {vocabulary - 1}, and {min(tokens)} to {max(tokens)} were given")
    *before, last = checked_batches("hf", tokens, batches, patch)
    start = len(tokens) - last
    cache, past = _cached(network, tokens, before)
    taps = _Taps({} if patch is None else _patches(patch, file.architecture, _head_size(network.config)))
    with _hooked(network, _ARCHITECTURES[file.architecture], taps), torch.no_grad():
        network(torch.tensor([list(tokens[start:])]), past_key_values=cache, use_cache=cache is not None)
    if unused := sorted(set(taps.patches) - set(taps.copies)):
        raise EngineError(f"the patch has taps that this engine does not have: {', '.join(unused[:5])}")
    stored = _DTYPES[dtype]
    return Dump(
        metadata={
            "format": FORMAT,
            "version": VERSION,
            "engine": f"hf: transformers {transformers.__version__}, torch {torch.__version__}, eager, {dtype}, "
            f"{torch.backends.cpu.get_cpu_capability()}, threads {threads}",
            "arch": file.architecture,
            "model_sha256": file.sha256,
            "rope_layout": "neox",
            "products": stored,
            "kv": stored,
            "residual": stored,
            **({} if patch is None else {"patched": str(len(taps.patches))}),
        },
        tokens=np.asarray(tokens[start:], np.int32),
        positions=np.arange(start, len(tokens), dtype=np.int32),
        taps={**past, **taps.copies},
    )


def _cached(network: Any, tokens: Sequence[int], batches: Sequence[int]) -> tuple[Any, dict[str, np.ndarray]]:
    """The cache after some batches of the tokens, and what it holds by tap; None if there are no batches."""
    if not batches:
        return None, {}
    import torch
    import transformers

    # Told of no configuration, so that layers with a sliding window keep all tokens: the mask hides the others.
    cache, done = transformers.DynamicCache(), 0
    with torch.no_grad():
        for size in batches:
            network(torch.tensor([list(tokens[done : done + size])]), past_key_values=cache, use_cache=True)
            done += size
    held = {}
    for number, layer in enumerate(cache.layers):
        held[f"blk.{number}.k_past"] = _array(layer.keys[0].transpose(0, 1))
        held[f"blk.{number}.v_past"] = _array(layer.values[0].transpose(0, 1))
    return cache, held


@functools.lru_cache(maxsize=1)
def _loaded(path: Path, dtype: str) -> Any:
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TQDM_DISABLE": "1"}
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    network = transformers.AutoModelForCausalLM.from_pretrained(
        str(path.resolve().parent),
        gguf_file=path.name,
        dtype=getattr(torch, dtype),
        attn_implementation="eager",
        local_files_only=True,
    )
    return network.eval()


@attrs.define
class _Taps:
    """Copies of taps as they are produced, and what is put in their place."""

    patches: Mapping[str, tuple[np.ndarray, np.ndarray | None]]
    copies: dict[str, np.ndarray] = attrs.field(init=False, factory=dict)

    def take(self, name: str, value: Any) -> None:
        """Copy a tensor, as it is in a dump, and overwrite it where there is a patch."""
        import torch

        self.copies[name] = _array(value)
        if name not in self.patches:
            return
        patch, rows = self.patches[name]
        wanted = (len(value) if rows is None else len(rows), *value.shape[1:])
        if patch.size != np.prod(wanted):
            raise EngineError(f"the patch has {name} of shape {list(patch.shape)}, where {list(wanted)} is needed")
        values = torch.from_numpy(patch.astype(np.float32).reshape(wanted)).to(value.dtype)
        if rows is None:
            value.copy_(values)
        else:
            value[torch.from_numpy(rows.astype(np.int64))] = values


def _array(value: Any) -> np.ndarray:
    import torch

    copy = value.detach().clone(memory_format=torch.contiguous_format)
    if copy.dtype is torch.bfloat16:
        from ml_dtypes import bfloat16

        return np.asarray(copy.view(torch.int16).numpy()).view(bfloat16)
    return np.asarray(copy.numpy())


class _hooked:  # noqa: N801, a context manager like those of contextlib
    """A context in which every run of ``network`` gives its taps."""

    def __init__(self, network: Any, layer_hooks: _Hooks, taps: _Taps) -> None:
        self._network, self._layer_hooks, self._taps = network, layer_hooks, taps
        self._undo: list[Callable[[], object]] = []

    def __enter__(self) -> None:
        for tap, (module, is_input) in _ENDS.items():
            self._hook(tap, self._network.get_submodule(module), is_input)
        for number, layer in enumerate(self._network.model.layers):
            for tap, (module, is_input) in self._layer_hooks.items():
                self._hook(f"blk.{number}.{tap}", layer.get_submodule(module), is_input)
        # Each architecture has a function of its own for eager attention, which its module calls by name.
        home = sys.modules[type(self._network.model.layers[0].self_attn).__module__]
        eager = home.eager_attention_forward
        self._undo.append(functools.partial(setattr, home, "eager_attention_forward", eager))
        home.eager_attention_forward = functools.partial(_attention, self._taps, eager)  # type: ignore[attr-defined]

    def __exit__(self, *error: object) -> None:
        for undo in self._undo:
            undo()

    def _hook(self, name: str, module: Any, is_input: bool) -> None:
        heads_first = name.rpartition(".")[2] in _HEADS_FIRST

        def take(value: Any) -> None:
            alone = value[0] if isinstance(value, tuple) else value
            self._taps.take(name, alone[0].transpose(0, 1) if heads_first else alone[0])

        if is_input:
            self._undo.append(module.register_forward_pre_hook(lambda module, given: take(given)).remove)
        else:
            self._undo.append(module.register_forward_hook(lambda module, given, value: take(value)).remove)


def _attention(
    taps: _Taps, eager: Callable[..., Any], module: Any, query: Any, key: Any, *others: Any, **named: Any
) -> Any:
    """The eager attention of transformers, with its inputs, its first product and its softmax as taps."""
    import torch
    from torch.overrides import TorchFunctionMode

    begin = f"blk.{module.layer_idx}"
    taps.take(f"{begin}.q_rope", query[0].transpose(0, 1))
    # Behind the keys of the cache.
    taps.take(f"{begin}.k_rope", key[0].transpose(0, 1)[-query.shape[2] :])
    products = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)
    softmaxes = (torch.nn.functional.softmax, torch.softmax, torch.Tensor.softmax)

    class Watching(TorchFunctionMode):  # type: ignore[misc]  # torch is Any
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            value = function(*args, **(kwargs or {}))
            if function in products and f"{begin}.scores" not in taps.copies:
                taps.take(f"{begin}.scores", value[0])
            elif function in softmaxes:
                taps.take(f"{begin}.probs", value[0])
            return value

    with Watching():
        return eager(module, query, key, *others, **named)


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _patches(patch: Dump, architecture: str, head_size: int) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Taps of a patch in the order "neox", each with the tokens of its rows if they are not all."""
    layout = patch.metadata.get("rope_layout", "norm" if architecture == "llama" else "neox")
    found = {}
    for name, array in patch.taps.items():
        if layout == "norm" and name.rpartition(".")[2] in _ROTATED:
            if array.size % head_size:
                raise EngineError(f"the patch has {name} of shape {list(array.shape)}: no heads of {head_size}")
            # Neighbours 2i and 2i + 1 become i and i + c/2.
            array = array.reshape(-1, head_size // 2, 2).swapaxes(1, 2).reshape(array.shape)
        found[name] = (array, patch.rows.get(name))
    return found
