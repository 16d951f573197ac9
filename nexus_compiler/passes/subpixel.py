"""Turns transposed convolutions into ordinary ones.

With stride s, the results at positions q s + r, for one phase r < s, are an ordinary convolution of
the operand with every s-th tap of the kernel. All phases together are one convolution with s times
the output channels, whose results are then put in their places (Shi et al., "Is the deconvolution
layer the same as a convolutional layer?", 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from tvm import IRModule, relax
from tvm.relax import op

from nexus_compiler.passes.base import Pass


@dataclass(frozen=True)
class SubPixel(Pass):
    """Transposed convolutions of images, without groups or dilation; stands before layouts."""

    name: ClassVar[str] = "subpixel"
    leaves: ClassVar[str] = "captured"

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite every Relax function."""
        updated = IRModule(dict(module.functions.items()), attrs=module.attrs)
        for variable, function in module.functions.items():
            if isinstance(function, relax.Function):
                updated.update_func(variable, _Rewriter(updated).visit_expr(function))
        return updated


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if getattr(call.op, "name", "") != "relax.nn.conv2d_transpose" or not is_plain(call):
            return call
        return Phases(self.builder_.emit, call, call.ty).results()


def is_plain(call: relax.Call) -> bool:
    """Whether this is the transposed convolution of images that can be cut into phases."""
    attrs, (x, weight) = call.attrs, (argument.ty for argument in call.args)
    layouts = (attrs.data_layout, attrs.kernel_layout, attrs.out_layout)
    return (
        layouts == ("NCHW", "IOHW", "NCHW")
        and attrs.groups == 1
        and all(int(dilation) == 1 for dilation in attrs.dilation)
        and x.shape is not None
        and weight.shape is not None
        and x.dtype == weight.dtype == call.ty.dtype
    )


class Phases:
    """The pieces of one transposed convolution, whose result is of type `ty`."""

    def __init__(self, emit: Callable[[Any], Any], call: relax.Call, ty: Any) -> None:
        self._emit = emit
        self._x, self._weight = call.args
        self._sizes = list(ty.shape)
        self._channels, self._filters, *self._kernel = (int(n) for n in self._weight.ty.shape)
        self._strides = [int(s) for s in call.attrs.strides]
        padding = [int(p) for p in call.attrs.padding]
        self._before, self._after = padding[:2], padding[2:]
        self._extra = [int(p) for p in call.attrs.output_padding]
        self._taps = [-(-k // s) for k, s in zip(self._kernel, self._strides)]

    def results(self) -> relax.Expr:
        """[n, filters, height, width] of the transposed convolution."""
        ends = [self._end(dimension) for dimension in (0, 1)]
        begins = [taps - 1 for taps in self._taps]
        found = self._emit(
            op.nn.conv2d(self._x, self._weights(), strides=1, padding=[*begins, *ends])
        )
        n, _, high, wide = found.ty.shape
        down, across = self._strides
        split = op.reshape(found, (n, self._filters, down, across, high, wide))
        placed = op.permute_dims(self._emit(split), [0, 1, 4, 2, 5, 3])
        whole = self._emit(
            op.reshape(self._emit(placed), (n, self._filters, high * down, wide * across))
        )
        return self._cropped(whole, [2, 3])

    def results_channels_last(self, x: relax.Expr) -> relax.Expr:
        """[n, height, width, filters] of the same, for `x` [n, height, width, channels]."""
        ends = [self._end(dimension) for dimension in (0, 1)]
        begins = [taps - 1 for taps in self._taps]
        weight = self._emit(op.permute_dims(self._weights(), [2, 3, 1, 0]))
        padding, orders = [*begins, *ends], {"data_layout": "NHWC", "kernel_layout": "HWIO"}
        found = self._emit(op.nn.conv2d(x, weight, strides=1, padding=padding, **orders))
        n, high, wide, _ = found.ty.shape
        down, across = self._strides
        if down * across > 1:
            split = op.reshape(found, (n, high, wide, self._filters, down, across))
            placed = self._emit(op.permute_dims(self._emit(split), [0, 1, 4, 2, 5, 3]))
            found = self._emit(op.reshape(placed, (n, high * down, wide * across, self._filters)))
        return self._emit(self._cropped(found, [1, 2]))

    def _end(self, dimension: int) -> int:
        """The padding behind the operand; more than before it where results reach further."""
        stride, taps = self._strides[dimension], self._taps[dimension]
        reach = self._kernel[dimension] - self._after[dimension] + self._extra[dimension]
        return taps - 1 + max(0, -(-(reach - stride * taps) // stride))

    def _weights(self) -> relax.Expr:
        """[filters * phases, channels, taps, taps], the last tap first."""
        (high, wide), (down, across) = self._taps, self._strides
        missing = [t * s - k for t, s, k in zip(self._taps, self._strides, self._kernel)]
        weight = self._weight
        if any(missing):
            weight = self._emit(op.nn.pad(weight, [0, 0, 0, 0, 0, missing[0], 0, missing[1]]))
        shape = (self._channels, self._filters, high, down, wide, across)
        split = self._emit(op.reshape(weight, shape))
        for axis, taps in ((2, high), (4, wide)):
            split = self._emit(op.flip(split, axis)) if taps > 1 else split
        turned = self._emit(op.permute_dims(split, [1, 3, 5, 0, 2, 4]))
        return self._emit(
            op.reshape(turned, (self._filters * down * across, self._channels, high, wide))
        )

    def _cropped(self, whole: relax.Expr, axes: list[int]) -> relax.Expr:
        sizes: list[Any] = self._sizes[2:]
        if not any(self._before) and [whole.ty.shape[axis] for axis in axes] == sizes:
            return whole
        ends = [begin + size for begin, size in zip(self._before, sizes)]
        return op.strided_slice(whole, axes, self._before, ends, assume_inbound=True)
