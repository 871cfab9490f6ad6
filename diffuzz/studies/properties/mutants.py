"""The functions of ``bench properties``: each mutant breaks or loses one property, and the controls keep all of them.

    Mutant("batch/one-row", "rmsnorm", {}, "wrong_batch.py", "one_row", "batch", "another order of the sum for one row")

They are called as a user's function is, by the name of their file: FILE.py:FUNCTION, in a process of their own.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path

import attrs

from diffuzz.judging import properties

_FOLDER = Path(__file__).parent
# Targets of the functions, by how the names of their arguments begin.
_TARGETS = {
    ("z",): "softmax",
    ("x", "eps"): "rmsnorm",
    ("a", "b"): "matmul",
    ("x", "gain", "bias"): "layer_norm",
    ("x", "residual", "gain"): "add_rmsnorm",
    ("q", "k", "v"): "attention",
    ("x", "positions", "base"): "rope",
    ("gate", "up"): "swiglu",
    ("table", "ids"): "embedding",
}
# Those of which the arguments do not tell it.
_OTHERS = {"split": "cumsum", "scale": "mean_square"}
_NAMED = {
    "cumsum": "cumsum", "sums": "sum", "mean_square": "mean_square", "integer_sums": "sum", "sign_of_the_sum": "sum",
    "scan_with_offset": "cumsum",
}  # fmt: skip
_CONTROLS = (
    "softmax", "rmsnorm", "layer_norm", "matmul", "cumsum", "sums", "mean_square", "swiglu", "attention",
    "causal_attention", "add_rmsnorm", "embedding", "rope", "refusing", "padded", "in_tiles", "with_scratch",
)  # fmt: skip


@attrs.frozen
class Mutant:
    """A function in a file of this folder, the target that it is called for, and the property that it does not keep;
    None for a control. ``wrong`` says what is wrong with it.
    """

    name: str
    target: str
    params: Mapping[str, object]
    file: str
    function: str
    loses: str | None
    wrong: str

    @property
    def candidate(self) -> str:
        """Its name as a candidate."""
        return f"{_FOLDER / self.file}:{self.function}"


def mutants() -> list[Mutant]:
    """All of them, by property, and then the controls."""
    found = []
    for name in properties.ORDER:
        module = importlib.import_module(f"{__package__}.wrong_{name}")
        for function, made in vars(module).items():
            if inspect.isfunction(made) and made.__module__ == module.__name__ and not function.startswith("_"):
                found.append(_mutant(f"{name}/{function.replace('_', '-')}", f"wrong_{name}.py", made, name))
    from diffuzz.studies.properties import right

    return found + [
        _mutant(f"control/{name.replace('_', '-')}", "right.py", getattr(right, name), None) for name in _CONTROLS
    ]


def _mutant(name: str, file: str, made: object, lost: str | None) -> Mutant:
    assert inspect.isfunction(made)
    arguments = tuple(inspect.signature(made).parameters)
    target = _NAMED.get(made.__name__) or next(
        (target for begin, target in _TARGETS.items() if arguments[: len(begin)] == begin), None
    )
    target = target or _OTHERS.get(lost or "", "softmax")
    params = {"causal": True} if target == "attention" and (lost == "split" or "causal" in made.__name__) else {}
    said = (inspect.getdoc(made) or "").partition("\n")[0].rstrip(".")
    return Mutant(name, target, params, file, made.__name__, lost, said[:1].lower() + said[1:])
