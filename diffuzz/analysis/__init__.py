"""Running error analysis: the exact value of a function, and how far an implementation of a stated arithmetic may be
from it.
"""

from diffuzz.analysis.arithmetic import FORMATS, Arithmetic, FloatFormat, round_to
from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.jaxpr import AnalysisError, Traced, bound, evaluate, trace

__all__ = [
    "FORMATS",
    "AnalysisError",
    "Arithmetic",
    "Estimate",
    "FloatFormat",
    "Traced",
    "bound",
    "evaluate",
    "round_to",
    "trace",
]
