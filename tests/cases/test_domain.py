"""Domains: what a user takes away from a space."""

from __future__ import annotations

import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases import domain, draws
from diffuzz.cases.case import unstack
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.targets.parameter import ParameterError

SPACE = Space(
    (
        TensorSpec("x", kind="activations", shape=(Dim("n", 100, largest=1000),), low=-8.0, high=8.0),
        TensorSpec("positions", kind="positions", shape=(Dim("token", 1, fixed=True),), low=-10, high=10),
        TensorSpec("weights", kind="blocks", shape=(Dim("m", 4), Dim("k", 256, step=32)), format="q4_0"),
    )
)


def dim(space: Space, name: str) -> Dim:
    return next(one for one in space.dims if one.name == name)


def restricted(**given: object) -> Space:
    keys = {key.replace("_", ":", 1): value for key, value in given.items()}
    return domain.restricted(SPACE, {key: domain.parsed(key, value) for key, value in keys.items()})


@pytest.mark.parametrize(
    ("given", "name", "wanted"),
    [
        ({"fix_n": 512}, "n", (512, 512, 512)),
        ({"fix_n": "512"}, "n", (512, 512, 512)),
        ({"range_n": "128:"}, "n", (128, 128, 1000)),
        ({"range_n": ":64"}, "n", (1, 64, 64)),
        ({"range_n": "20:300"}, "n", (20, 100, 300)),
        ({"multiple_n": 64}, "n", (64, 64, 960)),
        ({"multiple_n": 64, "range_n": "100:"}, "n", (128, 128, 960)),
        ({"multiple_k": 64}, "k", (64, 256, 256)),
        ({"multiple_k": 48}, "k", (96, 192, 192)),
    ],
)
def test_sizes(given: dict[str, object], name: str, wanted: tuple[int, int, int]) -> None:
    """The least, the usual and the largest size that are left: whole steps, and the usual one as near as can be."""
    left = dim(restricted(**given), name)
    assert (left.lowest, left.size, left.highest) == wanted
    assert left.admits(left.size)


@pytest.mark.parametrize("name", ["positions", "position"])
def test_numbers(name: str) -> None:
    """A range of an array of numbers; a singular stands for its plural."""
    spec = restricted(**{f"range_{name}": "0:4095"})["positions"]
    assert (spec.low, spec.high) == (0, 10)
    assert restricted(fix_x=0.5)["x"].low == restricted(fix_x=0.5)["x"].high == 0.5


def test_scales_are_not_rounded_out_of_the_domain() -> None:
    """Scales of f16 are drawn between the nearest f16 numbers within the range, so that every drawn case is in it."""
    space = restricted(range_scale="1e-3:0.1")
    assert 1e-3 <= space["weights"].smallest_scale < 1.001e-3
    assert 0.0999 < space["weights"].largest_scale <= 0.1
    batch = draws.uniform(space, np.random.default_rng(0), 50)
    assert all(space.admits(unstack(batch, row)) for row in range(50))


@pytest.mark.parametrize("name", ["n", "x", "positions", "weights"])
def test_batches_are_within_the_domain(name: str) -> None:
    """Structured and scattered draws of what is left are admissible."""
    space = restricted(fix_n=30, range_x="-1:5", range_position="3:4", multiple_k=64)
    for draw in (draws.uniform, draws.structured, draws.scattered):
        batch = draw(space, np.random.default_rng(0), 40)
        assert space.admissible(batch).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fix:q": 3}, "there is no q here, but n, z"),
        ({"range:n": "5"}, "--range n=5: LOW:HIGH is needed"),
        ({"range:n": ":"}, "--range n=:: LOW:HIGH is needed"),
        ({"range:n": "9:3"}, "it ends before it begins"),
        ({"multiple:n": 2.5}, "a whole number of at least 1 is needed"),
        ({"multiple:n": 0}, "a whole number of at least 1 is needed"),
        ({"multiple:z": 2}, "z is an array of numbers"),
        ({"fix:n": "many"}, "--fix n=many: a finite number is needed"),
        ({"fix:n": "nan"}, "a finite number is needed"),
        ({"fix:n": 2.5}, "nothing is left of n<="),
        ({"fix:": 3}, "a name is needed, such as --fix n=4096"),
        ({"range:z": "200:300"}, "nothing is left of z in [-120, 120] with --range z=200:300"),
        ({"fix:n": 10**9}, "nothing is left of n<="),
    ],
)
def test_what_is_no_domain(given: dict[str, object], message: str) -> None:
    """One line, which says what is wrong, or what there is."""
    with pytest.raises(ParameterError) as raised:
        targets.get("softmax").contract_params(given)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", targets.names())
def test_every_target_can_be_narrowed(name: str) -> None:
    """The first dimension that has several sizes has one with --fix, of claims and of contracts."""
    target = targets.get(name)
    spaces = [(target.space, target.params)]
    if target.contract is not None:
        spaces.append((target.contract.space, target.contract_params))
    for space, params in spaces:
        for one in space(params()).dims:
            if one.lowest < one.highest:
                left = dim(space(params({f"fix:{one.name}": one.lowest})), one.name)
                assert (left.lowest, left.highest) == (one.lowest, one.lowest)


def test_scalar_arguments() -> None:
    """One eps is that parameter without its powers of ten; a range of them leaves those within it."""
    target = targets.get("rmsnorm")
    assert target.contract is not None
    params = target.contract_params({"fix:eps": "1e-5"})
    assert (params["eps"], params["fix:eps_exponent"]) == (1e-5, 0)
    assert target.contract.domain(params) == {"eps_exponent": "eps in [1e-05, 1e-05]"}
    params = target.contract_params({"range:eps": "1e-6:1e-4"})
    space = target.contract.space(params)
    assert (space["eps_exponent"].low, space["eps_exponent"].high) == (0, 2)
    with pytest.raises(ParameterError, match="nothing is left of eps"):
        target.contract_params({"range:eps": "2:3"})


def test_the_number_of_cases_in_a_call() -> None:
    """b is of no space; it is what one call may get."""
    assert domain.batch({}).highest == domain.LARGEST_BATCH
    left = domain.batch({"multiple:b": 4, "range:b": "8:64"})
    assert (left.lowest, left.size, left.highest) == (8, 64, 64)
    assert targets.get("softmax").contract_params({"fix:b": 1})["fix:b"] == 1


def test_parameters_are_kept_in_one_way() -> None:
    """However a domain is written, the parameters are the same, so that entries of the same search are alike."""
    softmax = targets.get("softmax")
    one = softmax.contract_params({"multiple:n": "32", "range:n": "128 : 4096.0"})
    other = softmax.contract_params({"range:n": "128:4096", "multiple:n": 32})
    assert list(one.items()) == list(other.items())
