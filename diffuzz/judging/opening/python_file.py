"""A function of Python, in a file."""

from __future__ import annotations

from diffuzz import registry
from diffuzz.judging.opening.named import CandidateError, PythonFunction
from diffuzz.judging.question import Function


def load(named: PythonFunction) -> Function:
    """The function; its file is run (see diffuzz.registry.load_file).

    Raises CandidateError: no such function, or an exception while the file ran.
    """
    try:
        module = registry.load_file(named.path, f"candidate {named.specification}")
    except registry.RegistryError as error:
        raise CandidateError(str(error)) from error
    function = getattr(module, named.name, None)
    if not callable(function):
        found_kind = "" if function is None else f", but the {type(function).__name__} of that name"
        raise CandidateError(f"candidate {named.specification}: {named.path} has no function {named.name}{found_kind}")
    found: Function = function
    return found
