"""From a module of kernel calls to host code and kernels that are named by their content."""

from __future__ import annotations

import tvm
from tvm import IRModule, relax, tirx

from nexus_compiler.codegen.door import Plan, Unit
from nexus_compiler.codegen.llvm import work
from nexus_compiler.ir import canonical
from nexus_compiler.passes.weights import INPUTS
from nexus_runtime.errors import TargetError

_CHECKED = "num_input"
"""TVM's attribute for how many parameters, from the first on, a function checks in every call."""


def to_host_and_kernels(module: IRModule, target: tvm.target.Target) -> Plan:
    """Lower to what the virtual machine runs, then cut: one unit a kernel.

    A kernel's name is its canonical digest, so that equal kernels of different layers, models and
    processes are one object. The small functions that compute shapes at run time are kernels too.
    """
    with target:
        module = _host_passes()(_trusting(module))
    units: dict[str, Unit] = {}
    renamed: dict[tvm.ir.GlobalVar, str] = {}
    for variable, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc):
            kernel = _ordered(function)
            content = canonical.digest(kernel)
            name = _name(content)
            renamed[variable] = name
            said = work.describe(kernel, str(variable.name_hint))
            # Of the labels of equal kernels the first counts, not that of whoever came first.
            if name not in units or said.label < _label(units[name]):
                units[name] = Unit(name, content.encode(), kernel, said)
    ordered = tuple(units[name] for name in sorted(units))
    return Plan(ordered, _rename(module, renamed), work.memory(module))


def _name(content: str) -> str:
    return f"k_{content[:32]}"


def revive(content: str, kernel: bytes) -> Unit:
    """The unit of a kernel in TVM's JSON.

    Raises:
        TargetError: it is no kernel, or not the one of `content`.
    """
    try:
        function = tvm.ir.load_json(kernel.decode())
    except (ValueError, RuntimeError, UnicodeDecodeError) as error:
        raise TargetError(f"the kernel {content[:12]} cannot be read: {error}") from error
    if not isinstance(function, tirx.PrimFunc) or canonical.digest(function) != content:
        raise TargetError(f"what is kept as the kernel {content[:12]} is something else")
    return Unit(_name(content), content.encode(), function)


def _label(unit: Unit) -> str:
    return unit.kernel.label if unit.kernel else ""


def _trusting(module: IRModule) -> IRModule:
    """The functions of `module` without checks of what was checked before them.

    Every call would check every weight anew, which takes longer than a small model itself. Whoever
    loads the module checks the weights once, and a kernel still checks whatever it is given. Open
    dimensions are matched in any case. What our own functions pass to each other has been checked
    by the compiler.
    """
    trusting = IRModule(dict(module.functions.items()), attrs=module.attrs)
    for variable, function in module.functions.items():
        if isinstance(function, relax.Function):
            first = int((function.attrs or {}).get(INPUTS, 0))
            if all(_has_shape(parameter.ty) for parameter in function.params[first:]):
                trusting.update_func(variable, function.with_attr(_CHECKED, first))
    return trusting


def _has_shape(kind: tvm.ir.Type) -> bool:
    """Whether VMShapeLower can leave the checks of such a parameter out."""
    return isinstance(kind, relax.TensorType) and isinstance(kind.shape, relax.ShapeExpr)


def _host_passes() -> tvm.transform.Pass:
    passes = relax.transform
    return tvm.transform.Sequential(
        [
            passes.RewriteDataflowReshape(),
            passes.ToNonDataflow(),
            passes.RemovePurityChecking(),
            passes.CallTIRRewrite(),
            passes.DeadCodeElimination(),
            passes.StaticPlanBlockMemory(),
            passes.LowerAllocTensor(),
            passes.KillAfterLastUse(),
            passes.LowerRuntimeBuiltin(),
            passes.ComputePrimValue(),
            passes.VMShapeLower(),
            passes.AttachGlobalSymbol(),
        ]
    )


def _ordered(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Shape functions with their stores in the order of their slots.

    TVM emits them in the order of a hash table over addresses, which differs from run to run. They
    write distinct slots and read only those of the input dimensions, so that any order is right.
    """
    body = function.body
    if "tirx.is_host_func" not in function.attrs or not isinstance(body, tirx.SeqStmt):
        return function
    if not all(isinstance(store, tirx.BufferStore) for store in body.seq):
        return function
    stores = sorted(body.seq, key=lambda store: int(store.indices[0]))
    return function.with_body(tirx.SeqStmt(stores))


def _rename(module: IRModule, names: dict[tvm.ir.GlobalVar, str]) -> IRModule:
    """The Relax functions of `module`, calling kernels by their new names."""
    variables: dict[str, tvm.ir.GlobalVar] = {}
    for old, name in names.items():
        if name not in variables:
            variables[name] = tvm.ir.GlobalVar(name)
            relax.expr._update_type(variables[name], old.ty)
    mutator = _Renamer(module, {old: variables[name] for old, name in names.items()})
    functions: dict[tvm.ir.GlobalVar, tvm.ir.BaseFunc] = {
        variable: mutator.visit_expr(function)
        for variable, function in module.functions.items()
        if isinstance(function, relax.Function)
    }
    for old, name in names.items():
        # The code generator looks at the kernels' signatures.
        functions[variables[name]] = module[old].with_attr("global_symbol", name)
    return IRModule(functions, attrs=module.attrs)


@relax.expr_functor.mutator
class _Renamer(relax.PyExprMutator):
    def __init__(
        self, module: IRModule, variables: dict[tvm.ir.GlobalVar, tvm.ir.GlobalVar]
    ) -> None:
        super().__init__(module)
        self._variables = variables

    def visit_global_var_(self, variable: tvm.ir.GlobalVar) -> tvm.ir.GlobalVar:
        return self._variables.get(variable, variable)
