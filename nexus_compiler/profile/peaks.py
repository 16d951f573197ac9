"""What this machine can do at best: arithmetic and memory, measured with kernels of our own.

Arithmetic: independent chains of multiply-adds in registers, one broadcast load from the first
cache for all of them. Memory: `c += a * b` over working sets from the first cache to memory: three
arrays read and one written, like the triad of McCalpin's STREAM, but that `c` is read on purpose
where the triad's stores make the cache read it unseen.

Run as a program it measures and prints JSON: a process of its own has as many threads as it is
told, and no other library's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexus_compiler.targets import TargetSpec

TRIALS, SECONDS = 9, 0.05
_CHAINS, _LENGTH = 12, 512
WORKING_SETS = (24 << 10, 512 << 10, 6 << 20, 192 << 20)
"""Bytes for each thread: they fit the first, second and third cache of the usual CPU, and none."""
DTYPES = ("float32", "float64")


def measure(threads: int) -> dict[str, Any]:
    """GFLOP/s by dtype, and GB/s by working set in bytes, on `threads` threads."""
    bits = _native().limits["vector_bits"]
    flops = {dtype: _arithmetic(dtype, bits // _bits(dtype), threads) for dtype in DTYPES}
    return {
        "gflops": flops,
        "gbytes": {str(size * threads): _triad(size, threads) for size in WORKING_SETS},
    }


def _native() -> TargetSpec:
    from nexus_compiler import targets
    from nexus_compiler.codegen.llvm import native

    return native.resolve(targets.load("native"))


def _bits(dtype: str) -> int:
    return int(dtype.removeprefix("float"))


def _arithmetic(dtype: str, lanes: int, threads: int) -> float:
    from tvm import s_tir, te

    rounds = 64
    x = te.placeholder((threads, _CHAINS, lanes), dtype, "x")
    y = te.placeholder((_LENGTH,), dtype, "y")
    again, k = te.reduce_axis((0, rounds), "again"), te.reduce_axis((0, _LENGTH), "k")
    total = te.compute(
        (threads, _CHAINS, lanes),
        lambda t, c, lane: te.sum(x[t, c, lane] * y[k], axis=[again, k]),
        "total",
    )
    schedule = s_tir.Schedule(te.create_prim_func([x, y, total]))
    block = schedule.get_sblock("total")
    local = schedule.cache_write(block, 0, "local")
    thread = schedule.get_loops(block)[0]
    schedule.reverse_compute_at(local, thread)
    _, chain, lane, outer, inner = schedule.get_loops(block)
    schedule.reorder(outer, inner, chain, lane)
    schedule.unroll(chain)
    schedule.vectorize(lane)
    if threads > 1:  # while the sum is one block, which it must be for this
        schedule.parallel(thread)
    schedule.decompose_reduction(block, outer)
    run = _build(
        schedule, ((threads, _CHAINS, lanes), (_LENGTH,), (threads, _CHAINS, lanes)), dtype
    )
    return 2 * threads * _CHAINS * lanes * _LENGTH * rounds / _best(run) / 1e9


def _triad(size: int, threads: int) -> float:
    from tvm import s_tir, te

    length = size // 12 // 64 * 64
    rounds = max(2, (8 << 20) // size)
    shape = (threads, length)
    a, b = (te.placeholder(shape, "float32", name) for name in "ab")
    again = te.reduce_axis((0, rounds), "again")
    c = te.compute(shape, lambda t, i: te.sum(a[t, i] * b[t, i], axis=again), "c")
    schedule = s_tir.Schedule(te.create_prim_func([a, b, c]))
    block = schedule.get_sblock("c")
    thread, i, turn = schedule.get_loops(block)
    schedule.reorder(turn, i)
    group = schedule.split(i, [None, 64])[1]
    schedule.vectorize(schedule.split(group, [None, 16])[1])
    if threads > 1:
        schedule.parallel(thread)
    schedule.decompose_reduction(block, turn)
    run = _build(schedule, (shape, shape, shape), "float32")
    # The first turn sets `c` to zero.
    return threads * length * (16 * rounds + 4) / _best(run) / 1e9


def _build(schedule: Any, shapes: tuple[tuple[int, ...], ...], dtype: str) -> Callable[[], object]:
    import numpy as np
    import tvm

    from nexus_compiler.codegen.llvm.room import tvm_target

    function = tvm.compile(schedule.mod, target=tvm_target(_native()))["main"]
    arrays = [tvm.runtime.tensor(np.full(shape, 1e-3, dtype)) for shape in shapes]
    return lambda: function(*arrays)


def _best(run: Callable[[], object]) -> float:
    """Seconds of the quickest call: a peak is what the machine can do, not what it does beside."""
    run()
    best, end = float("inf"), time.perf_counter() + TRIALS * SECONDS
    count = 0
    while count < TRIALS or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        best, count = min(best, time.perf_counter() - begin), count + 1
    return best


def main() -> None:
    """Print what `measure` finds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    threads: int = parser.parse_args().threads
    # TVM's own choice would put two of its workers on one core of a virtual machine.
    os.environ.update(TVM_NUM_THREADS=str(threads), TVM_BIND_THREADS="0")
    sys.stdout.write(json.dumps(measure(threads)) + "\n")


if __name__ == "__main__":
    main()
