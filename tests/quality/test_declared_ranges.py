"""Every target over the whole of what it declares: a search with any parameters that fit together ends with a result,
and its case is saved and has its value again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cli import main
from diffuzz.targets.parameter import Parameter, ParameterError
from diffuzz.targets.target import Target

pytestmark = pytest.mark.quality

# Ends of all parameters: all low, all high, and two ways to mix them, so that each end meets both of most others; and
# values in between.
MIXTURES = ("low", "high", "alternating", "the other way round", "between", "between again")
# Of the questions in which two kernels are compared, whose parameters are those of the contract.
COMPARED = ("low", "high", "alternating", "between")
# Elements that a search, and then minimising, evaluates in a second: little, and the same on every machine.
WORK_PER_SECOND = 2**12
SECONDS = 30


def values(parameter: Parameter, mixture: str, index: int, rng: np.random.Generator) -> object:
    """The value of a parameter in a mixture; ``index`` is its place among the others."""
    options = [False, True] if isinstance(parameter.default, bool) else list(parameter.options)
    if not options:
        assert parameter.low is not None, f"{parameter.name} declares no range"
        assert parameter.high is not None, f"{parameter.name} declares no range"
        options = [parameter.low, parameter.high]
        if mixture.startswith("between"):
            # Sizes and magnitudes alike go over decades.
            low = max(parameter.low, 1e-9)
            inside = float(np.exp(rng.uniform(np.log(low), np.log(parameter.high))))
            return round(inside) if isinstance(parameter.default, int) else inside
    if mixture.startswith("between"):
        return options[rng.integers(len(options))]
    last = {"low": False, "high": True, "alternating": index % 2 == 0, "the other way round": index % 2 == 1}[mixture]
    return options[-1 if last else 0]


def fitting(target: Target, mixture: str, *, judging: bool) -> dict[str, object]:
    """As much of a mixture as fits together: what does not is left at its default, and says so in one line."""
    rng = np.random.default_rng(sum(map(ord, target.name + mixture)))
    contract = target.contract
    parameters = contract.parameters if judging and contract else target.parameters
    check = target.contract_params if judging else target.params
    given: dict[str, object] = {}
    refused: list[str] = []
    # Choices first: sizes have to fit a format, and not the other way round.
    for index, parameter in enumerate(sorted(parameters, key=lambda one: not one.options)):
        wanted = given | {parameter.name: values(parameter, mixture, index, rng)}
        try:
            check(wanted)
            given = wanted
        except ParameterError as error:
            refused.append(str(error))
    assert all(message.isprintable() for message in refused), refused
    return given


def pair_of(target: Target, given: Mapping[str, object] | None = None) -> tuple[str, ...]:
    """Two kernels of a target that run in this process and compile nothing; fewer, where it has no two, as under a
    policy that only the exact result has.
    """
    known = target.contract.kernels(target.contract_params(given)) if target.contract else ()
    return tuple(name for name in known if name in ("apr", "ggml", "exact", "gguf"))[:2]


def questions() -> Iterator[tuple[str, str, bool]]:
    for name in targets.names():
        contract = targets.get(name).contract
        # Operations that are one function each are written alike, and each of their spaces is compiled.
        alike = contract is not None and contract.derived is not None and not contract.batched
        yield from ((name, mixture, False) for mixture in (MIXTURES[2::2] if alike else MIXTURES))
        if len(pair_of(targets.get(name))) == 2:
            yield from ((name, mixture, True) for mixture in COMPARED)


@pytest.mark.parametrize(("name", "mixture", "judging"), list(questions()))
def test_a_search_with_any_parameters_has_a_result(
    name: str,
    mixture: str,
    judging: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit 0 or 1, nothing on stderr, nothing lost: the case that the report shows is an entry that replays."""
    target = targets.get(name)
    given = fitting(target, mixture, judging=judging)
    if judging and len(pair_of(target, given)) < 2:
        # A choice that only the exact result has is left to candidates.
        given = {key: value for key, value in given.items() if key not in ("policy", "activation")}
    run(name, given, pair_of(target, given) if judging else (), tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *(("rope", {"head_dim": n, "perturbation": "normwise"}) for n in (2048, 2870, 4096, 65536)),
        *(("rmsnorm", {"n": n, "perturbation": "normwise", "gain": True}) for n in (4096, 65536)),
    ],
)
def test_short_steps_of_long_directions(
    name: str,
    given: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A unit vector of thousands of elements, made 32 times shorter, has no element that is large enough: such a
    direction was the best case once, and the result was lost.
    """
    run(name, given, (), tmp_path, monkeypatch, capsys)


def run(
    name: str,
    given: Mapping[str, object],
    pair: tuple[str, ...],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A search by the command line, and a replay of what it saved."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("diffuzz.searching.search.WORK_PER_SECOND", WORK_PER_SECOND)
    monkeypatch.setattr("diffuzz.minimising.minimise._WORK_PER_SECOND", WORK_PER_SECOND)
    words = ["search", "--target", name, "--seed", "1", "--budget", f"{SECONDS}s", "--save"]
    words += [word for key, value in given.items() for word in ("--param", f"{key}={_written(value)}")]
    # In a narrow dtype there is no second one.
    words += ["--kernels", ",".join(pair)] if len(pair) == 2 else []
    code = main._run(words)
    out, err = capsys.readouterr()
    if code == 2 and "promise anything of the result" in err:
        # Squares that all underflow, without an eps: no case says anything of the kernels.
        return
    assert (True, "") == (code in (0, 1), err), " ".join(words)
    assert "minimising it failed" not in out
    entries = list(folder.rglob("*.json"))
    assert len(entries) <= 1
    if entries:
        assert main._run(["replay", str(entries[0])]) == 0, capsys.readouterr()
    else:
        # Nothing had a value above zero, so there is no case.
        assert any(said in out for said in ("No case had a value", "every result agrees", "at most 0 of")), out


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
