"""What a handler sees of the node that it translates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tvm import relax

from nexus_compiler.frontend.torch import sizes, values
from nexus_compiler.frontend.torch.sizes import Size
from nexus_compiler.frontend.torch.values import R
from nexus_runtime.errors import UnsupportedOperator

if TYPE_CHECKING:
    from nexus_compiler.frontend.torch.importer import Importer


_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


class Node:
    """One call: its arguments by the names of the operator's schema, and means to emit Relax.

    Arguments are Relax variables, numbers, sizes (int or SymPy), lists of these, or None.
    What PyTorch knows of a result (`out`, `shape`, `dtype`) needs no inference here.
    """

    def __init__(self, fx: torch.fx.Node, importer: Importer) -> None:
        self.fx = fx
        self.importer = importer
        schema: Any = getattr(fx.target, "_schema", None)
        arguments = list(schema.arguments) if schema is not None else []
        names = [argument.name for argument in arguments]
        self._given: dict[str, Any] = {
            argument.name: argument.default_value
            for argument in arguments
            if argument.has_default_value()
        }
        self._given.update(zip(names, fx.args))
        self._given.update(fx.kwargs)

    def __str__(self) -> str:
        return f"{self.fx.target} '{self.fx.name}'{where(self.fx)}"

    @property
    def kind(self) -> str:
        """The operator's name, without its namespace and overload."""
        target: Any = self.fx.target
        return target._schema.name.split("::")[-1]

    # Arguments
    def __contains__(self, name: str) -> bool:
        return self._given.get(name) is not None

    def __getitem__(self, name: str) -> Any:
        return self.importer.value(self._given[name])

    def get(self, name: str, default: Any = None) -> Any:
        """An argument, or `default` where it is None or the overload has none of this name."""
        return default if self._given.get(name) is None else self[name]

    def meta(self, name: str) -> Any:
        """PyTorch's fake tensor (or number) of an argument."""
        given = self._given.get(name)
        return given.meta["val"] if isinstance(given, torch.fx.Node) else given

    # Results
    @property
    def out(self) -> Any:
        """PyTorch's fake result: a tensor, or several."""
        return self.fx.meta["val"]

    @property
    def shape(self) -> list[Size]:
        """The shape of the (first) result."""
        return self.shapes(0)

    @property
    def dtype(self) -> str:
        """The dtype of the (first) result."""
        out = self.out
        first = out[0] if isinstance(out, list | tuple) else out
        return values.dtype_name(first.dtype)

    def shapes(self, index: int) -> list[Size]:
        """The shape of result `index`."""
        out = self.out
        tensor = out[index] if isinstance(out, list | tuple) else out
        return [sizes.plain(size) for size in tensor.shape]

    def reads(self, index: int) -> bool:
        """Whether result `index` of several has a reader."""
        return any(user.args[1] == index and user.users for user in self.fx.users)

    # Relax
    def emit(self, expr: Any) -> relax.Var:
        """Bind `expr` to a variable."""
        return self.importer.emit(expr)

    def dims(self, shape: Sequence[Size]) -> list[Any]:
        """Sizes as TIR expressions."""
        return [self.importer.dims.expression(size) for size in shape]

    def scalar(self, value: Any, dtype: str) -> relax.Expr:
        """A number or a size as a scalar tensor."""
        return self.importer.dims.scalar(value, dtype, self.emit)

    def constant(self, array: np.ndarray) -> relax.Expr:
        """An array; large ones become parameters of the model."""
        return self.importer.constant(array)

    def cast(self, value: Any, dtype: str) -> relax.Expr:
        """A tensor or a number as a tensor of `dtype`."""
        if not isinstance(value, relax.Expr):
            return self.scalar(value, dtype)
        value = self.emit(value) if isinstance(value, relax.Call) else value
        own = dtype_of(value)
        if own == dtype:
            return value
        if dtype == "bool":  # TVM's own cast of 0.5 to bool is false
            return self.emit(R.not_equal(value, self.scalar(0, own)))
        if own == "bfloat16" and not values.is_float(dtype):
            value = self.emit(R.astype(value, "float32"))
        return self.emit(R.astype(value, dtype))

    def tensor(self, name: str) -> relax.Expr:
        """An argument as a tensor of the result's dtype."""
        return self.cast(self[name], self.dtype)

    def shape_of(self, name: str) -> list[Size]:
        """The shape of an argument."""
        return [sizes.plain(size) for size in self.meta(name).shape]

    def rank(self, name: str = "self") -> int:
        """How many dimensions an argument has."""
        return len(self.meta(name).shape)

    def axis(self, name: str = "dim", *, rank: int | None = None) -> int:
        """An argument that names an axis, counted from the front."""
        total = self.rank() if rank is None else rank
        return self[name] % max(total, 1)

    def axes(self, name: str = "dim") -> list[int]:
        """An argument that names axes, counted from the front; none named are all."""
        given, rank = self.get(name), self.rank()
        if given is None or (isinstance(given, list) and not given):
            return list(range(rank))
        listed = [given] if isinstance(given, int) else given
        return [axis % max(rank, 1) for axis in listed] if rank else []

    def reshape(self, value: relax.Expr, shape: Sequence[Size]) -> relax.Var:
        """`value` in another shape."""
        return self.emit(R.reshape(value, self.dims(shape)))

    def broadcast(self, value: relax.Expr, shape: Sequence[Size]) -> relax.Expr:
        """`value` repeated to `shape`."""
        return self.emit(R.broadcast_to(value, self.dims(shape)))

    def full(self, shape: Sequence[Size], value: Any, dtype: str) -> relax.Var:
        """A tensor of one value."""
        return self.emit(R.full(self.dims(shape), self.scalar(value, dtype), dtype))

    def refuse(self, reason: str, hint: str = "") -> UnsupportedOperator:
        """The error for what this handler does not do."""
        return UnsupportedOperator(f"{self} is not handled: {reason}", hint=hint)


def dtype_of(value: Any) -> str:
    """The dtype of a Relax tensor by its name."""
    return str(value.ty.dtype.dtype)


def where(fx: torch.fx.Node) -> str:
    """The module and the line of the user's source that a node comes from, as far as known."""
    stack: dict[str, Any] = fx.meta.get("nn_module_stack") or {}
    path = str(list(stack.values())[-1][0]) if stack else ""
    path = path.removeprefix("L['self'].").removeprefix("L['self']")
    lines = [line.strip() for line in (fx.stack_trace or "").splitlines()]
    places = [
        f"{line.strip()}" + (f": {code}" if not code.startswith("File ") else "")
        for line, code in zip(lines, [*lines[1:], ""])
        if line.startswith("File ")
    ]
    places = [place for place in places if not any(one in place for one in _LIBRARIES)] or places
    parts = ([f" in module '{path}'"] if path else []) + ([f" at {places[-1]}"] if places else [])
    return ",".join(parts)
