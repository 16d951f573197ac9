"""Moves images to the order in which a pixel's channels are neighbours."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import IRModule, relax

from nexus_compiler.ir.calls import operators
from nexus_compiler.passes.base import Pass, entries
from nexus_compiler.passes.image_order import is_turned

_LOG = logging.getLogger(__name__)
_LAYOUTS = {
    "relax.nn.conv2d": ["NHWC", "HWIO"],
    # TVM has no kernel for the other orders.
    "relax.nn.conv2d_transpose": ["NCHW", "IOHW"],
}

_IMAGE = 4  # axes of a batch of images


@dataclass(frozen=True)
class ChannelsLast(Pass):
    """Convolutions and what stands between them in NHWC order; transposes at the borders only.

    A vector is then some channels of one pixel, for convolutions as for pools and sums, whatever
    the image's size, and a convolution is a matrix product whose columns are output channels.
    Blocked orders (NCHW16c) have the same inner loop, but want channels by the block.
    """

    name: ClassVar[str] = "channels_last"
    leaves: ClassVar[str] = "captured"

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite the module, if any function of it convolves."""
        turned = {
            variable: function
            for variable, function in module.functions.items()
            if isinstance(function, relax.Function) and is_turned(function)
        }
        rest = {v: f for v, f in module.functions.items() if v not in turned}
        found = self._converted(IRModule(rest, attrs=module.attrs))
        for variable, function in turned.items():
            found.update_func(variable, function)
        return found

    def _converted(self, module: IRModule) -> IRModule:
        functions = [f for f in module.functions.values() if isinstance(f, relax.Function)]
        if not any("relax.nn.conv2d" in operators(function) for function in functions):
            return module
        try:
            converted = relax.transform.ConvertLayout(_LAYOUTS)(_same_ranks(module))
        except IndexError:
            # TVM looks up the place of an axis that is counted from the end (it is then -1).
            _LOG.warning("images keep their order: TVM cannot turn an axis below zero")
            return module
        return tvm.transform.Sequential(
            [
                relax.transform.CanonicalizeBindings(),
                relax.transform.EliminateCommonSubexpr(),
                relax.transform.DeadCodeElimination(entries(module)),
            ]
        )(converted)


@relax.expr_functor.mutator
class _SameRanks(relax.PyExprMutator):
    """Gives the smaller operand of `x + b` leading axes of one: the orders of both are known then.

    TVM leaves a whole chain as it is where it meets an operand of lower rank.
    """

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if len(call.args) != 2 or not isinstance(call.op, tvm.ir.Op) or call.attrs is not None:
            return call
        ranks = [getattr(argument.ty, "ndim", -1) for argument in call.args]
        if getattr(call.ty, "ndim", -1) != _IMAGE or max(ranks) != _IMAGE or min(ranks) < 1:
            return call
        if ranks[0] == ranks[1]:
            return call
        return relax.Call(call.op, [self._raised(argument) for argument in call.args])

    def _raised(self, value: relax.Expr) -> relax.Expr:
        missing = _IMAGE - value.ty.ndim
        if not missing:
            return value
        return self.builder_.emit(relax.op.expand_dims(value, list(range(missing))))


@tvm.transform.module_pass(opt_level=0, name="same_ranks")
def _same_ranks(module: IRModule, _: tvm.transform.PassContext) -> IRModule:
    updated = IRModule(dict(module.functions.items()), attrs=module.attrs)
    for variable, function in module.functions.items():
        if isinstance(function, relax.Function):
            updated.update_func(variable, _SameRanks(updated).visit_expr(function))
    return updated
