"""Dropout masks that do not depend on how a batch is split.

An element's fate is a hash of (seed, number of the sample in the whole batch, element, layer), so
that two workers with half a batch each draw exactly the masks of one with all of it. The hash is
the 32-bit finaliser of MurmurHash3 (A. Appleby), twice: plenty for masks, a few operations an
element, and nothing but Relax operators, so that every target can build it.

The words are held in uint64 and cut to 32 bits after each step: TVM declares sums and products of
unsigned integers free of overflow to LLVM, which turns an addition that does wrap into an "or".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tvm import relax

_GOLDEN = 0x9E3779B9  # 2^32 / golden ratio: sets the streams of neighbouring layers far apart


def emit(
    block: relax.BlockBuilder,
    seed: relax.Expr,
    row: relax.Expr,
    value: relax.Var,
    sample: Sequence[int],
    layer: int,
    rate: float,
) -> relax.Var:
    """Emit a float32 mask of the shape of `value`: 0 with probability `rate`, else 1/(1 - rate).

    Args:
        block: where to emit to.
        seed: uint32 scalar, one a step.
        row: int64 scalar, the number of the first sample of `value` in the whole batch.
        value: float32 (batch, *sample).
        sample: the fixed dimensions behind the batch.
        layer: a number that no other mask of the network has.
        rate: the probability of zero.
    """
    batch, size = value.ty.shape.values[0], math.prod(sample)
    samples = block.emit(relax.op.add(block.emit(relax.op.arange(batch, dtype="int64")), row))
    samples = cut(block, block.emit(relax.op.astype(samples, "uint64")))
    samples = block.emit(relax.op.reshape(samples, (batch, *([1] * len(sample)))))
    elements = relax.const(np.arange(size, dtype=np.uint64).reshape(1, *sample))
    start = block.emit(relax.op.multiply(samples, word(size)))
    counter = cut(block, block.emit(relax.op.add(start, elements)))
    salt = word((layer + 1) * _GOLDEN)
    salted = block.emit(relax.op.add(block.emit(relax.op.astype(seed, "uint64")), salt))
    key = finalise(block, cut(block, salted))
    bits = finalise(block, block.emit(relax.op.bitwise_xor(counter, key)))
    kept = block.emit(relax.op.greater_equal(bits, word(round(rate * 2**32))))
    scale = relax.const(np.float32(1 / (1 - rate)))
    return block.emit(relax.op.where(kept, scale, relax.const(np.float32(0))))


def finalise(block: relax.BlockBuilder, bits: relax.Var) -> relax.Var:
    """The hash of words of 32 bits, held in uint64."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = _shift_xor(block, bits, shift)
        bits = cut(block, block.emit(relax.op.multiply(bits, word(factor))))
    return _shift_xor(block, bits, 16)


def _shift_xor(block: relax.BlockBuilder, bits: relax.Var, shift: int) -> relax.Var:
    shifted = block.emit(relax.op.right_shift(bits, word(shift)))
    return block.emit(relax.op.bitwise_xor(bits, shifted))


def cut(block: relax.BlockBuilder, bits: relax.Var) -> relax.Var:
    """The lower 32 bits of uint64."""
    return block.emit(relax.op.bitwise_and(bits, word(0xFFFFFFFF)))


def word(value: int) -> relax.Expr:
    """The lower 32 bits of a number as a uint64 constant."""
    return relax.const(np.uint64(value & 0xFFFFFFFF))
