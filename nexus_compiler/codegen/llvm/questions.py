"""What the passes of this room ask about: calls whose weights are packed, and kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import tvm
from tvm import IRModule, relax, tirx
from tvm.ir import GlobalVar

from nexus_compiler.codegen.choices import Choices, Guide, Question
from nexus_compiler.codegen.llvm import work
from nexus_compiler.codegen.llvm.schedules import build
from nexus_compiler.ir import canonical
from nexus_compiler.passes.weights import INPUTS

# Of one core: rough, to tell which questions are worth more time than others.
_FLOPS, _BYTES = 1e11, 2e10
_OTHERS = 1 << 20  # elements of a kernel whose sizes only a call tells
T = TypeVar("T")


def guided_call(
    choices: Choices, asker: str, operator: str, call: relax.Call, make: Callable[[Guide], T]
) -> T:
    """What `make` makes of a call of an input and a weight, led by what is known of it."""
    if not choices:
        return make(Guide())
    function = _alone(call)
    digest, met = canonical.digest(function), dict[str, tuple[str, ...]]()
    made = make(Guide(choices.of(digest), met))
    if met and choices.note is not None:
        variable = GlobalVar("main")
        relax.expr._update_type(variable, function.ty)
        steps = _elements(call.args[1].ty) * _elements(call.ty) / int(call.ty.shape[-1])
        moved = sum(map(_bytes, (call.args[0].ty, call.args[1].ty, call.ty)))
        seconds = max(2 * steps / _FLOPS, moved / _BYTES)
        module = IRModule({variable: function})
        label = f"{operator.rsplit('.', 1)[1]} {call.args[0].ty.shape} {call.args[1].ty.shape}"
        choices.note(Question(digest, label, seconds, moved, met, asker, module))
    return made


def guided_kernel(
    choices: Choices,
    asker: str,
    variable: GlobalVar,
    function: tirx.PrimFunc,
    make: Callable[[Guide], tirx.PrimFunc],
) -> tirx.PrimFunc:
    """What `make` makes of a kernel, led by what is known of it, which it then says itself."""
    if not choices:
        return make(Guide())
    digest, met = canonical.digest(function), dict[str, tuple[str, ...]]()
    choice = choices.of(digest)
    made = make(Guide(choice, met))
    if met and choices.note is not None:
        said = work.describe(made.with_attrs(work.measure(function)), str(variable.name_hint))
        flops, moved = (float(n) if isinstance(n, int) else 0.0 for n in (said.flops, said.bytes))
        label = " ".join((said.label, *said.shapes))
        seconds = max(flops / _FLOPS, moved / _BYTES)
        module = IRModule({variable: function})
        choices.note(Question(digest, label, seconds, moved, met, asker, module))
    return made.with_attr(work.TUNED, choice.text) if choice.taken else made


def _alone(call: relax.Call) -> relax.Function:
    """A function of nothing but this call."""
    x, weight = (relax.Var(name, given.ty) for name, given in zip("xw", call.args))
    block = relax.BlockBuilder()
    with block.function("main", [x, weight]):
        with block.dataflow():
            found = block.emit(relax.Call(call.op, [x, weight], call.attrs, call.ty_args))
            result = block.emit_output(found)
        block.emit_func_output(result)
    return block.get()["main"].with_attr(INPUTS, 1)


def _elements(ty: Any) -> int:
    return build.known(build.product(list(ty.shape))) or _OTHERS


def _bytes(ty: Any) -> int:
    return _elements(ty) * tvm.DataType(str(ty.dtype)).bits // 8
