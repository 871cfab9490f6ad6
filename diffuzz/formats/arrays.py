"""Types of code that works with more than one array library.

Such a function takes the library's module as ``xp`` (numpy for exact bits, jax.numpy for speed) and arrays of that
library. Both are ``Any``: NumPy and JAX have no type in common, and a Protocol would have to list every function,
operator and method that is used. The names here say what is meant, and each use adds dtype and shape, as in
``Float32[AnyArray, "b n"]``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

# A module with NumPy's functions: numpy or jax.numpy.
ArrayModule: TypeAlias = Any
# An array of such a module: np.ndarray, jax.Array, or what jax passes to a function that it traces.
AnyArray: TypeAlias = Any
