"""Running our own passes as engines: a model file and tokens in, a dump out.

A model is opened once for several runs, and its dequantised weights are shared by all passes of a process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import attrs
import numpy as np

from diffuzz.escaping import escaped
from diffuzz.models import architectures, forward, sequence
from diffuzz.models import model as models
from diffuzz.models.checking import known
from diffuzz.models.dump import FORMAT, VERSION, Dump, sizes_of
from diffuzz.models.engines import EngineError, checked_batches
from diffuzz.models.forward import Weights
from diffuzz.models.model import Model, ModelError
from diffuzz.models.operations.rope import Rope
from diffuzz.models.step import Step

# Steps as another implementation computes them.
Replaced = Callable[[tuple[Step, ...]], tuple[Step, ...]]


@attrs.frozen(eq=False)
class Opened:
    """A model with its steps, and the weights that its passes share."""

    model: Model
    steps: tuple[Step, ...]
    weights: Weights


def opened(path: Path | str) -> Opened:
    """The model at ``path``, which is opened anew only if another one was opened meanwhile, or the file has changed.

    Raises ModelError and OSError.
    """
    file = Path(path).resolve()
    about = file.stat()
    return _opened(file, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=1)
def _opened(path: Path, changed: int, size: int) -> Opened:
    model = models.open(path)
    return Opened(model, architectures.steps(model), Weights())


def run(
    name: str,
    path: Path,
    tokens: Sequence[int],
    *,
    arithmetic: str,
    patch: Dump | None = None,
    batches: Sequence[int] = (),
    says: str = "",
    replaced: Replaced = lambda steps: steps,
) -> Dump:
    """The dump of the pass ``arithmetic`` (see diffuzz.models.forward) by the engine ``name``.

    Each tap that ``patch`` has is put in the place of the pass's own as soon as that was dumped. ``says`` is what the
    engine says of its products. Of ``batches`` see diffuzz.models.engines. Raises EngineError for a model that cannot
    be opened, tokens that it does not have, batches that are not these tokens and a patch that does not fit.
    """
    sizes = checked_batches(name, tokens, batches, patch)
    try:
        found = opened(path)
        _check(found.model, tokens)
        touch, taps = _recorder(found, patch, len(tokens))
    except (ModelError, OSError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise EngineError(f"engine {name}: {escaped(str(path))}: {said}") from error
    where, past = sequence.of_tokens(tuple(tokens[: sizes[0]])), dict[str, np.ndarray]()
    steps = replaced(found.steps)
    for size in (*sizes[1:], 0):
        for _ in forward.run(steps, where, arithmetic, weights=found.weights, taps=past, touch=touch):
            pass
        if size:
            start = where.past + len(where.tokens)
            past = _after(past, taps, found)
            steps = replaced(architectures.steps(found.model, past=True))
            where = sequence.of_tokens(tuple(tokens[start : start + size]), past=start)
    ropes = [step.operation for step in found.steps if isinstance(step.operation, Rope)]
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "engine": f"diffuzz {name}, NumPy {np.__version__}",
        "arch": found.model.architecture,
        "model_sha256": found.model.sha256,
        "rope_layout": ropes[0].layout if ropes else "norm",
        "products": says or ("q8" if arithmetic == "ggml" else "f32"),
        "kv": "f32",
    }
    return Dump(metadata, where.tokens, where.positions, {**past, **taps})


def _after(past: Mapping[str, np.ndarray], taps: Mapping[str, np.ndarray], found: Opened) -> dict[str, np.ndarray]:
    """What the cache has after a batch: what it had, and the keys and values of the batch."""
    kept = {}
    for layer in range(sum(step.op == "attn" for step in found.steps)):
        for name, tap in (("k_past", "k_rope"), ("v_past", "v")):
            new = taps[f"blk.{layer}.{tap}"]
            old = past.get(f"blk.{layer}.{name}")
            kept[f"blk.{layer}.{name}"] = new if old is None else np.concatenate((old, new))
    return kept


def _check(model: Model, tokens: Sequence[int]) -> None:
    if not len(tokens):
        raise ModelError("there are no tokens")
    count, context = sizes_of(model)["V"], model.number("context_length", len(tokens))
    outside = [token for token in tokens if not 0 <= token < count]
    if outside:
        raise ModelError(f"token {outside[0]} is none: its vocabulary has 0 to {count - 1}")
    if len(tokens) > context:
        raise ModelError(f"there are {len(tokens)} tokens, and its context has {context}")


def _recorder(found: Opened, patch: Dump | None, count: int) -> tuple[forward.Touch, dict[str, np.ndarray]]:
    """What is done with each tap, and where they are kept."""
    taps: dict[str, np.ndarray] = {}
    by_tap = {step.tap: step for step in found.steps}
    instead = frozenset[str]() if patch is None else known.names(patch)
    if patch is not None and len(patch.tokens) != count:
        raise ModelError(f"the patch is of {len(patch.tokens)} tokens, and the run of {count}")

    def touch(tap: str, value: np.ndarray) -> np.ndarray:
        taps[tap] = value
        if patch is None or tap not in instead:
            return value
        given = known.get(patch, tap, by_tap)
        changed = value.copy()
        changed[... if given.rows is None else given.rows] = given.value
        return changed

    return touch, taps
