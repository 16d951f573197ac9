"""Puts what an optimiser makes of a gradient into the kernel that makes the gradient.

TVM fuses a value with its reader only where nobody else needs the value. A momentum is both a
result and what the parameter moves by, and Adam reads each gradient twice: so gradients, states
and parameters passed through memory one after the other. Here one kernel has several results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import tvm
import tvm_ffi
from tvm import IRModule, ir, relax, tirx
from tvm.ir.expr import GenericConst
from tvm.s_tir import ScheduleError

from nexus_compiler.codegen.llvm.schedules import kernel, reduce
from nexus_compiler.ir.bodies import with_block
from nexus_compiler.passes.base import Pass, entries

_CALL = "relax.call_tir"
_PRIMITIVE = "Primitive"


@dataclass(frozen=True)
class FuseUpdates(Pass):
    """Sums and the elementwise kernels behind them that make results; stands behind `fuse`."""

    name: ClassVar[str] = "fuse_updates"
    leaves: ClassVar[str] = "lowered"

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite functions that are one dataflow block; others stay as they are."""
        updated = IRModule(dict(module.functions.items()), attrs=module.attrs)
        found = False
        for variable, function in module.functions.items():
            if isinstance(function, relax.Function) and _PRIMITIVE not in (function.attrs or {}):
                changed = _Fuser(updated, function).changed()
                if changed is not None:
                    updated.update_func(variable, changed)
                    found = True
        if not found:
            return module
        passes = [relax.transform.FuseTIR(), relax.transform.DeadCodeElimination(entries(module))]
        return tvm.transform.Sequential(passes)(updated)


@dataclass
class _Group:
    """Calls that become one: the sum, and what is made of it, in their order.

    What is `tainted` is made of a member, but is none.
    """

    members: list[Any]
    tainted: set[Any] = field(default_factory=set[Any])

    @property
    def made(self) -> set[Any]:
        return {binding.var for binding in self.members}


class _Fuser:
    def __init__(self, module: IRModule, function: relax.Function) -> None:
        self._module, self._function = module, function
        self._forms: dict[ir.GlobalVar, kernel.Kernel | None] = {}

    def changed(self) -> relax.Function | None:
        """The function with calls of fused ones; None where nothing is to be fused."""
        blocks = getattr(self._function.body, "blocks", ())
        if len(blocks) != 1 or not isinstance(blocks[0], relax.DataflowBlock):
            return None
        bindings = list(blocks[0].bindings)
        last = bindings[-1].value
        if not isinstance(last, relax.Tuple):
            return None
        results = {one for one in last.fields if isinstance(one, relax.Var)}
        groups = self._groups(bindings[:-1], results)
        if not groups:
            return None
        for group in groups:
            bindings = self._joined(bindings, group)
        return with_block(self._function, bindings)

    def _groups(self, bindings: Sequence[Any], results: set[Any]) -> list[_Group]:
        found: list[_Group] = []
        taken: set[Any] = set()
        for place, root in enumerate(bindings):
            if root.var in taken or not self._sums(root.value):
                continue
            group = _Group([root])
            for binding in bindings[place + 1 :]:
                self._add(group, binding, taken)
            _settle(group, bindings, results)
            if len(group.members) > 1 and not self._keeps_sum(group, bindings, results):
                found.append(group)
                taken |= group.made
        return found

    def _keeps_sum(self, group: _Group, bindings: Sequence[Any], results: set[Any]) -> bool:
        """Whether the bare sum is a result, or others read it: tiles keep it in registers alone."""
        root, made = group.members[0], group.made
        form = self._form(root.value)
        bare = form is not None and bool(form.stages[-1].reduced)
        others = [b for b in bindings if b.var not in made]
        read = any(root.var in relax.analysis.free_vars(b.value) for b in others)
        return bare and (root.var in results or read)

    def _add(self, group: _Group, binding: Any, taken: set[Any]) -> None:
        """Take `binding` into the group, if it is one of its kind."""
        read = set(relax.analysis.free_vars(binding.value))
        own, late = read & group.made, read & group.tainted
        fits = own and not late and binding.var not in taken
        if fits and self._follows(binding.value, group.members[0].var, own):
            group.members.append(binding)
        elif own or late:
            group.tainted.add(binding.var)

    def _form(self, call: Any) -> kernel.Kernel | None:
        """The stages of the kernel of a plain call."""
        plain = isinstance(call, relax.Call) and getattr(call.op, "name", "") == _CALL
        if not plain or len(call.args) > 2 or not isinstance(call.ty, relax.TensorType):
            return None
        callee = call.args[0]
        if callee not in self._forms:
            try:
                self._forms[callee] = kernel.read(kernel.inline(self._module[callee]).mod["main"])
            except ScheduleError:
                self._forms[callee] = None
        return self._forms[callee]

    def _sums(self, call: Any) -> bool:
        """Whether it ends in a sum and at most one stage behind that, which stays in its order.

        Schedules of windows know one result only.
        """
        form = self._form(call)
        if form is None or any(s.reduced and reduce.is_window(s) for s in form.stages):
            return False
        *_, last = form.stages
        if last.reduced:
            return True
        before = [stage for stage in form.stages if stage.reduced]
        total = before[-1].store.buffer if before else None
        return total is not None and bool(kernel.loads(last.store.value, total)) and _stays(last)

    def _follows(self, call: Any, root: relax.Var, own: set[Any]) -> bool:
        """Whether it computes each of its elements from the same element of the group's values."""
        form = self._form(call)
        if form is None or len(form.stages) != 1 or form.stages[0].reduced:
            return False
        if not tvm_ffi.structural_equal(call.ty, root.ty):
            return False
        params = [p for p, a in zip(form.function.params, call.args[1].fields) if a in own]
        (stage,) = form.stages
        found = [load for param in params for load in kernel.loads(stage.store.value, param)]
        return bool(found) and _stays(stage)

    def _joined(self, bindings: Sequence[Any], group: _Group) -> list[Any]:
        """`bindings` with one call where the last of the group stood."""
        made = group.made
        read = [set(relax.analysis.free_vars(b.value)) for b in bindings if b.var not in made]
        outputs = [b.var for b in group.members if any(b.var in one for one in read)]
        members, given = _lifted(group)
        variable = self._primitive(members, list(given), outputs)
        call = relax.Call(variable, list(given.values()))
        last = group.members[-1].var
        if len(outputs) == 1:
            calls = [relax.VarBinding(outputs[0], call)]
            relax.expr._update_type(call, outputs[0].ty)
        else:
            types = relax.TupleType([one.ty for one in outputs])
            relax.expr._update_type(call, types)
            whole = relax.DataflowVar("updated", types)
            calls = [relax.VarBinding(whole, call)]
            for place, one in enumerate(outputs):
                calls.append(relax.VarBinding(one, relax.TupleGetItem(whole, place)))
        joined: list[Any] = []
        late: list[Any] = []  # what reads a result of the group and stood before its last member
        waiting = set(made)
        for binding in bindings:
            if binding.var.same_as(last):
                joined += [*calls, *late]
                waiting.clear()
            elif binding.var in made:
                continue
            elif waiting & set(relax.analysis.free_vars(binding.value)):
                late.append(binding)
                waiting.add(binding.var)
            else:
                joined.append(binding)
        return joined

    def _primitive(
        self, members: Sequence[Any], given: Sequence[Any], outputs: Sequence[Any]
    ) -> ir.GlobalVar:
        names = [str(b.value.args[0].name_hint).removeprefix("fused_") for b in members]
        value = outputs[0] if len(outputs) == 1 else relax.Tuple(list(outputs))
        types = relax.TupleType([one.ty for one in outputs])
        result = relax.Var("result", outputs[0].ty if len(outputs) == 1 else types)
        bindings = [*members, relax.VarBinding(result, value)]
        body = relax.SeqExpr([relax.DataflowBlock(bindings)], result)
        made = relax.Function(list(given), body, result.ty)
        made = relax.utils.copy_with_new_vars(made).with_attr(_PRIMITIVE, 1)
        name = "fused_" + "_".join(names)
        taken = {str(variable.name_hint) for variable in self._module.functions}
        while name in taken:
            name += "_"
        variable = ir.GlobalVar(name)
        relax.expr._update_type(variable, made.ty)
        self._module.update_func(variable, made)
        return self._module.get_global_var(name)


def _lifted(group: _Group) -> tuple[list[relax.VarBinding], dict[relax.Var, Any]]:
    """The members, and what they read from outside by the parameter that stands for it.

    FuseTIR refuses constants within a primitive function: each becomes a parameter.
    """
    made = group.made
    given: dict[relax.Var, Any] = {}
    members: list[relax.VarBinding] = []
    for binding in group.members:
        call, read = binding.value, list[Any]()
        for one in call.args[1].fields:
            constant = isinstance(one, GenericConst)
            read.append(relax.Var("constant", one.ty) if constant else one)
            if read[-1] not in made:
                given[read[-1]] = one
        lifted = relax.Call(call.op, [call.args[0], relax.Tuple(read)], call.attrs, call.ty_args)
        relax.expr._update_type(lifted, call.ty)
        members.append(relax.VarBinding(binding.var, lifted))
    return members, given


def _settle(group: _Group, bindings: Sequence[Any], results: set[Any]) -> None:
    """Leave out members that are neither results nor read by members alone, and their readers."""
    read = {binding.var: set(relax.analysis.free_vars(binding.value)) for binding in bindings}
    while True:
        root, *others = group.members
        made = group.made
        outside = set[Any]().union(*(read[variable] for variable in read if variable not in made))
        lost = {b.var for b in others if b.var in outside and b.var not in results}
        if not lost:
            return
        for binding in others:
            if read[binding.var] & lost:
                lost.add(binding.var)
        group.members = [root, *(b for b in others if b.var not in lost)]


def _stays(stage: kernel.Stage) -> bool:
    """Whether every operand as large as the result is read where the result is written."""
    store = stage.store
    return all(
        len(load.indices) == len(store.indices)
        and all(map(kernel.same, load.indices, store.indices))
        for load in kernel.loads(store.value)
        if tirx.buffer.is_buffer_var(load.source) and _large(load.source, store.buffer)
    )


def _large(operand: Any, result: Any) -> bool:
    return len([n for n in operand.shape if not kernel.is_const(n, 1)]) >= len(
        [n for n in result.shape if not kernel.is_const(n, 1)]
    )
