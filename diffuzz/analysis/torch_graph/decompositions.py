"""Which ATen operations are taken apart into others, beyond what torch calls its core.

Torch keeps some operations whole because compilers have kernels for them: norms, softmax, most activations. Here each
of them is its formula, written by torch itself in simpler operations; those that remain have a rule.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

_FURTHER = (
    "_adaptive_avg_pool2d",
    "_log_softmax",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_functional",
    "_native_batch_norm_legit_no_training",
    "_softmax",
    "addbmm",
    "addmv",
    "dist",
    "elu",
    "gelu",
    "hardtanh",
    "index_select",
    "leaky_relu",
    "linalg_vector_norm",
    "native_batch_norm",
    "native_group_norm",
    "native_layer_norm",
    "narrow_copy",
    "tril_indices",
    "triu_indices",
    "unbind_copy",
    "upsample_nearest2d",
)
# Taken apart by torch's core, though there is a rule for them that knows how else they are computed.
_WHOLE = ("addmm", "baddbmm", "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d")


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The table for ``ExportedProgram.run_decompositions``, which changes it: from an operation to a function of
    simpler ones."""
    return dict(_table())


@functools.cache
def _table() -> dict[Any, Callable[..., Any]]:
    # Torch makes its own table in a tenth of a second, each time that it is asked.
    table = dict(torch.export.default_decompositions())
    table.update(torch._decomp.get_decompositions([getattr(torch.ops.aten, name) for name in _FURTHER]))
    table[torch.ops.aten.rms_norm.default] = _rms_norm
    for name in _WHOLE:
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            table.pop(getattr(packet, overload), None)
    return table


def _rms_norm(x: Any, shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Any:
    """x / sqrt(mean(x^2) + eps) * weight. Without an eps it is that of the dtype, for 16 bits that of float32: see
    torch.nn.RMSNorm.
    """
    if eps is None:
        eps = min(torch.finfo(x.dtype).eps, torch.finfo(torch.float32).eps)
    axes = list(range(-len(shape), 0))
    result = x * torch.rsqrt(torch.mean(x * x, dim=axes, keepdim=True) + eps)
    return result if weight is None else result * weight
