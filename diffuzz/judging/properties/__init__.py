"""Properties of an implementation that no tolerance sees: bits, batches, memory, order. One file each, found by name.

    repeat    the same call gives the same bits
    batch     the bits of a row do not depend on the rows beside it
    split     a whole call and its parts, one after the other, have the same bits
    threads   the number of threads does not show
    layout    strides, alignment and order in memory do not show
    bounds    nothing outside of the arrays is read or written
    pure      inputs, earlier results and later calls are left as they are
    scale     what is exact in any arithmetic is exact: powers of two, signs, a shift of logits, the order of rows

A kernel may be within its error bound and not keep one of them, and it may have promised none: then it is not
invariant, which is no error. It is broken where it crashes, touches memory that is not its own, or where one of the two
calls is outside the error bound.
"""

from __future__ import annotations

from diffuzz.judging.properties.property import Property
from diffuzz.registry import Registry

# In the order in which they are asked and listed.
ORDER = ("repeat", "batch", "split", "threads", "layout", "bounds", "pure", "scale")
ALL = "all"


def _check(found: object) -> Property:
    if not isinstance(found, Property):
        raise TypeError(f"a Property is needed, it is a {type(found).__name__}")
    return found


def _order(name: str) -> tuple[object, ...]:
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


REGISTRY = Registry(
    "property",
    "diffuzz.properties",
    _check,
    folder=__name__,
    attribute="PROPERTY",
    name_of=lambda found: found.name,
    reserved=(ALL,),
    order=_order,
    plural="properties",
)
names, get = REGISTRY.names, REGISTRY.get
