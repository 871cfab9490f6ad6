"""Models by name: what is written down of a model file is its name and its digest, never where it is.

    name = name_of("models/SmolLM2-135M-Instruct.Q4_1.gguf")     # "SmolLM2-135M-Instruct.Q4_1.gguf@2bc2e3f4..."
    get(name)                                                    # the Model, in this process

A corpus entry has such a name. It says nothing of a place, so whoever replays the entry names the file again.
"""

from __future__ import annotations

import re
from pathlib import Path

from diffuzz.escaping import escaped
from diffuzz.models import model as models
from diffuzz.models.model import Model, ModelError

_NAME = re.compile(r"(.+)@([0-9a-f]{64})")
# By digest, all that were named in this process; and the digests by place.
_MODELS: dict[str, Model] = {}
_DIGESTS: dict[Path, str] = {}


class UnknownModelError(ValueError):
    """A model of which only the name is known: nobody has said in this process which file it is; one line."""


def name_of(path: Path | str) -> str:
    """The name of the model in a file, which is known from now on; of a name, itself.

    Raises ModelError, one line that names the file, for one that cannot be opened or is no model; UnknownModelError for
    the name of a model that nobody has opened here.
    """
    text = str(path)
    if _NAME.fullmatch(text) and not Path(text).exists():
        get(text)
        return text
    place = Path(text).resolve()
    if place not in _DIGESTS:
        try:
            model = models.open(place)
        except (OSError, ModelError) as error:
            said = error.strerror if isinstance(error, OSError) else error
            raise ModelError(f"model {escaped(text)}: {said}") from error
        _DIGESTS[place] = model.sha256
        _MODELS.setdefault(model.sha256, model)
    return f"{escaped(place.name)}@{_DIGESTS[place]}"


def known(name: str) -> bool:
    """Whether the model of this name was opened here."""
    found = _NAME.fullmatch(name)
    return found is not None and found[2] in _MODELS


def get(name: str) -> Model:
    """The model of a name, whatever its file is called now. Raises UnknownModelError."""
    found = _NAME.fullmatch(name)
    if found is None or found[2] not in _MODELS:
        raise UnknownModelError(f"model {escaped(file_of(name))}: give the file itself, of which this is the name")
    return _MODELS[found[2]]


def file_of(name: str) -> str:
    """The file's name, without its digest."""
    found = _NAME.fullmatch(name)
    return name if found is None else found[1]
