"""The package ``strategies`` of diffuzz, loaded from where it lies, beside the package ``diffuzz``.

Its name is a common one: a project may have a folder ``strategies/`` in which diffuzz is started, or an installed
package of that name. So diffuzz does not look for it by name, and loads its modules under a name of its own. The rest
of ``strategies``, which is for tests of others, is not run.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from diffuzz.cases.case import Case
    from diffuzz.cases.space import Space

_NAME = "diffuzz_strategies"


def cases(space: Space) -> SearchStrategy[Case]:
    """As ``strategies.cases``: admissible cases of a space. Raises ImportError if the package is not there."""
    found: SearchStrategy[Case] = _module("cases").cases(space)
    return found


def _module(name: str) -> ModuleType:
    """``strategies.NAME`` of this distribution, installed or in its repository."""
    folder = Path(__file__).resolve().parents[2] / "strategies"
    if not (folder / f"{name}.py").is_file():
        raise ImportError(f"the package strategies of diffuzz is not in {folder.parent}: install diffuzz again")
    if _NAME not in sys.modules:
        spec = ModuleSpec(_NAME, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        sys.modules[_NAME] = module_from_spec(spec)
    return importlib.import_module(f"{_NAME}.{name}")
