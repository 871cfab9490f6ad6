"""Amplification: how much a function enlarges a small relative change of its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import attrs
import numpy as np

from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.kernels import Implementation
from diffuzz.targets import perturbations
from diffuzz.targets.outcome import Arrays, Outcome
from diffuzz.targets.parameter import Params

if TYPE_CHECKING:
    from jaxtyping import Float, Float64

    # The output of a function, its scale and its magnitude; see Amplification.
    Evaluated: TypeAlias = tuple[Float[AnyArray, "b ..."], Float[AnyArray, " b"], Float[AnyArray, " b"]]

# A move so much shorter is next to nothing, and yet far above the rounding of float64.
_SHORT = 2.0**-12


@attrs.frozen
class Amplification:
    """Amplification of a function f: its relative output drift divided by the relative drift of its input.

        value = (||f(x') - f(x)||_norm / scale) / drift(x, x')

    x' is x moved as the perturbation model says that the parameter ``perturbation`` names, by at most the parameter
    ``delta`` (see diffuzz.targets.perturbations). If several inputs move, the largest of their drifts counts.

    ``function(params, arrays, kernels) -> (output [b, ...], scale [b], magnitude [b])`` evaluates f with the operations
    of a kernel module, ``diffuzz.kernels.exact`` or ``.xla``, whose array module is ``kernels.xp``. The output drift is
    relative to scale. Magnitude is the size of the terms that f adds up: the rounding errors of f are a few ULP of it.
    ``inputs(params)`` names the arrays that move; the direction of array ``x`` is array ``x_direction``. ``norm`` is
    1, 2 or infinity. With ``conditioned`` the explanation of a case has its condition number in the direction of the
    move, too: the value of a move that is next to nothing.
    """

    function: Callable[[Params, Arrays, Implementation], Evaluated]
    inputs: Callable[[Params], tuple[str, ...]]
    norm: float
    conditioned: bool = False

    def move(
        self, params: Params, arrays: Arrays, xp: ArrayModule = np
    ) -> tuple[dict[str, AnyArray], Float64[AnyArray, " b"]]:
        """The arrays with the inputs moved, and the input drift, relative in the measure of the model."""
        moved = dict(arrays)
        drifts = []
        for name in self.inputs(params):
            x = arrays[name]
            direction = arrays[f"{name}_direction"]
            moved[name] = perturbations.apply(params["perturbation"], x, direction, params["delta"], xp)
            drifts.append(perturbations.drift(params["perturbation"], x, moved[name], xp))
        drift = drifts[0]
        for other in drifts[1:]:
            drift = xp.maximum(drift, other)
        return moved, drift

    def ratio(
        self, params: Params, arrays: Arrays, kernels: Implementation
    ) -> tuple[Float64[AnyArray, " b"], Float64[AnyArray, " b"], Float64[AnyArray, " b"], Float64[AnyArray, " b"]]:
        """(value, noise, output drift, input drift) of a batch, with the operations of ``kernels``.

        The value is 0 where nothing moves or the scale is 0.
        """
        xp = kernels.xp
        moved, drift_in = self.move(params, arrays, xp)
        made = self.function(params, arrays, kernels)
        if not isinstance(made, tuple) or len(made) != 3:
            raise ValueError("the function of an Amplification must return (output, scale, magnitude)")
        before, scale, magnitude = made
        after, _, _ = self.function(params, moved, kernels)
        usable = (scale > 0) & (drift_in > 0)
        safe_scale, safe_drift = xp.where(usable, scale, 1.0), xp.where(usable, drift_in, 1.0)
        drift_out = perturbations.norm(after - before, self.norm, xp) / safe_scale
        value = xp.where(usable, drift_out / safe_drift, 0.0)
        # The output is evaluated twice, each time to within a few ULP of a float64 sum of terms of this magnitude.
        # An output that does not move at all does not depend on the input.
        noise = xp.where(usable & (drift_out > 0), 32 * 2.0**-53 * magnitude / safe_scale / safe_drift, 0.0)
        return value, noise, drift_out, drift_in

    def evaluate(self, params: Params, arrays: Arrays) -> Outcome:
        """Values of a batch, by the float64 kernels of diffuzz.kernels.exact."""
        from diffuzz.kernels import exact

        value, noise, _, _ = self.ratio(params, arrays, exact)
        return Outcome(value, noise)

    def explain(self, params: Params, arrays: Arrays) -> dict[str, Float64[np.ndarray, " b"]]:
        """The output drift and the input drift, whose quotient is the value, and the condition number, if it is asked
        for.
        """
        from diffuzz.kernels import exact

        _, _, drift_out, drift_in = self.ratio(params, arrays, exact)
        terms = {"output drift": drift_out, "input drift": drift_in}
        if self.conditioned and params["perturbation"] != "ulp":
            terms["condition number"] = self.ratio({**params, "delta": _SHORT * params["delta"]}, arrays, exact)[0]
        return terms

    def screen(self, params: Params) -> Callable[[Arrays], Float64[AnyArray, " b"]]:
        """A function ``arrays -> value [b]`` that JAX can trace. Raises ImportError without jax."""
        from diffuzz.kernels import xla

        return lambda arrays: self.ratio(params, arrays, xla)[0]
