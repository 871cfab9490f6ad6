"""Tolerances that people use, restated from their sources.

torch         torch.testing.assert_close: |got - exact| <= atol + rtol |exact|, by dtype
              (torch/testing/_comparison.py, _DTYPE_PRECISIONS)
kernelbench   KernelBench: the same with atol = rtol (its src/eval.py, get_tolerance_for_precision)
ggml          llama.cpp's tests/test-backend-ops.cpp: the normalised mean squared error of a whole result is at most
              max_nmse_err, 1e-7 unless the operation's test says otherwise
"""

from __future__ import annotations

import attrs
import numpy as np

from diffuzz.studies.mutants.ggml_criteria import OPS_NMSE, OPS_NMSE_OTHERS

TORCH = {
    "float64": (1e-7, 1e-7),
    "float32": (1.3e-6, 1e-5),
    "bfloat16": (1.6e-2, 1e-5),
    "float16": (1e-3, 1e-5),
}
KERNELBENCH = {"float32": 1e-4, "bfloat16": 1e-2, "float16": 1e-2}


@attrs.frozen
class Table:
    """A tolerance for each element, rtol |exact| + atol, or one for the whole result."""

    name: str
    rtol: float
    atol: float
    nmse: float | None = None

    def allowed(self, exact: np.ndarray) -> np.ndarray:
        """The error that an element may have, or, with ``nmse``, the root mean square that those of a row [b n] may."""
        if self.nmse is None:
            return np.asarray(self.atol + self.rtol * np.abs(exact))
        return np.asarray(np.sqrt(self.nmse * np.square(exact).mean(axis=1, keepdims=True)))

    def rejects(self, exact: np.ndarray, got: np.ndarray) -> np.ndarray:
        """Which rows are rejected."""
        with np.errstate(invalid="ignore"):
            gap = np.abs(got - exact)
        if self.nmse is None:
            return np.asarray(~(gap <= self.allowed(exact)).all(axis=1))
        return np.asarray(~(np.sqrt(np.square(gap).mean(axis=1)) <= self.allowed(exact)[:, 0]))


def tables(operation: str, dtype: str) -> list[Table]:
    """The tables that know the dtype. ggml's is for float32 and float16, the dtypes of its tests."""
    found = []
    if dtype in TORCH:
        found.append(Table("torch", *TORCH[dtype]))
    if dtype in KERNELBENCH:
        found.append(Table("kernelbench", KERNELBENCH[dtype], KERNELBENCH[dtype]))
    if dtype in ("float32", "float16"):
        found.append(Table("ggml", 0.0, 0.0, OPS_NMSE.get(operation, OPS_NMSE_OTHERS)))
    return found
