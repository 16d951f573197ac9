"""Images of training steps in the order in which a pixel's channels are neighbours.

TVM's conversion knows too few of the operators of gradients, and would transpose at each of them.
This one keeps both orders of a value at hand, and makes the one that is asked for where it is not
there yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import tvm
from tvm import IRModule, relax
from tvm.ir import Op
from tvm.relax import op

from nexus_compiler.passes.base import Pass, entries
from nexus_compiler.passes.subpixel import Phases, is_plain

_TO_LAST, _TO_FIRST, _SWAPPED = [0, 2, 3, 1], [0, 3, 1, 2], [1, 0, 2, 3]
_PLACE = {0: 0, 1: 3, 2: 1, 3: 2}  # of an axis among (batch, height, width, channels)
_ELEMENTWISE = {
    "relax.abs",
    "relax.add",
    "relax.astype",
    "relax.divide",
    "relax.equal",
    "relax.erf",
    "relax.exp",
    "relax.greater",
    "relax.greater_equal",
    "relax.less",
    "relax.less_equal",
    "relax.log",
    "relax.logical_and",
    "relax.logical_not",
    "relax.logical_or",
    "relax.maximum",
    "relax.minimum",
    "relax.multiply",
    "relax.negative",
    "relax.nn.gelu",
    "relax.nn.leakyrelu",
    "relax.nn.relu",
    "relax.nn.silu",
    "relax.not_equal",
    "relax.power",
    "relax.rsqrt",
    "relax.sigmoid",
    "relax.sign",
    "relax.sqrt",
    "relax.square",
    "relax.subtract",
    "relax.tanh",
    "relax.where",
}
_POOLS = {
    "relax.nn.avg_pool2d": op.nn.avg_pool2d,
    "relax.nn.max_pool2d": op.nn.max_pool2d,
    "relax.grad.avg_pool2d_backward": op.grad.avg_pool2d_backward,
    "relax.grad.max_pool2d_backward": op.grad.max_pool2d_backward,
}
WEIGHT_GRADIENT = {"data_layout": "CHWN", "kernel_layout": "IHWO", "out_layout": "HWNC"}
"""How a convolution of images with adjoints is written that sums over pixels and samples."""


def differentiated(function: relax.Function) -> bool:
    """Whether gradients of convolutions are in `function`, and it is straight-line code."""
    blocks = function.body.blocks
    if len(blocks) != 1 or not isinstance(blocks[0], relax.DataflowBlock):
        return False
    values = {binding.var: binding.value for binding in blocks[0].bindings}
    return any(_sums_over_pixels(value, values) for value in values.values())


def is_turned(function: relax.Function) -> bool:
    """Whether the pass has been over `function`."""
    return any(
        _name(binding.value) == "relax.nn.conv2d" and str(binding.value.attrs.data_layout) == "CHWN"
        for block in function.body.blocks
        for binding in block.bindings
    )


@dataclass(frozen=True)
class ImageOrder(Pass):
    """Images of functions that hold gradients of convolutions; stands before other layouts."""

    name: ClassVar[str] = "image_order"
    leaves: ClassVar[str] = "captured"

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite these functions; others stay as they are."""
        updated = IRModule(dict(module.functions.items()), attrs=module.attrs)
        found = [
            (variable, function)
            for variable, function in module.functions.items()
            if isinstance(function, relax.Function) and differentiated(function)
        ]
        if not found:
            return module
        for variable, function in found:
            updated.update_func(variable, _Turner(function).function(variable.name_hint))
        return tvm.transform.Sequential(
            [
                relax.transform.CanonicalizeBindings(),
                relax.transform.EliminateCommonSubexpr(),
                relax.transform.DeadCodeElimination(entries(module)),
            ]
        )(updated)


def _name(value: Any) -> str:
    called = isinstance(value, relax.Call) and isinstance(value.op, Op)
    return value.op.name if called else ""


def _rank(value: Any) -> int:
    """How many axes `value` has; below 0 where it is no tensor."""
    return getattr(value.ty, "ndim", -1) if hasattr(value, "ty") else -1


def _shape(value: Any) -> list[Any]:
    return [int(n) if hasattr(n, "value") else n for n in value.ty.shape.values]


def _sums_over_pixels(value: Any, values: dict[Any, Any]) -> bool:
    """Whether samples are the channels of a convolution: then it is the gradient of a weight."""
    if _name(value) != "relax.nn.conv2d" or int(value.attrs.groups) != 1:
        return False
    return all(_swaps(values.get(operand)) for operand in value.args)


def _swaps(value: Any) -> bool:
    if _name(value) != "relax.permute_dims":
        return False
    return [int(axis) for axis in value.attrs.axes or ()] == _SWAPPED


class _Turner:
    def __init__(self, function: relax.Function) -> None:
        self._function, self._block = function, relax.BlockBuilder()
        self._values = {b.var: b.value for b in function.body.blocks[0].bindings}
        self._first: dict[Any, Any] = {}
        self._last: dict[Any, Any] = {}
        self._rules: dict[str, Callable[[Any, Any], bool]] = {
            "relax.nn.conv2d": self._conv2d,
            "relax.nn.conv2d_transpose": self._conv2d_transpose,
            **dict.fromkeys(("relax.nn.avg_pool2d", "relax.nn.max_pool2d"), self._pool2d),
            "relax.grad.avg_pool2d_backward": self._pool2d_backward,
            "relax.grad.max_pool2d_backward": self._pool2d_backward,
            "relax.broadcast_to": self._broadcast_to,
            "relax.collapse_sum_to": self._collapse_sum_to,
            "relax.expand_dims": self._reshape,
            "relax.reshape": self._reshape,
            "relax.squeeze": self._reshape,
            "relax.strided_slice": self._strided_slice,
            **dict.fromkeys(("relax.sum", "relax.mean", "relax.max"), self._reduced),
            **dict.fromkeys(_ELEMENTWISE, self._elementwise),
        }

    def function(self, name: str) -> relax.Function:
        """The rewritten function."""
        old = self._function
        *bindings, last = old.body.blocks[0].bindings
        with self._block.function(name, list(old.params)):
            with self._block.dataflow():
                for binding in bindings:
                    self._rewrite(binding.var, binding.value)
                output = self._block.emit_output(self._mapped(last.value))
            self._block.emit_func_output(output)
        made = self._block.get()[name]
        return made.with_attrs(dict(old.attrs.items())) if old.attrs else made

    def _put(self, value: Any) -> Any:
        return self._block.emit(value)

    def _rewrite(self, variable: Any, value: Any) -> None:
        rule = self._rules.get(_name(value))
        if rule is None or not rule(variable, value):
            self._first[variable] = self._put(self._mapped(value))

    def _first_of(self, variable: Any) -> Any:
        """`variable` with its channels behind the batch, as it was."""
        if variable not in self._first and variable in self._last:
            turned = self._put(op.permute_dims(self._last[variable], _TO_FIRST))
            self._first[variable] = turned
        return self._first.get(variable, variable)

    def _last_of(self, variable: Any) -> Any:
        """`variable` with its channels last."""
        if variable not in self._last:
            self._last[variable] = self._put(op.permute_dims(self._first_of(variable), _TO_LAST))
        return self._last[variable]

    def _mapped(self, value: Any) -> Any:
        if isinstance(value, relax.Var):
            return self._first_of(value)
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self._mapped(field) for field in value.fields])
        if isinstance(value, relax.TupleGetItem):
            return relax.TupleGetItem(self._mapped(value.tuple_value), value.index)
        if isinstance(value, relax.Call):
            operands = [self._mapped(operand) for operand in value.args]
            return relax.Call(value.op, operands, value.attrs, value.ty_args)
        return value

    def _elementwise(self, variable: Any, call: Any) -> bool:
        operands = list(call.args)
        if _rank(variable) != 4 or not any(operand in self._last for operand in operands):
            return False
        images = [isinstance(operand, relax.Var) and _rank(operand) == 4 for operand in operands]
        scalar = [_rank(operand) <= 0 for operand in operands]
        if not all(one or other for one, other in zip(images, scalar)):
            return False
        turned = [
            self._last_of(operand) if image else self._mapped(operand)
            for operand, image in zip(operands, images)
        ]
        self._last[variable] = self._put(relax.Call(call.op, turned, call.attrs, call.ty_args))
        return True

    def _conv2d(self, variable: Any, call: Any) -> bool:
        attrs, (data, weight) = call.attrs, call.args
        if (str(attrs.data_layout), str(attrs.kernel_layout)) != ("NCHW", "OIHW"):
            return False
        options = {key: _ints(attrs[key]) for key in ("strides", "padding", "dilation")}
        if _sums_over_pixels(call, self._values):
            image, adjoint = (self._values[operand].args[0] for operand in call.args)
            found = op.nn.conv2d(
                self._last_of(image), self._last_of(adjoint), **options, **WEIGHT_GRADIENT
            )
            self._first[variable] = self._put(op.permute_dims(self._put(found), [2, 3, 0, 1]))
            return True
        self._last[variable] = self._put(
            op.nn.conv2d(
                self._last_of(data),
                self._put(op.permute_dims(self._first_of(weight), [2, 3, 1, 0])),
                **options,
                groups=int(attrs.groups),
                data_layout="NHWC",
                kernel_layout="HWIO",
            )
        )
        return True

    def _conv2d_transpose(self, variable: Any, call: Any) -> bool:
        if not is_plain(call):
            return False
        weight = self._first_of(call.args[1])
        phases = Phases(self._put, relax.Call(call.op, [call.args[0], weight], call.attrs), call.ty)
        self._last[variable] = phases.results_channels_last(self._last_of(call.args[0]))
        return True

    def _pool2d(self, variable: Any, call: Any) -> bool:
        if str(call.attrs.layout) != "NCHW" or call.args[0] not in self._last:
            return False
        made = _POOLS[_name(call)](
            self._last_of(call.args[0]), **_window(call.attrs), layout="NHWC"
        )
        self._last[variable] = self._put(made)
        return True

    def _pool2d_backward(self, variable: Any, call: Any) -> bool:
        adjoint, data = call.args
        window = _window(call.attrs)
        plain = window["dilation"] == [1, 1] and not window["ceil_mode"]
        if not (plain and data in self._last) or str(call.attrs.layout) != "NCHW":
            return False
        made = _POOLS[_name(call)](
            self._last_of(adjoint), self._last_of(data), **window, layout="NHWC"
        )
        self._last[variable] = self._put(made)
        return True

    def _broadcast_to(self, variable: Any, call: Any) -> bool:
        source = call.args[0]
        if _rank(variable) != 4 or source not in self._last:
            return False
        shape = relax.ShapeExpr([_shape(variable)[axis] for axis in _TO_LAST])
        self._last[variable] = self._put(op.broadcast_to(self._last_of(source), shape))
        return True

    def _collapse_sum_to(self, variable: Any, call: Any) -> bool:
        source = call.args[0]
        if source not in self._last or _rank(variable) != 4:
            return False
        before, after = _shape(source), _shape(variable)
        axes = [_PLACE[i] for i in range(4) if _is_one(after[i]) and not _is_one(before[i])]
        value = self._last_of(source)
        self._last[variable] = self._put(op.sum(value, axes, keepdims=True)) if axes else value
        return True

    def _reduced(self, variable: Any, call: Any) -> bool:
        source, attrs = call.args[0], call.attrs
        if source not in self._last or attrs.axis is None:
            return False
        axes = sorted(int(axis) % 4 for axis in attrs.axis)
        kept = [_PLACE[axis] for axis in range(4) if axis not in axes]
        if not attrs.keepdims and kept != sorted(kept):
            return False
        make = {"relax.sum": op.sum, "relax.mean": op.mean, "relax.max": op.max}[_name(call)]
        value = make(self._last_of(source), [_PLACE[a] for a in axes], bool(attrs.keepdims))
        (self._last if attrs.keepdims else self._first)[variable] = self._put(value)
        return True

    def _reshape(self, variable: Any, call: Any) -> bool:
        """What has one long axis beside the batch, or none, lies alike in both orders."""
        source = call.args[0]
        before, after = _rank(source), _rank(variable)
        if after == 4 and before != 4 and _is_flat(_shape(variable)):
            shape = [_shape(variable)[axis] for axis in _TO_LAST]
            self._last[variable] = self._put(op.reshape(self._first_of(source), shape))
            return True
        if before == 4 and source in self._last and _is_flat(_shape(source)):
            self._first[variable] = self._put(op.reshape(self._last_of(source), _shape(variable)))
            return True
        return False

    def _strided_slice(self, variable: Any, call: Any) -> bool:
        source, axes, begin, end, *steps = call.args
        if source not in self._last or _rank(variable) != 4 or not isinstance(axes, relax.Tuple):
            return False
        turned = [relax.prim_value(_PLACE[int(axis.value) % 4]) for axis in axes.fields]
        operands = [self._last_of(source), relax.Tuple(turned), begin, end, *steps]
        self._last[variable] = self._put(relax.Call(call.op, operands, call.attrs))
        return True


def _ints(values: Sequence[Any]) -> list[int]:
    return [int(value) for value in values]


def _window(attrs: Any) -> dict[str, Any]:
    keys = ("pool_size", "strides", "padding", "dilation")
    flags = {key: bool(attrs[key]) for key in ("ceil_mode", "count_include_pad")}
    return {key: _ints(attrs[key]) for key in keys} | flags


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


def _is_flat(shape: list[Any]) -> bool:
    """Whether (batch, channels, height, width) is one of channels only, or of pixels only."""
    _, channels, height, width = shape
    return (_is_one(height) and _is_one(width)) or _is_one(channels)
