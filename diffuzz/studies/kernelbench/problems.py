"""The hundred problems of KernelBench's level 1, restated: what each computes, in sizes of which one runs in
milliseconds.

KernelBench (Ouyang et al. 2025, arXiv:2502.10517, github.com/ScalingIntelligence/KernelBench, MIT) asks for a faster
kernel in the place of a PyTorch module, and judges it by a fixed tolerance on random inputs. Numbers and titles are
those of the benchmark, and so are kernel sizes, strides, paddings, dilations, groups and the distributions of inputs;
batches, channels and lengths are smaller, in the same relations (an asymmetric input stays asymmetric).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

Draw = Callable[[torch.Generator], tuple[Any, ...]]


@attrs.frozen(eq=False)
class Problem:
    """One problem: `make()` is the reference, a function of tensors or a module with random weights;
    `inputs(generator)` its arguments."""

    number: int
    title: str
    make: Callable[[], Callable[..., Any]]
    inputs: Draw


def _uniform(*shapes: Sequence[int]) -> Draw:
    """Tensors of these shapes, uniform on [0, 1), as nearly all problems draw them."""
    return lambda generator: tuple(torch.rand(*shape, generator=generator) for shape in shapes)


def _scaled(*shapes: Sequence[int]) -> Draw:
    """The same, where the first tensor is multiplied by a random number below 1."""

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        scale = torch.rand((), generator=generator)
        first, *others = (torch.rand(*shape, generator=generator) for shape in shapes)
        return first * scale, *others

    return draw


def _function(function: Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
    return lambda: function


def _matmul(
    number: int, title: str, a: Sequence[int], b: Sequence[int], function: Callable[..., Any] = torch.matmul
) -> Problem:
    return Problem(number, title, _function(function), _uniform(a, b))


def _unary(number: int, title: str, function: Callable[..., Any], shape: Sequence[int] = (16, 384)) -> Problem:
    return Problem(number, title, _function(function), _uniform(shape))


def _module(number: int, title: str, make: Callable[[], nn.Module], shape: Sequence[int]) -> Problem:
    return Problem(number, title, make, _uniform(shape))


def _conv(
    number: int,
    title: str,
    kind: Callable[..., nn.Module],
    channels: tuple[int, int],
    kernel: int | tuple[int, ...],
    space: Sequence[int],
    *,
    bias: bool = False,
    **settings: Any,
) -> Problem:
    def make() -> nn.Module:
        return kind(*channels, kernel, bias=bias, **settings)

    return Problem(number, title, make, _uniform((2, channels[0], *space)))


def _symmetric(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    a, b = (torch.rand(48, 48, generator=generator) for _ in range(2))
    return (a + a.T) / 2, (b + b.T) / 2


def _triangles(part: Callable[[Tensor], Tensor]) -> Draw:
    return lambda generator: tuple(part(torch.rand(48, 48, generator=generator)) for _ in range(2))


def _masked(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.rand(8, 256, generator=generator), torch.randint(0, 2, (8, 256), generator=generator).bool()


def _classes(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.rand(32, 128, generator=generator), torch.randint(0, 128, (32,), generator=generator)


def _distributions(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    scale = torch.rand((), generator=generator)
    a, b = (torch.rand(16, 128, generator=generator) for _ in range(2))
    return (a * scale).softmax(dim=-1), b.softmax(dim=-1)


def _signs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.rand(64, 64, generator=generator), torch.randint(0, 2, (64,), generator=generator).float() * 2 - 1


def _rms_norm(x: Tensor) -> Tensor:
    return x / torch.sqrt(torch.mean(x**2, dim=1, keepdim=True) + 1e-5)


def _frobenius_norm(x: Tensor) -> Tensor:
    return x / torch.norm(x, p="fro")


def _l1_norm(x: Tensor) -> Tensor:
    return x / torch.mean(torch.abs(x), dim=1, keepdim=True)


def _l2_norm(x: Tensor) -> Tensor:
    return x / torch.norm(x, p=2, dim=1, keepdim=True)


def _new_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


def _exclusive_cumsum(x: Tensor) -> Tensor:
    sums = torch.cumsum(x.narrow(1, 0, x.size(1) - 1), dim=1)
    return torch.cat((torch.zeros_like(x.select(1, 0).unsqueeze(1)), sums), dim=1)


def _kl_divergence(predictions: Tensor, targets: Tensor) -> Tensor:
    return F.kl_div(torch.log(predictions), targets, reduction="batchmean")


def _hinge(predictions: Tensor, targets: Tensor) -> Tensor:
    return torch.mean(torch.clamp(1 - predictions * targets, min=0))


def _separable() -> nn.Module:
    depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
    return nn.Sequential(depthwise, nn.Conv2d(4, 8, 1, bias=False))


def _products() -> tuple[Problem, ...]:
    return (
        _matmul(1, "Square matrix multiplication", (48, 48), (48, 48)),
        _matmul(2, "Standard matrix multiplication", (24, 96), (96, 48)),
        _matmul(3, "Batched matrix multiplication", (4, 16, 32), (4, 32, 24), torch.bmm),
        _matmul(4, "Matrix-vector multiplication", (16, 2048), (2048, 1)),
        Problem(
            5,
            "Matrix-scalar multiplication",
            _function(lambda a, s: a * s),
            lambda g: (torch.rand(64, 32, generator=g), 3.14),
        ),
        _matmul(6, "Matmul with large K", (8, 4096), (4096, 8)),
        _matmul(7, "Matmul with small K", (64, 8), (8, 64)),
        _matmul(8, "Matmul with irregular shapes", (41, 29), (29, 59)),
        _matmul(9, "Tall skinny matrix multiplication", (96, 4), (4, 96)),
        _matmul(10, "3D tensor times matrix", (2, 16, 32), (32, 24)),
        _matmul(
            11, "4D tensor times matrix", (2, 4, 8, 32), (32, 24), lambda a, b: torch.einsum("bijl,lk->bijk", a, b)
        ),
        _matmul(12, "Diagonal matrix times matrix", (48,), (48, 48), lambda a, b: a.unsqueeze(1) * b),
        Problem(13, "Matmul of symmetric matrices", _function(torch.matmul), _symmetric),
        Problem(
            14,
            "Matmul of upper triangular matrices",
            _function(lambda a, b: torch.triu(torch.matmul(a, b))),
            _triangles(torch.triu),
        ),
        Problem(
            15,
            "Matmul of lower triangular matrices",
            _function(lambda a, b: torch.tril(torch.matmul(a, b))),
            _triangles(torch.tril),
        ),
        _matmul(16, "Matmul with A transposed", (96, 24), (96, 48), lambda a, b: torch.matmul(a.T, b)),
        _matmul(17, "Matmul with B transposed", (24, 96), (48, 96), lambda a, b: torch.matmul(a, b.T)),
        _matmul(18, "Matmul with both transposed", (96, 24), (48, 96), lambda a, b: torch.matmul(a.T, b.T)),
    )


def _activations() -> tuple[Problem, ...]:
    return (
        _unary(19, "ReLU", torch.relu),
        _unary(20, "LeakyReLU", lambda x: F.leaky_relu(x, negative_slope=0.01)),
        _unary(21, "Sigmoid", torch.sigmoid),
        _unary(22, "Tanh", torch.tanh),
        _unary(23, "Softmax", lambda x: torch.softmax(x, dim=1)),
        _unary(24, "LogSoftmax", lambda x: torch.log_softmax(x, dim=1)),
        _unary(25, "Swish", lambda x: x * torch.sigmoid(x)),
        _unary(26, "GELU", F.gelu),
        _unary(27, "SELU", torch.selu),
        _unary(28, "HardSigmoid", F.hardsigmoid),
        _unary(29, "Softplus", F.softplus),
        _unary(30, "Softsign", lambda x: x / (1 + torch.abs(x))),
        _unary(31, "ELU", lambda x: F.elu(x, alpha=1.0)),
        _unary(32, "HardTanh", lambda x: F.hardtanh(x, min_val=-1.0, max_val=1.0)),
    )


def _norms_pools_reductions() -> tuple[Problem, ...]:
    return (
        _module(33, "BatchNorm", lambda: nn.BatchNorm2d(8), (4, 8, 16, 16)),
        _module(34, "InstanceNorm", lambda: nn.InstanceNorm2d(8), (4, 8, 16, 16)),
        _module(35, "GroupNorm", lambda: nn.GroupNorm(2, 8), (4, 8, 16, 16)),
        _unary(36, "RMSNorm", _rms_norm, (4, 64, 8, 8)),
        _unary(37, "Frobenius norm", _frobenius_norm, (4, 8, 8, 8)),
        _unary(38, "L1 norm", _l1_norm, (8, 1023)),
        _unary(39, "L2 norm", _l2_norm, (8, 1023)),
        _module(40, "LayerNorm", lambda: nn.LayerNorm((4, 16, 16)), (4, 4, 16, 16)),
        _module(41, "Max pooling 1D", lambda: nn.MaxPool1d(8, stride=1, padding=4, dilation=3), (2, 6, 128)),
        _module(42, "Max pooling 2D", lambda: nn.MaxPool2d(4, stride=1, padding=1, dilation=1), (2, 4, 24, 24)),
        _module(43, "Max pooling 3D", lambda: nn.MaxPool3d(3, stride=2, padding=1, dilation=3), (2, 3, 14, 14, 14)),
        _module(44, "Average pooling 1D", lambda: nn.AvgPool1d(8, stride=1, padding=4), (2, 6, 128)),
        _module(45, "Average pooling 2D", lambda: nn.AvgPool2d(11), (2, 4, 44, 44)),
        _module(46, "Average pooling 3D", lambda: nn.AvgPool3d(3, stride=2, padding=1), (2, 3, 10, 10, 20)),
        _unary(47, "Sum over a dimension", lambda x: torch.sum(x, dim=1, keepdim=True), (4, 96, 31)),
        _unary(48, "Mean over a dimension", lambda x: torch.mean(x, dim=1), (4, 96, 31)),
        _unary(49, "Max over a dimension", lambda x: torch.max(x, dim=1)[0], (4, 96, 31)),
        _unary(51, "Argmax over a dimension", lambda x: torch.argmax(x, dim=1), (4, 96, 31)),
        _unary(52, "Argmin over a dimension", lambda x: torch.argmin(x, dim=1), (4, 96, 31)),
        _unary(53, "Min over a dimension", lambda x: torch.min(x, dim=1)[0], (4, 96, 31)),
    )


def _convolutions() -> tuple[Problem, ...]:
    one, two, three = nn.Conv1d, nn.Conv2d, nn.Conv3d
    return (
        _conv(
            50,
            "Conv 2D, square input and kernel, AlexNet's first",
            two,
            (3, 8),
            11,
            (31, 31),
            bias=True,
            stride=4,
            padding=2,
        ),
        _conv(54, "Conv 3D, square input and kernel", three, (3, 6), 3, (8, 8, 8)),
        _conv(55, "Conv 2D, asymmetric input, square kernel", two, (6, 8), 3, (12, 24)),
        _conv(56, "Conv 2D, asymmetric input and kernel", two, (6, 8), (5, 7), (24, 12)),
        _conv(59, "Conv 3D, asymmetric input, square kernel", three, (3, 6), (3, 3, 1), (16, 16, 4)),
        _conv(60, "Conv 3D, square input, asymmetric kernel", three, (3, 6), (3, 5, 7), (9, 9, 9)),
        _conv(62, "Conv 2D, square input, asymmetric kernel", two, (4, 8), (5, 9), (20, 20)),
        _conv(63, "Conv 2D, square input and kernel", two, (4, 8), 3, (20, 20)),
        _conv(66, "Conv 3D, asymmetric input and kernel", three, (3, 6), (3, 5, 7), (6, 12, 12)),
        _conv(67, "Conv 1D", one, (8, 16), 3, (64,)),
        _conv(76, "Conv 1D, strided, dilated", one, (8, 16), 3, (96,), stride=3, dilation=4),
        _conv(
            80,
            "Conv 2D, asymmetric kernel, padded, dilated",
            two,
            (4, 8),
            (5, 9),
            (20, 20),
            padding=(2, 4),
            dilation=(2, 3),
        ),
        _conv(82, "Depthwise conv 2D, square input and kernel", two, (8, 8), 3, (16, 16), groups=8),
        _conv(83, "Depthwise conv 2D, square input, asymmetric kernel", two, (8, 8), (3, 1), (16, 16), groups=8),
        _conv(84, "Depthwise conv 2D, asymmetric input, square kernel", two, (8, 8), 3, (12, 24), groups=8),
        _conv(85, "Depthwise conv 2D, asymmetric input and kernel", two, (8, 8), (3, 7), (12, 24), groups=8),
        Problem(86, "Depthwise separable conv 2D", _separable, _uniform((2, 4, 16, 16))),
        _conv(87, "Pointwise conv 2D", two, (8, 16), 1, (16, 16)),
    )


def _transposed_convolutions() -> tuple[Problem, ...]:
    one, two, three = nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
    grouped: dict[str, Any] = {"stride": 2, "padding": 1, "groups": 4}
    return (
        _conv(57, "Transposed conv 2D, square input and kernel", two, (6, 6), 3, (16, 16)),
        _conv(58, "Transposed conv 3D, asymmetric input and kernel", three, (4, 3), (3, 5, 7), (4, 6, 10)),
        _conv(61, "Transposed conv 3D, square input and kernel", three, (4, 4), 3, (8, 8, 8)),
        _conv(64, "Transposed conv 1D", one, (8, 8), 3, (64,)),
        _conv(65, "Transposed conv 2D, square input, asymmetric kernel", two, (6, 6), (3, 7), (16, 16)),
        _conv(68, "Transposed conv 3D, square input, asymmetric kernel", three, (4, 6), (3, 5, 5), (6, 6, 6)),
        _conv(69, "Transposed conv 2D, asymmetric input and kernel", two, (6, 8), (3, 5), (10, 20)),
        _conv(70, "Transposed conv 3D, asymmetric input, square kernel", three, (4, 3), 3, (8, 8, 8)),
        _conv(71, "Transposed conv 2D, asymmetric input, square kernel", two, (6, 6), 3, (12, 24)),
        _conv(
            72,
            "Transposed conv 3D, asymmetric, strided, padded, grouped",
            three,
            (8, 8),
            (3, 5, 7),
            (4, 6, 8),
            stride=(2, 2, 2),
            padding=(1, 2, 3),
            output_padding=(1, 1, 1),
            groups=4,
        ),
        _conv(
            73, "Transposed conv 3D, square kernel, strided, padded, grouped", three, (8, 8), 3, (4, 6, 8), **grouped
        ),
        _conv(74, "Transposed conv 1D, dilated", one, (6, 8), 5, (64,), dilation=3),
        _conv(
            75,
            "Transposed conv 2D, asymmetric, strided, grouped, padded, dilated",
            two,
            (8, 8),
            (3, 5),
            (8, 16),
            stride=(2, 3),
            padding=(1, 2),
            dilation=(2, 1),
            groups=4,
        ),
        _conv(
            77,
            "Transposed conv 3D, square, padded, dilated, strided",
            three,
            (4, 6),
            3,
            (4, 6, 6),
            stride=2,
            padding=1,
            dilation=2,
        ),
        _conv(78, "Transposed conv 2D, asymmetric, padded", two, (6, 6), (3, 7), (12, 24), padding=(1, 3)),
        _conv(
            79, "Transposed conv 1D, padded, strided, dilated", one, (6, 8), 3, (64,), stride=2, padding=1, dilation=2
        ),
        _conv(
            81, "Transposed conv 2D, padded, strided, dilated", two, (6, 8), 3, (8, 16), stride=5, padding=1, dilation=2
        ),
    )


def _rest() -> tuple[Problem, ...]:
    row = (8, 256)
    heads = (2, 2, 24, 64)
    return (
        _unary(88, "MinGPT's new GELU", _new_gelu),
        _unary(89, "Cumulative sum", lambda x: torch.cumsum(x, dim=1), row),
        _unary(90, "Cumulative product", lambda x: torch.cumprod(x, dim=1), row),
        _unary(91, "Reverse cumulative sum", lambda x: torch.cumsum(x.flip(1), dim=1).flip(1), row),
        _unary(92, "Exclusive cumulative sum", _exclusive_cumsum, row),
        Problem(93, "Masked cumulative sum", _function(lambda x, mask: torch.cumsum(x * mask, dim=1)), _masked),
        Problem(
            94, "Mean squared error", _function(lambda p, t: torch.mean((p - t) ** 2)), _scaled((64, 64), (64, 64))
        ),
        Problem(95, "Cross-entropy", _function(F.cross_entropy), _classes),
        Problem(96, "Huber loss", _function(F.smooth_l1_loss), _scaled((64, 64), (64, 64))),
        Problem(
            97, "Scaled dot-product attention", _function(F.scaled_dot_product_attention), _uniform(heads, heads, heads)
        ),
        Problem(98, "Kullback-Leibler divergence", _function(_kl_divergence), _distributions),
        Problem(
            99, "Triplet margin loss", lambda: nn.TripletMarginLoss(margin=1.0), _scaled((64, 64), (64, 64), (64, 64))
        ),
        Problem(100, "Hinge loss", _function(_hinge), _signs),
    )


_PARTS = (_products, _activations, _norms_pools_reductions, _convolutions, _transposed_convolutions, _rest)
PROBLEMS: tuple[Problem, ...] = tuple(
    sorted((problem for part in _PARTS for problem in part()), key=lambda problem: problem.number)
)
