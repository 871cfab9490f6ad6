"""Fingerprints: the arithmetic of a black box, recovered from its results and verified on random inputs.

    with box.opened(targets.get("sum"), params, "my_kernels.py:total") as opened:
        found = fingerprint(opened, Sizes(n=4096, rows=64))
        found.order                          "4096 summands, 8 lanes, each 512 in sequence with stride 8, ..."
        found.verified                       Verified(agree=128, of=128)

What was recovered is only said to be so where a simulation of it in NumPy has the bits of the box on random inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.fingerprinting import exponentials, measuring, verifying
from diffuzz.fingerprinting.box import Box, BoxError
from diffuzz.fingerprinting.exponentials import Profile
from diffuzz.fingerprinting.masks import NoTreeError
from diffuzz.fingerprinting.reading import Reader, Sizes, UnsteadyError, reader
from diffuzz.fingerprinting.sums import BITS, NEAREST, ZERO, Sum
from diffuzz.fingerprinting.tree import Tree
from diffuzz.fingerprinting.verifying import Verified
from diffuzz.fingerprinting.words import words

if TYPE_CHECKING:
    from jaxtyping import Int64

NONE = "none"
# Bits that adders of several numbers may keep below the first bit of the largest one.
_ALIGNED = range(20, 31)
# Operations whose results are the sums themselves.
_ANY_DTYPE = ("sum", "cumsum", "matmul", "batched_matmul")
# Summands of a sum of positive numbers that is long.
_LONG = 1024
# Of positive numbers, no result shows in which order they are added in a wider format.
_WIDE = "in float64, in an order that does not show"
# Inputs of a softmax of which no exponential has to be known.
_FAR = "of logits that are the largest or far below it"


@attrs.frozen
class Fingerprint:
    """The arithmetic of one implementation of an operation.

    order       the order of the sum in words; "none: ..." with the reason where there is none
    details     other properties by name: accumulator, products, rounding, subnormals, finish, exp, ...
    sum         the recovered sum, and ``tree`` its tree; None where there is no order
    verified    on how many random inputs a simulation of it has the same bits; None where nothing was simulated
    rows        how many rows of a call are added up in the order of the first, of how many
    """

    target: str
    name: str
    sizes: Sizes
    order: str
    details: Mapping[str, str]
    sum: Sum | None = None
    verified: Verified | None = None
    exp: Profile | None = None
    rows: tuple[int, int] = (1, 1)

    @property
    def tree(self) -> Tree | None:
        """The tree of the sum, if there is one."""
        return None if self.sum is None else self.sum.tree

    @property
    def fields(self) -> dict[str, str]:
        """All that two fingerprints may differ in, by name."""
        return {"order": self.order, **self.details}


def fingerprint(box: Box, sizes: Sizes, *, seed: int = 0) -> Fingerprint:
    """The fingerprint of a box. Raises BoxError where it gives no results, or its target has nothing to recover."""
    box = box.with_rows(sizes.rows)
    dtype = str(box.params.get("dtype", "float32"))
    if dtype not in BITS:
        raise BoxError(f"dtype={dtype}: its numbers are too few for a fingerprint; {', '.join(BITS)} have enough")
    if dtype != "float32" and box.target.name not in _ANY_DTYPE:
        raise BoxError(f"dtype={dtype}: results of {box.target.name} show how they were made in float32 only")
    if box.target.name == "silu":
        return _of_silu(box, sizes, seed)
    if box.target.name == "matvec":
        from diffuzz.fingerprinting import blocks

        if blocks.applies(box):
            return blocks.fingerprint(box, sizes, seed=seed)
        sizes = attrs.evolve(sizes, rows=1)
    try:
        read = reader(box, sizes)
        found = _of_positive(box, sizes, read, seed) if read.positive else _of_signed(box, read, seed)
        return attrs.evolve(found, rows=(int(read.used.sum()), len(read.used)))
    except UnsteadyError as error:
        return Fingerprint(box.target.name, box.name, sizes, str(error), {})
    except ValueError:
        if box.target.name != "rmsnorm":
            raise
    # An eps below 0, by which its sums would show, is refused by kernels that check it.
    try:
        return _of_positive(box, sizes, None, seed)
    except UnsteadyError as error:
        return Fingerprint(box.target.name, box.name, sizes, str(error), {})


def _of_signed(box: Box, read: Reader, seed: int) -> Fingerprint:
    dtype = str(box.params.get("dtype", "float32"))
    stored = BITS.get(dtype, BITS["float32"])
    try:
        at = measuring.scale(read)
    except NoTreeError as error:
        # Nothing that a sum would give: wrong, or no sum at all.
        raise BoxError(f"{box.name}: {error}") from error
    try:
        tree = measuring.tree(read, at)
        bits = measuring.significands(read, at, tree)
    except NoTreeError as error:
        return _without_tree(box, read, str(error), stored, seed)
    factors = measuring.factors(read) if stored == BITS["float32"] else (24, 24)
    rounding = measuring.rounding(read, at, tree, bits, min(stored, *factors))
    fused = None
    if read.products:
        # Products of shorter factors are exact in float32.
        short = max(factors) < BITS["float32"] or stored < BITS["float32"] or read.factor == 1.0
        fused = np.zeros(tree.n, bool) if short else measuring.fused(read, tree)
    flushes = measuring.flushes(read)
    found, verified = _best(read, _variants(measuring.simulated(
        tree, bits, fused=fused, factors=factors, rounding=rounding, flushes=flushes, half=at.half
    )), stored, seed)  # fmt: skip
    details = {"accumulator": accumulator(tree, bits)}
    if fused is not None:
        details["products"] = "exact in float32" if short else _products(tree, fused)
    if min(found.factors) < BITS["float32"]:
        shown = found.factors if read.free else found.factors[:1]
        details["summands" if fused is None else "factors" if read.free else "x"] = " and ".join(
            f"{width} bits" for width in shown
        )
    details["rounding"] = rounding
    if found.aligned is not None:
        cut = f"summands are cut off {found.aligned} bits below the first bit of the largest"
        details["at once"] = f"{cut}, sums rounded {_toward(found.wide)}"
    if flushes is not None:
        details["subnormals"] = _subnormals(flushes)
    if not verified.all:
        why = f"masks show {words(tree)}, but random inputs do not keep to it"
        return _without_tree(box, read, why, stored, seed, verified)
    return Fingerprint(box.target.name, box.name, read.sizes, words(tree), details, found, verified)


def _variants(found: Sum) -> Iterator[Sum]:
    """What is tried of a sum, for what masks cannot tell apart: a short summand, and a sum that is short."""
    wide = attrs.evolve(found, factors=(BITS["float32"], BITS["float32"]))
    for one in [found] if min(found.factors) >= BITS["float32"] else [found, wide]:
        yield one
        if (one.bits < BITS["float32"]).any():
            yield attrs.evolve(one, twice=True)
    if not found.tree.is_binary():
        for aligned in _ALIGNED:
            for rounding in (NEAREST, ZERO):
                yield attrs.evolve(found, aligned=aligned, wide=rounding)


def _best(read: Reader, variants: Iterator[Sum], stored: int, seed: int) -> tuple[Sum, Verified]:
    """The first that has all bits of the box on random inputs, or the one that has most."""
    tried = []
    for one in variants:
        tried.append((one, verifying.signed(read, one, stored, seed)))
        if tried[-1][1].all:
            return tried[-1]
    return max(tried, key=lambda each: each[1].agree)


def _without_tree(
    box: Box, read: Reader, why: str, stored: int, seed: int, verified: Verified | None = None
) -> Fingerprint:
    """A sum that is no tree of roundings: exact, compensated, or of an order that depends on the numbers."""
    name, agreed = verifying.without_tree(read, stored, seed)
    if name is not None:
        return Fingerprint(box.target.name, box.name, read.sizes, f"{NONE}: {name}", {}, None, agreed)
    reason = "its order depends on the numbers, or its sum is no tree of roundings"
    return Fingerprint(box.target.name, box.name, read.sizes, f"{NONE}: {reason}; {why}", {}, None, verified)


def _of_positive(box: Box, sizes: Sizes, read: Reader | None, seed: int) -> Fingerprint:
    """Sums of squares and exponentials: the tree is measured if it shows, and else one of those that kernels have."""
    tree, why = None, ""
    # Of long sums, the usual orders are tried first: a simulation of a few rows takes less time than masks of all.
    found = verifying.positive(box, sizes.n, None, seed) if read is None or sizes.n > _LONG else None
    recognised = found is not None and found.sum is not None
    if found is None or (read is not None and found.sum is None):
        try:
            tree = None if read is None else measuring.tree(read, None)
        except NoTreeError as error:
            why = str(error)
        found = verifying.positive(box, sizes.n, tree, seed)
        recognised = tree is None
    if tree is not None and found.sum is None:
        usual = verifying.positive(box, sizes.n, None, seed)
        found, recognised = (usual, True) if usual.sum is not None else (found, False)
    if tree is not None and found.sum is None and read is not None and box.target.name != "softmax":
        found = verifying.shown(read, tree, seed)
    profile = _profile(box, sizes.n) if box.target.name == "softmax" else None
    scaled = False
    if profile is not None and found.sum is not None:
        if profile.names:
            seen = verifying.ordinary(box, sizes.n, found, profile.names, seed)
            scaled = not seen.all
        else:
            seen = attrs.evolve(found.verified, inputs=_FAR)
        found = attrs.evolve(found, verified=seen)
    details: dict[str, str] = {}
    if found.sum is not None and not scaled:
        details = {"accumulator": accumulator(found.sum.tree, found.sum.bits)}
        if found.sum.fused is not None:
            details["products"] = _products(found.sum.tree, found.sum.fused)
    if found.finish or found.sum is not None:
        details["finish"] = found.finish or "none of the known ones"
    if profile is not None:
        details["exp"] = profile.words
    if found.sum is not None and scaled:
        reason = "its sums are scaled anew where a logit is larger (online), or their order depends on the numbers"
        why = f"far below the largest logit it is {words(found.sum.tree).replace('at once', _WIDE)}"
        order = f"{NONE}: {reason}; {why}"
        return Fingerprint(box.target.name, box.name, sizes, order, details, None, found.verified, profile)
    if found.sum is None:
        shown = (
            f" ({words(tree).replace('at once', _WIDE)}, as masks show)"
            if tree is not None
            else f"; {why}"
            if why
            else ""
        )
        order = f"{NONE}: no tree that was tried{shown} has its bits"
        return Fingerprint(box.target.name, box.name, sizes, order, details, None, found.verified, profile)
    order = words(found.sum.tree).replace("at once", _WIDE) + (
        " (recognised among the usual orders)" if recognised else ""
    )
    return Fingerprint(box.target.name, box.name, sizes, order, details, found.sum, found.verified, profile)


def _profile(box: Box, n: int) -> Profile:
    """The exponentials of a softmax, of logits so far below the largest one that their sum is 1."""
    top = -18.0 - float(np.log(n))
    t = np.linspace(-87.0, top, 4096).astype(np.float32)
    step = max(n - 1, 1)
    rows = -(-len(t) // step)
    z = np.full((rows, n), t[-1], np.float32)
    padded = np.concatenate([t, np.full(rows * step - len(t), t[-1], np.float32)])
    z[:, 0] = 0
    if n > 1:
        z[:, 1:] = padded.reshape(rows, step)
    got = box({"z": z}).reshape(rows, n)[:, 1:].reshape(-1)[: len(t)].astype(np.float32)
    names = exponentials.matched(got, lambda e: e(z)[:, 1:].reshape(-1)[: len(t)])
    return exponentials.profile(t, got, np.exp(t.astype(np.float64)), names)


def _of_silu(box: Box, sizes: Sizes, seed: int) -> Fingerprint:
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(-87, 87, 4096)).astype(np.float32)
    got = box({"x": x[None, None]}).reshape(-1).astype(np.float32)
    if not np.isfinite(got).all():
        raise BoxError(f"{box.name}: its result of ordinary numbers is not finite, so there is no fingerprint")
    one = np.float32(1)
    forms = {
        "x / (1 + e^-x)": lambda e: x / (one + e(-x)),
        "x * (1 / (1 + e^-x))": lambda e: x * (one / (one + e(-x))),
    }
    details: dict[str, str] = {}
    names: tuple[str, ...] = ()
    for form, function in forms.items():
        names = exponentials.matched(got, function)
        if names:
            details["finish"] = form
            break
    wide = x.astype(np.float64)
    profile = exponentials.profile(x, got, wide / (1 + np.exp(-wide)), names)
    details["exp"] = profile.words
    verified = Verified(len(x), len(x)) if names else None
    return Fingerprint(
        "silu", box.name, sizes, f"{NONE}: an operation on single numbers", details, None, verified, profile
    )


def accumulator(tree: Tree, bits: Int64[np.ndarray, " nodes"]) -> str:
    """The significands of the sums, in words."""
    names = {width: name for name, width in BITS.items()} | {64: "wider than float64"}
    if not len(bits):
        return "none"
    widths, counts = np.unique(bits, return_counts=True)
    named = [names.get(int(width), f"{width} bits") for width in widths]
    if len(named) == 1:
        return named[0]
    parts = [f"{name} for {count} sum{'s' if count > 1 else ''}" for name, count in zip(named, counts, strict=True)]
    sizes = [tree.sizes[tree.n :][bits == width].max() for width in widths]
    return ", ".join(f"{part} of up to {size}" for part, size in zip(parts, sizes, strict=True))


def _toward(rounding: str) -> str:
    return "to nearest" if rounding == NEAREST else rounding


def _products(tree: Tree, fused: np.ndarray) -> str:
    if not fused.any():
        return "rounded before they are added"
    if fused.all():
        return "exact"
    pairs = sum(1 for node in tree.nodes if all(child < tree.n for child in node))
    if int((~fused).sum()) == pairs:
        return "fused multiply-adds"
    return f"fused multiply-adds for {int(fused.sum())} of {tree.n}"


def _subnormals(flushes: tuple[bool, bool]) -> str:
    return {
        (False, False): "kept",
        (True, True): "flushed, in and out",
        (True, False): "flushed where they come in",
        (False, True): "flushed where they come out",
    }[flushes]
