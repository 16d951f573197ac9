"""From a module of kernel calls to what the virtual machine runs between them."""

from __future__ import annotations

from collections.abc import Mapping

import tvm
from tvm import IRModule, relax, tirx

from nexus_compiler.codegen.door import Plan, Unit
from nexus_compiler.codegen.kernels import Kernel, name_of, named
from nexus_compiler.codegen.llvm import work
from nexus_compiler.codegen.llvm.straight import steps
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
        module, written = _with_names(_planning()(_trusting(module)), kernels)
        straight = steps(module)
        module, shapes = _with_names(_host_passes()(module), {**kernels, **written})
    every = {**shapes, **written, **kernels}
    called = {str(v.name_hint) for v in module.functions} & every.keys()
    units = [
        Unit(name, every[name].content.encode(), every[name], every[name].work)
        for name in sorted(called)
    ]
    return Plan(tuple(units), module, lambda: work.memory(module), straight)


def _with_names(
    module: IRModule, kernels: Mapping[str, Kernel]
) -> tuple[IRModule, dict[str, Kernel]]:
    """`module` with names for kernels that are none of `kernels`, and these."""
    functions = dict(module.functions.items())
    known = {v: f for v, f in functions.items() if str(v.name_hint) in kernels}
    fresh = {v: f for v, f in functions.items() if v not in known}
    if all(isinstance(function, relax.Function) for function in fresh.values()):
        return module, {}
    variables = {str(v.name_hint): v for v in known}
    named_module, made = named(IRModule(fresh, attrs=module.attrs), variables, work.describe)
    return IRModule({**dict(named_module.functions.items()), **known}, attrs=module.attrs), made


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


def _planning() -> tvm.transform.Pass:
    passes = relax.transform
    return tvm.transform.Sequential(
        [
            passes.RewriteDataflowReshape(),
            passes.ToNonDataflow(),
            passes.RemovePurityChecking(),
            passes.CallTIRRewrite(),
            passes.StaticPlanBlockMemory(),
            passes.LowerAllocTensor(),
        ]
    )


def _host_passes() -> tvm.transform.Pass:
    passes = relax.transform
    return tvm.transform.Sequential(
        [
            passes.KillAfterLastUse(),
            passes.LowerRuntimeBuiltin(),
            passes.ComputePrimValue(),
            passes.VMShapeLower(),
            passes.AttachGlobalSymbol(),
        ]
    )
