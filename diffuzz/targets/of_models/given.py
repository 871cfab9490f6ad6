"""The model that a target is about: a parameter, of which a corpus entry has the name and the digest."""

from __future__ import annotations

from functools import cache

from diffuzz.models import named, prompts
from diffuzz.models.model import ModelError
from diffuzz.models.named import UnknownModelError
from diffuzz.models.prompts import Pair
from diffuzz.targets.parameter import Parameter, ParameterError


def _name_of(file: str) -> str:
    if not file:
        raise ParameterError("parameter model: a model is needed: give --param model=FILE, a GGUF or .apr file")
    try:
        return named.name_of(file)
    except (ModelError, UnknownModelError) as error:
        raise ParameterError(f"parameter {error}") from error


MODEL = Parameter("model", "", "the model, a GGUF or .apr file; written down by its name and SHA-256", names=_name_of)


@cache
def pair(name: str) -> Pair:
    """Both paths of the model of a name, opened once. Raises ParameterError for one that is not supported."""
    try:
        return prompts.pair_of(named.get(name))
    except ModelError as error:
        raise ParameterError(f"parameter model={named.file_of(name)}: {error}") from error
