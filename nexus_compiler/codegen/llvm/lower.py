"""From a module of kernel calls to what the virtual machine runs between them."""

from __future__ import annotations

from collections.abc import Mapping

import tvm
from tvm import IRModule, relax, tirx

from nexus_compiler.codegen.door import Plan, Unit
from nexus_compiler.codegen.kernels import Kernel, name_of, named
from nexus_compiler.codegen.llvm import work
from nexus_compiler.ir import canonical, serial
from nexus_compiler.passes.weights import INPUTS
from nexus_runtime.errors import TargetError

_CHECKED = "num_input"
"""TVM's attribute for how many parameters, from the first on, a function checks in every call."""


def to_host_and_kernels(
    module: IRModule, target: tvm.target.Target, kernels: Mapping[str, Kernel]
) -> Plan:
    """Lower calls of kernels to what the virtual machine runs; one unit a kernel.

    The small functions that compute shapes at run time are kernels too, and are found here.
    """
    with target:
        module = _host_passes()(_trusting(module))
    functions = dict(module.functions.items())
    fresh = {
        variable: function
        for variable, function in functions.items()
        if isinstance(function, relax.Function) or str(variable.name_hint) not in kernels
    }
    variables = {str(v.name_hint): v for v in functions if v not in fresh}
    host, shapes = named(IRModule(fresh, attrs=module.attrs), variables, work.describe)
    heads = {variable: functions[variable] for variable in functions if variable not in fresh}
    host = IRModule({**dict(host.functions.items()), **heads}, attrs=module.attrs)
    every = {**shapes, **{name: kernels[name] for name in variables if name in kernels}}
    units = [
        Unit(name, kernel.content.encode(), kernel, kernel.work)
        for name, kernel in sorted(every.items())
    ]
    return Plan(tuple(units), host, lambda: work.memory(module))


def revive(content: str, kernel: bytes) -> Unit:
    """The unit of a kernel in TVM's JSON.

    Raises:
        TargetError: it is no kernel, or not the one of `content`.
    """
    try:
        function = serial.loads(kernel.decode())
    except (ValueError, UnicodeDecodeError) as error:
        raise TargetError(f"the kernel {content[:12]} cannot be read: {error}") from error
    if not isinstance(function, tirx.PrimFunc) or canonical.digest(function) != content:
        raise TargetError(f"what is kept as the kernel {content[:12]} is something else")
    name = name_of(content)
    function = function.with_attr("global_symbol", name)
    said = work.describe(function, "")
    return Unit(name, content.encode(), Kernel(name, content, said, function, lambda: function))


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
