"""Functions with other bodies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import relax


def with_body(function: relax.Function, body: relax.Expr) -> relax.Function:
    """`function` with another body of the same type."""
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)


def with_block(function: relax.Function, bindings: Sequence[relax.Binding]) -> relax.Function:
    """`function` with one dataflow block of `bindings`; it returns what it did."""
    block = relax.DataflowBlock(list(bindings))
    return with_body(function, relax.SeqExpr([block], function.body.body))


def replaced(
    function: relax.Function, replace: Callable[[relax.Binding], list[relax.Binding]]
) -> relax.SeqExpr:
    """The body of `function` with others in place of each binding; its blocks stay."""
    blocks: list[relax.BindingBlock] = []
    for block in function.body.blocks:
        made = [new for binding in block.bindings for new in replace(binding)]
        kind = relax.DataflowBlock if isinstance(block, relax.DataflowBlock) else relax.BindingBlock
        blocks.append(kind(made))
    return relax.SeqExpr(blocks, function.body.body)
