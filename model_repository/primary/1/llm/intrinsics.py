"""What compiled loops may call beside Python's arithmetic: memory by its address, threads, the exponential.

Each is put into the code of the loop that calls it; none can be called from Python.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numba.extending
import numpy as np
import torch  # noqa: F401  so that libgomp, asked for by name below, is the one that torch uses: one pool of threads
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils

intrinsic: Callable[[Callable[..., Any]], Any] = numba.extending.intrinsic
_inlined: Callable[[Callable[..., Any]], Any] = njit(fastmath={"contract"}, error_model="numpy")

libgomp = ctypes.CDLL("libgomp.so.1")
for _name in ("omp_get_thread_num", "omp_get_num_threads", "GOMP_barrier"):
    llvmlite.binding.add_symbol(_name, ctypes.cast(getattr(libgomp, _name), ctypes.c_void_p).value)

# Which of the threads that run a loop this is, and of how many.
thread_number: Any = types.ExternalFunction("omp_get_thread_num", types.int32())
num_threads: Any = types.ExternalFunction("omp_get_num_threads", types.int32())
# Wait until all of them have come here.
barrier: Any = types.ExternalFunction("GOMP_barrier", types.void())


@intrinsic
def address(_typing: Any, _number: Any) -> Any:
    """An integer as a pointer, which `numba.carray` makes an array of."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@intrinsic
def float_of(_typing: Any, _bits: Any) -> Any:
    """The float32 that has these 32 bits."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def fetch_and_add_one(_typing: Any, _pointer: Any, _place: Any) -> Any:
    """What the number at a place was, before it is one more: no two threads get the same."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer, place = arguments
        return builder.atomic_rmw("add", builder.gep(pointer, [place]), ir.IntType(64)(1), "monotonic")

    return types.int64(types.CPointer(types.int64), types.int64), generate


@intrinsic
def call(_typing: Any, _function: Any, _arguments: Any) -> Any:
    """Call the compiled loop at an address with its arguments, which lie at another."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        numbers = ir.IntType(64).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [numbers]).as_pointer()
        builder.call(builder.inttoptr(arguments[0], kind), [builder.inttoptr(arguments[1], numbers)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


def emit_prefetch(builder: Any, pointer: Any) -> None:
    """Add to code that is being made: have the cache line at a pointer fetched meanwhile."""
    integer = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, integer, integer, integer])
    function: Any = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    # To read, into all levels, as data.
    builder.call(function, [builder.bitcast(pointer, cgutils.voidptr_t), integer(0), integer(3), integer(1)])


@intrinsic
def prefetch(_typing: Any, _address: Any) -> Any:
    """Have the cache line at an address fetched meanwhile."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        emit_prefetch(builder, builder.inttoptr(arguments[0], cgutils.voidptr_t))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@_inlined
def exp(x: Any) -> Any:
    """The exponential of a float32, exact to two units in the last place; of less than -87 that of -87, which is 2e-38.

    By the polynomial of Cephes' `expf`. The C library's would be called for one number after the other.
    """
    x = min(max(x, np.float32(-87)), np.float32(88))
    power = np.int32(x * np.float32(1.44269504) + np.float32(128.5)) - np.int32(128)
    rest = x - np.float32(power) * np.float32(0.693359375)
    rest += np.float32(power) * np.float32(2.12194440e-4)
    result = np.float32(1.9875691500e-4)
    result = result * rest + np.float32(1.3981999507e-3)
    result = result * rest + np.float32(8.3334519073e-3)
    result = result * rest + np.float32(4.1665795894e-2)
    result = result * rest + np.float32(1.6666665459e-1)
    result = result * rest + np.float32(5.0000001201e-1)
    result = result * rest * rest + rest + np.float32(1)
    return result * float_of(np.int32((power + 127) << 23))
