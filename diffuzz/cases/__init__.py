"""Cases: what an input is, which inputs are admissible, and how they are drawn, stored and shown."""

from __future__ import annotations

from diffuzz.cases.case import Case
from diffuzz.cases.space import Dim, InadmissibleError, Space, TensorSpec

__all__ = ["Case", "Dim", "InadmissibleError", "Space", "TensorSpec"]
