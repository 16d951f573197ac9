"""Sequences and optionals, whose lengths are settled while importing: they leave no code."""

from __future__ import annotations

from tvm import relax

from nexus_runtime.errors import UnsupportedOperator


def refuse_as_tensor(value: relax.Expr) -> None:
    """Check that `value` is a tensor.

    Raises:
        UnsupportedOperator: it is a sequence.
    """
    if isinstance(value.ty, relax.TupleType):
        raise UnsupportedOperator(
            "a sequence stands where a tensor is needed, or is an output of the model",
            hint="make tensors of it first: SequenceAt or ConcatFromSequence",
        )
