"""The floating-point functions as the engine runs them, and as Python runs them, over a hart that is only its flags."""

import functools

from float_oracle import OPERATIONS

from core.cpu import hostfloat, softfloat
from core.cpu.state import Hart
from native import Unit
from native.memory import Area

SLOW = {name: getattr(softfloat, name) for name in OPERATIONS}
FAST = {function.name: function for function in hostfloat.FAST.values()}


@functools.cache
def hart():
    return Hart(Area.allocate(Hart.size()).address)


@functools.cache
def machine_code():
    return Unit("floattest", exports=[*SLOW.values(), *FAST.values()]).load()


def run(function, operands, rm, flags=0):
    """Result and flags of one call, in either run; `rm` is None for operations that do not round."""
    hart().fflags = flags
    result = function(hart(), *operands, *([] if rm is None else [rm]))
    return result, hart().fflags


def native_run(name, operands, rm, flags=0):
    return run(getattr(machine_code(), name), operands, rm, flags)


def python_run(name, operands, rm, flags=0):
    return run(SLOW.get(name) or FAST[name], operands, rm, flags)
