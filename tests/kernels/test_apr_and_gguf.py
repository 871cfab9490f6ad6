"""diffuzz.kernels.apr and gguf: the bits that aprender's own tests published, and the loops of its source."""

import numpy as np
import pytest

from diffuzz import formats
from diffuzz.formats import q8_0, q8_k
from diffuzz.kernels import apr, gguf, libm
from diffuzz.kernels.fma import fma

ONE = np.float32(1)


def bits(value: np.float32) -> str:
    """Bit pattern as published."""
    return f"0x{int(value.view(np.uint32)):08x}"


@pytest.fixture
def seed_block() -> np.ndarray:
    """The published Q4_K block."""
    i = np.arange(128)
    header = np.array([0x00, 0x3C, 0x00, 0xB4], np.uint8)
    return np.concatenate([header, (7 * i[:12] + 3) % 256, (13 * i + 17) % 256]).astype(np.uint8)[None]


@pytest.fixture
def ramp() -> np.ndarray:
    """The published activation."""
    i = np.arange(256)
    return ((i - 128).astype(np.float32) * np.float32(0.05) + (i % 7).astype(np.float32) * np.float32(0.01))[None]


def test_published_path_a(seed_block, ramp):
    """FFN-GGUF-008: dequantise and fold gives 0xc69384e3 = -18882.443."""
    assert bits(apr.vec_dot("q4_K", seed_block, ramp)[0, 0]) == "0xc69384e3"
    assert bits(apr.vec_dot_rows("q4_K", seed_block, ramp)[0]) == "0xc69384e3"


def test_published_path_b(seed_block, ramp):
    """FFN-GGUF-008: the fused integer dot product gives 0xc693a21e = -18897.059."""
    assert bits(gguf.vec_dot("q4_K", seed_block, ramp)[0, 0]) == "0xc693a21e"
    assert bits(gguf.vec_dot_rows("q4_K", seed_block, ramp)[0]) == "0xc693a21e"


def test_published_dot_order():
    """FFN-GGUF-006: the left fold and the 8 lanes both give 0x44191e70 = 612.4756."""
    i = np.arange(128, dtype=np.float32)
    a = (i - np.float32(64)) * np.float32(0.1) + np.mod(i, np.float32(7)) * np.float32(0.013)
    b = (np.float32(0.7) * i - np.float32(50)) * np.float32(0.05) + np.mod(i, np.float32(11)) * np.float32(0.011)
    assert (bits(apr.dot_fold(a, b)), bits(apr.dot_lanes(a, b))) == ("0x44191e70", "0x44191e70")


@pytest.mark.parametrize(("m", "b"), [(1, 1), (3, 70), (64, 64), (100, 41)])
def test_folds_are_left_folds(m, b):
    """However many products of rows are folded at a time, each has the bits of its own left fold."""
    rng = np.random.default_rng(m)
    w, x = (rng.standard_normal((rows, 37)).astype(np.float32) for rows in (m, b))
    w[0], x[-1, 5] = -0.0, 3e38
    x[0, 7] = np.inf
    folded = apr.folds(w, x)
    assert folded.dtype == np.float32
    with np.errstate(all="ignore"):
        for i in (0, m // 2, m - 1):
            for j in (0, b // 2, b - 1):
                products = w[i] * x[j]
                total = products[0]
                for product in products[1:]:
                    total = total + product
                np.testing.assert_array_equal(folded[i, j], total + np.float32(0))


@pytest.mark.parametrize("blocks", [1, 3])
def test_fused_rows_meet_every_activation(blocks):
    """Every row with every activation, in as many pieces as it takes, has the bits of each pair met alone."""
    rng = np.random.default_rng(blocks)
    fmt = formats.get("q4_K")
    weights = np.concatenate(
        [fmt.quantize(rng.standard_normal((40, 256)).astype(np.float32)) for _ in range(blocks)], 1
    )
    x = rng.standard_normal((300, 256 * blocks)).astype(np.float32)
    parts = gguf.sub_blocks("q4_K", weights.reshape(40, blocks, -1))
    every = gguf.fused(parts, x, paired=False)
    assert gguf.vec_dot("q4_K", weights, x).tobytes() == every.tobytes()
    for shift in (0, 39, 260):
        alone = gguf.vec_dot_rows("q4_K", weights, x[shift : shift + 40])
        assert alone.tobytes() == every[np.arange(40), np.arange(40) + shift].tobytes()


def test_published_dequantised_block(seed_block):
    """FFN-GGUF-007: element 0 is 10.75, element 255 is 1.25, and both dequantisers agree."""
    values = apr.dequantize("q4_K", seed_block)
    assert (values[0, 0], values[0, 255]) == (10.75, 1.25)
    assert formats.get("q4_K").dequantize(seed_block).tobytes() == values.tobytes()


def test_two_orders_are_two_orders():
    """The left fold and the 8 lanes do not always give the same bits."""
    a, b = np.random.default_rng(0).standard_normal((2, 50, 128)).astype(np.float32)
    assert (apr.dot_fold(a, b) != apr.dot_lanes(a, b)).sum() > 0


@pytest.mark.parametrize("name", formats.names())
def test_dequantisers_agree(name, golden):
    """aprender's loops and the vectorised decoder give the same bits on random blocks of every format."""
    fmt = formats.get(name)
    blocks = np.random.default_rng(1).integers(0, 256, (64, fmt.type_size)).astype(np.uint8)
    one, other = apr.dequantize(name, blocks), fmt.dequantize(blocks)
    assert (64, fmt.block_size) == one.shape
    assert (
        np.flatnonzero((one.view(np.uint32) != other.view(np.uint32)) & ~(np.isnan(one) & np.isnan(other))).tolist()
        == []
    )
    if f"dequantize/{name}/blocks" in golden:
        got = apr.dequantize(name, golden[f"dequantize/{name}/blocks"])
        assert golden[f"dequantize/{name}/values"].tobytes() == got.tobytes()


def test_dequantize_takes_one_block_in_a_row():
    """A row of two blocks is rejected."""
    with pytest.raises(ValueError, match="one block of q4_0 in each is needed"):
        apr.dequantize("q4_0", np.zeros((1, 36), np.uint8))


def fold(values: list[np.float32]) -> np.float32:
    """A left fold, one addition at a time."""
    total = np.float32(0)
    for value in values:
        total = total + value
    return total


def test_fold_is_a_left_fold():
    """dot_fold adds from the left, starting at +0."""
    a, b = np.random.default_rng(3).standard_normal((2, 301)).astype(np.float32)
    assert fold(list(a * b)) == apr.dot_fold(a, b)
    assert not np.signbit(apr.dot_fold(np.float32([-0.0]), ONE[None]))


@pytest.mark.parametrize("n", [1, 7, 8, 13, 64])
def test_lanes_are_chains_of_fused_operations(n):
    """dot_lanes against a scalar loop in which float64 products and sums of small integers are exact."""
    rng = np.random.default_rng(n)
    # 20-bit fractions: products and sums are exact in float64, so f32() is the only rounding. A product has 40 bits.
    a, b = (rng.integers(-(2**19), 2**19, (2, n)) / 2.0**20).astype(np.float32)
    if n < 8:
        expected = fold(list(a * b))
    else:
        acc = [np.float32(0)] * 8
        for i in range(n - n % 8):
            acc[i % 8] = np.float32(np.float64(a[i]) * np.float64(b[i]) + np.float64(acc[i % 8]))
        r = [acc[i] + acc[i + 4] for i in range(4)]
        expected = (r[0] + r[1]) + (r[2] + r[3])
        for i in range(n - n % 8, n):
            expected = expected + a[i] * b[i]
    assert bits(expected) == bits(apr.dot_lanes(a, b))


def test_matmul_is_the_lanes_of_each_pair():
    """matmul has the bits of dot_lanes for each row and token."""
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((9, 40)).astype(np.float32), rng.standard_normal((4, 40)).astype(np.float32)
    expected = np.array([[apr.dot_lanes(row, token) for token in x] for row in w])
    assert expected.tobytes() == apr.matmul(w, x).tobytes()


def test_batches_have_the_bits_of_single_pairs(format, weights):
    """In apr and gguf, every row with every x, and row i with x i, give the bits of each pair alone."""
    w = weights(format, 3, 2, 4, largest=1.0)
    k = w.shape[1] // formats.get(format).type_size * formats.get(format).block_size
    x = np.random.default_rng(1).standard_normal((3, k)).astype(np.float32)
    simd = {"order": "simd"}
    for kernel, options in ((apr, {}), (apr, simd), *([(gguf, {})] if format in gguf.FORMATS else [])):
        whole = kernel.vec_dot(format, w, x, **options)
        alone = [
            [kernel.vec_dot(format, w[m : m + 1], x[b : b + 1], **options)[0, 0] for b in range(3)] for m in range(3)
        ]
        assert np.array(alone).tobytes() == whole.tobytes()
        assert whole.diagonal().tobytes() == kernel.vec_dot_rows(format, w, x, **options).tobytes()


def test_q4_k_in_scalar_loops(weights):
    """The fused q4_K dot product against a loop over sub-blocks with one float32 operation a step."""
    w, x = weights("q4_K", 1, 3, 8, largest=2.0), np.random.default_rng(2).standard_normal((1, 768)).astype(np.float32)
    fields = formats.get("q4_K").unpack(w.reshape(3, 144))
    d8, codes = q8_k.quantise_realizar(x.reshape(3, 256))
    total = np.float32(0)
    for block in range(3):
        d, dmin = np.float32(fields["d"][block]), np.float32(fields["dmin"][block])
        for sub in range(8):
            q8 = codes[block, 32 * sub : 32 * sub + 32]
            q4 = fields["codes"][block, 32 * sub : 32 * sub + 32]
            scale = d * np.float32(fields["scales"][block, sub]) * d8[block]
            minimum = dmin * np.float32(fields["minimums"][block, sub]) * d8[block]
            total = total + (scale * np.float32((q4 * q8).sum()) - minimum * np.float32(q8.sum()))
    assert bits(total) == bits(gguf.vec_dot("q4_K", w, x)[0, 0])


def in_lanes(pairs: list[tuple[int, np.float32, np.float32]]) -> list[np.float32]:
    """Eight accumulators, acc[lane] = fma(a, b, acc[lane]) for each (lane, a, b) in order."""
    acc = [np.float32(0)] * 8
    for lane, a, b in pairs:
        acc[lane] = fma(a, b, acc[lane])[()]
    return acc


def added(acc: list[np.float32], first: int) -> np.float32:
    """Upper half to lower half, then lane 0 to lane ``first`` and the other two, then both."""
    r = [acc[i] + acc[i + 4] for i in range(4)]
    return (r[0] + r[first]) + (r[3 - first] + r[3])


@pytest.mark.parametrize("name", ["q4_0", "q8_0"])
def test_q8_0_activations_in_scalar_loops(weights, name):
    """The integer kernels of 32 weights: one fused step for each lane and block, neighbours added first."""
    for seed in range(20):
        w = weights(name, 1, 4, seed, largest=2.0)
        x = np.random.default_rng(seed).standard_normal((1, 128)).astype(np.float32)
        parts = formats.get(name).decode(w.reshape(4, -1))
        steps, codes = q8_0.quantise_realizar(x.reshape(4, 32))
        pairs = []
        for block in range(4):
            products = (parts.code[block] * codes[block]).reshape(8, 4).sum(axis=1).astype(np.float32)
            pairs += [(lane, parts.d[block] * steps[block], products[lane]) for lane in range(8)]
        assert bits(added(in_lanes(pairs), first=1)) == bits(gguf.vec_dot(name, w, x)[0, 0])


def test_q5_k_in_scalar_loops(weights):
    """Four fused steps for each lane of a sub-block, one for its scale and one for its minimum, 0 + 2 added first."""
    for seed in range(20):
        w = weights("q5_K", 1, 1, seed, largest=2.0)
        x = np.random.default_rng(seed).standard_normal((1, 256)).astype(np.float32)
        parts = formats.get("q5_K").decode(w)
        acc = [np.float32(0)] * 8
        for sub in range(0, 256, 32):
            part = range(sub, sub + 32)
            chains = in_lanes([(i % 8, np.float32(parts.code[0, i]), x[0, i]) for i in part])
            for lane in range(8):
                acc[lane] = fma(parts.scale[0, sub], chains[lane], acc[lane])[()]
                total = fold([x[0, i] for i in part if i % 8 == lane])
                acc[lane] = fma(-parts.minimum[0, sub], total, acc[lane])[()]
        assert bits(added(acc, first=2)) == bits(gguf.vec_dot("q5_K", w, x)[0, 0])


def test_q6_k_in_scalar_loops(weights):
    """Four accumulators, one for each quarter of a half, added in pairs; then 0 + 2 first."""
    for seed in range(20):
        w = weights("q6_K", 1, 1, seed, largest=2.0)
        x = np.random.default_rng(seed).standard_normal((1, 256)).astype(np.float32)
        values = formats.get("q6_K").dequantize(w)[0]
        quarters = [
            in_lanes([(i % 8, values[i], x[0, i]) for i in range(256) if i // 32 % 4 == quarter])
            for quarter in range(4)
        ]
        acc = [(quarters[0][i] + quarters[1][i]) + (quarters[2][i] + quarters[3][i]) for i in range(8)]
        assert bits(added(acc, first=2)) == bits(gguf.vec_dot("q6_K", w, x)[0, 0])


def test_q8_0_keeps_the_scale_in_float32():
    """Blocks far below the f16 range survive realizar's quantiser, which keeps the scale in float32."""
    block = formats.get("q8_0").pack({"d": np.ones(1, np.float16), "codes": np.ones((1, 32), np.int32)})
    x = np.full((1, 32), 1e-7, np.float32)
    _, codes = q8_0.quantise_realizar(x)
    assert codes[0].tolist() == [127] * 32
    assert abs(float(gguf.vec_dot("q8_0", block, x)[0, 0]) - 32e-7) <= 1e-12


def test_rms_norm_divides_and_multiplies():
    """APR divides by the root of a folded mean; GGUF multiplies by its reciprocal; the weight is one more product."""
    x = np.random.default_rng(0).standard_normal((1, 40)).astype(np.float32)
    gain = np.linspace(0.5, 2, 40, dtype=np.float32)
    root = np.sqrt(fold(list(x[0] * x[0])) / np.float32(40) + np.float32(1e-6))
    assert (x / root).tobytes() == apr.rms_norm(x, 1e-6).tobytes()
    assert (x / root * gain).tobytes() == apr.rms_norm(x, 1e-6, gain).tobytes()
    inverse = gguf.rms_norm(x, 1e-6)
    np.testing.assert_allclose(inverse, x / root, rtol=4e-7)
    assert (inverse * gain).tobytes() == gguf.rms_norm(x, 1e-6, gain).tobytes()


def test_gguf_rms_norm_in_sixteen_lanes():
    """Fused squares in 16 lanes, halves added until one is left, the tail folded apart."""
    for seed in range(20):
        x = np.random.default_rng(seed).standard_normal((1, 37)).astype(np.float32)
        acc = np.zeros(16, np.float32)
        for i in range(32):
            acc[i % 16] = fma(x[0, i], x[0, i], acc[i % 16])
        while len(acc) > 1:
            acc = acc[: len(acc) // 2] + acc[len(acc) // 2 :]
        mean = (acc[0] + fold(list(x[0, 32:] * x[0, 32:]))) / np.float32(37)
        expected = x * (ONE / np.sqrt(mean + np.float32(1e-5)))
        assert expected.tobytes() == gguf.rms_norm(x, 1e-5).tobytes()


def test_soft_max_divides_and_multiplies():
    """APR divides by the folded sum of expf; GGUF multiplies by its reciprocal."""
    x = np.random.default_rng(0).standard_normal((1, 30)).astype(np.float32)
    e = libm.expf(x - x.max())
    total = fold(list(e[0]))
    assert (e / total).tobytes() == apr.soft_max(x).tobytes()
    assert (e * (ONE / total)).tobytes() == gguf.soft_max(x).tobytes()


def test_silu_and_swiglu():
    """x / (1 + expf(-x)), times up; -0 where expf overflows; the same on both paths."""
    x, up = np.random.default_rng(0).standard_normal((2, 4, 30)).astype(np.float32)
    expected = x / (ONE + libm.expf(-x))
    assert expected.tobytes() == apr.silu(x).tobytes() == gguf.silu(x).tobytes()
    assert (expected * up).tobytes() == apr.swiglu(x, up).tobytes()
    assert apr.silu(np.float32([-89])).tolist() == [0.0]
    assert np.isnan(apr.silu(np.float32([-np.inf]))).all()


def test_rope_is_not_fused():
    """Each element is the rounded difference or sum of two rounded products."""
    x = np.random.default_rng(0).standard_normal((3, 2, 8)).astype(np.float32)
    positions = np.array([0, 5, 1000], np.int32)
    frequency = ONE / libm.powf(500000.0, np.arange(0, 8, 2, dtype=np.float32) / np.float32(8))
    angle = (positions.astype(np.float32)[:, None] * frequency)[:, None]
    cos, sin = libm.cosf(angle), libm.sinf(angle)
    first, second = x[..., :4], x[..., 4:]
    expected = np.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
    assert expected.tobytes() == apr.rope(x, positions, 500000.0, "neox").tobytes()
    shuffled = np.stack([first, second], axis=-1).reshape(3, 2, 8)
    assert expected[..., :4].tobytes() == apr.rope(shuffled, positions, 500000.0, "norm")[..., 0::2].tobytes()


def test_unknown_order_and_format_are_rejected(seed_block, ramp):
    """An order that does not exist, and a format that realizar has no kernel for."""
    with pytest.raises(ValueError, match="order='pairwise': fold or simd is needed"):
        apr.vec_dot("q4_K", seed_block, ramp, order="pairwise")
    with pytest.raises(ValueError, match="format='q8_1': realizar multiplies weights of"):
        gguf.vec_dot("q8_1", np.zeros((1, 36), np.uint8), np.zeros((1, 32), np.float32))
