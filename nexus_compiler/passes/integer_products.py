"""Turns products of dequantised values into products of their bytes.

    sum((q - zq) * sq * (w - zw) * sw)
        = (sum(q * w) - zq * sum(w) - zw * sum(q) + n * zq * zw) * sq * sw

The sums are exact in int32 (Jacob et al., "Quantization and training of neural networks for
efficient integer-arithmetic-only inference", 2018); what follows from the weights is computed once
at load.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from tvm import IRModule, relax
from tvm.relax import op

from nexus_compiler.passes.base import Pass, entries
from nexus_compiler.passes.quantized import Integer, Lookup, count, name_of, sizes_of
from nexus_compiler.passes.weights import INPUTS, weights_of

_HALF = 128  # from signed to unsigned bytes
_MOST = (2**31 - 1) // (255 * 128)  # products of bytes whose sum int32 is sure to hold


@dataclass(frozen=True)
class IntegerProducts(Pass):
    """Matrix products and convolutions (NHWC) whose second operand follows from weights.

    Stands behind `channels_last`: the first operand becomes uint8, or int8, the second one int8.

    Attributes:
        unsigned: the first operand becomes uint8, as x86's dot products want it; else int8.
    """

    name: ClassVar[str] = "integer_products"
    leaves: ClassVar[str] = "captured"

    unsigned: bool = True

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite every function that says which of its parameters are weights."""
        updated = IRModule(dict(module.functions.items()), attrs=module.attrs)
        for variable, function in module.functions.items():
            if isinstance(function, relax.Function) and INPUTS in (function.attrs or {}):
                rewriter = _Rewriter(updated, weights_of(function), self.unsigned)
                updated.update_func(variable, rewriter.visit_expr(function))
        return relax.transform.DeadCodeElimination(entries(module))(updated)


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def __init__(self, module: IRModule, weights: Any, unsigned: bool) -> None:
        super().__init__(module)
        self._find = Lookup(self.builder_, weights)
        self._unsigned = unsigned

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if name_of(call) not in ("matmul", "nn.conv2d"):
            return call
        find = {"float32": self._find.dequantized, "int32": self._find.integer}.get(
            str(call.ty.dtype)
        )
        if find is None or not all(sizes_of(argument) for argument in call.args[1:]):
            return call
        weight = find(call.args[1]) if self._find.known(call.args[1]) else None
        x = find(call.args[0]) if weight is not None else None
        if x is None or weight is None:
            return call
        form = _Form(self.builder_, self._find, call)
        better = form.rewritten(x, weight, self._unsigned)
        return call if better is None else better


class _Form:
    """One product to be rewritten."""

    def __init__(self, builder: relax.BlockBuilder, find: Lookup, call: relax.Call) -> None:
        self._emit, self._find, self._call = builder.emit, find, call
        self._is_matmul = name_of(call) == "matmul"
        self._sizes = sizes_of(call.args[1]) or []

    def rewritten(self, x: Integer, weight: Integer, unsigned: bool) -> relax.Expr | None:
        """The product of bytes; None where it is none that there are kernels for."""
        steps = int(np.prod(self._sizes[:-1]))
        if not self._fits(x, weight) or not 0 < steps <= _MOST:
            return None
        left = self._shifted(x, _HALF if unsigned else -_HALF, "uint8" if unsigned else "int8")
        right = self._shifted(weight, -_HALF, "int8")
        unknown = left.zero is not None and self._find.constant(left.zero) is None
        if unknown and any(self._padding()):
            return None
        data = self._padded(left)
        pads = self._padding() if data is left.data else [0] * 4
        total = self._corrected(_Image(data, pads), left.zero, right, steps)
        if x.scale is None or weight.scale is None:
            return total
        factor = self._emit(op.multiply(self._number(x.scale), weight.scale))
        return op.multiply(self._emit(op.astype(total, "float32")), factor)

    def _fits(self, x: Integer, weight: Integer) -> bool:
        attrs, (left, right) = self._call.attrs, self._call.args
        if self._is_matmul:
            shaped = right.ty.ndim == 2 and left.ty.ndim >= 2
        else:
            layouts = (attrs.data_layout, attrs.kernel_layout, attrs.out_layout)
            groups = int(attrs.groups)
            depthwise = self._sizes[2:3] == [1] and groups == self._sizes[-1]
            shaped = layouts == ("NHWC", "HWIO", "NHWC") and (groups == 1 or depthwise)
        own = [value for value in (x.zero, x.scale) if value is not None]
        others = [value for value in (weight.zero, weight.scale) if value is not None]
        return (
            shaped
            and all(count(value) == 1 for value in own)
            and all(self._by_column(value) and self._find.known(value) for value in others)
            and (weight.zero is None or int(getattr(attrs, "groups", 1)) == 1)
        )

    def _by_column(self, value: relax.Expr) -> bool:
        """Whether `value` is one number for each column, or for all."""
        return count(value) == 1 or count(value) == self._sizes[-1] == (sizes_of(value) or [0])[-1]

    def _shifted(self, value: Integer, by: int, dtype: str) -> Integer:
        """`value` with data of `dtype`."""
        if str(value.data.ty.dtype) == dtype:
            return value
        emit, step = self._emit, relax.const(by, "int32")
        wide = emit(op.add(emit(op.astype(value.data, "int32")), step))
        data = emit(op.astype(wide, dtype))
        constant = np.zeros(()) if value.zero is None else self._find.constant(value.zero)
        if constant is not None:
            zero: Any = constant.astype("int32") + by
            moved = relax.const(zero, "int32") if zero.any() else None
            return replace(value, data=data, zero=moved)
        return replace(value, data=data, zero=emit(op.add(value.zero, step)))

    def _number(self, value: relax.Expr) -> relax.Expr:
        """`value`, as a scalar constant where it is one: then what weights make of it is known."""
        constant = self._find.constant(value)
        return value if constant is None else relax.const(constant.reshape(()), str(constant.dtype))

    def _padding(self) -> list[int]:
        if self._is_matmul:
            return []
        return [int(p) for p in self._call.attrs.padding]

    def _padded(self, x: Integer) -> relax.Expr:
        """The data of `x`, with its zero point around it where that is not 0."""
        zero, padding = self._find.constant(x.zero), self._padding()
        if zero is None or not any(padding):
            return x.data
        top, left, bottom, right = padding
        widths = [0, 0, top, bottom, left, right, 0, 0]
        return self._emit(op.nn.pad(x.data, widths, pad_value=float(zero.reshape(()))))

    def _product(self, image: _Image, weight: relax.Expr) -> relax.Var:
        if self._is_matmul:
            return self._emit(op.matmul(image.data, weight, out_dtype="int32"))
        attrs = self._call.attrs
        product = op.nn.conv2d(
            image.data,
            weight,
            strides=attrs.strides,
            padding=image.padding,
            dilation=attrs.dilation,
            groups=attrs.groups,
            data_layout="NHWC",
            kernel_layout="HWIO",
            out_dtype="int32",
        )
        return self._emit(product)

    def _corrected(
        self, image: _Image, zero: relax.Expr | None, weight: Integer, steps: int
    ) -> relax.Var:
        """The product as if zero points had been subtracted from both operands."""
        emit, total = self._emit, self._product(image, weight.data)
        if zero is not None:
            axes = list(range(len(self._sizes) - 1))
            sums = emit(op.sum(emit(op.astype(weight.data, "int32")), axes, keepdims=True))
            total = emit(op.subtract(total, emit(op.multiply(sums, self._number(zero)))))
        if weight.zero is not None:
            rows = self._row_sums(image)
            if zero is not None:
                rows = emit(op.subtract(rows, emit(op.multiply(zero, relax.const(steps, "int32")))))
            total = emit(op.subtract(total, emit(op.multiply(rows, weight.zero))))
        return total

    def _row_sums(self, image: _Image) -> relax.Var:
        """What each row's window adds up to."""
        if self._is_matmul:
            return self._emit(
                op.sum(self._emit(op.astype(image.data, "int32")), [-1], keepdims=True)
            )
        ones = self._emit(op.ones((*self._sizes[:-1], 1), "int8"))
        return self._product(image, ones)


@dataclass(frozen=True)
class _Image:
    """The first operand and the zeros around it."""

    data: relax.Expr
    padding: list[int]
