"""What tests of fingerprints share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from diffuzz import targets
from diffuzz.fingerprinting import box
from diffuzz.fingerprinting.fingerprint import Fingerprint, fingerprint
from diffuzz.fingerprinting.reading import Sizes
from diffuzz.judging.question import Function


@pytest.fixture
def of() -> Callable[..., Fingerprint]:
    """The fingerprint of a function of this process, or of kernels by their name."""

    def found(
        target: str, implementation: str | Function, n: int, rows: int = 64, columns: int = 1, **given: float | str
    ) -> Fingerprint:
        operation = targets.get(target)
        params = operation.contract_params(given)
        make = box.of_kernels if isinstance(implementation, str) else box.opened
        with make(operation, params, implementation) as opened:
            return fingerprint(opened, Sizes(n, rows, columns))

    return found
