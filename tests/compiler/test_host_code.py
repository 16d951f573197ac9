"""What the virtual machine does besides calling kernels."""

from __future__ import annotations

import collections

from small import mlp
from tvm import IRModule, relax

from nexus_compiler import targets
from nexus_compiler.codegen.llvm import lower
from nexus_compiler.codegen.llvm.room import LlvmRoom, tvm_target
from nexus_compiler.passes import base, pipelines
from nexus_compiler.passes.weights import INPUTS


def host(module: IRModule, inputs: int) -> IRModule:
    """The program for a module whose `main` has so many inputs, and then weights."""
    room = LlvmRoom()
    target = room.resolve(targets.load("native"))
    main = module.get_global_var("main")
    module.update_func(main, module[main].with_attr(INPUTS, inputs))
    passes = (*room.graph_passes(target), *room.region_passes(target))
    lowered = base.run(module, (*pipelines.common(), *passes), ())
    return lower.to_host_and_kernels(lowered, tvm_target(target), {}).host


def checked(program: IRModule, name: str) -> dict[str, list[str]]:
    """The parameters of a function that each builtin checks or matches, in order."""
    found: dict[str, list[str]] = collections.defaultdict(list)

    def visit(node: relax.Expr) -> None:
        if isinstance(node, relax.Call) and isinstance(node.op, relax.ExternFunc):
            builtin = str(node.op.global_symbol).removeprefix("vm.builtin.")
            if builtin.startswith(("check_", "match_")):
                found[builtin].append(node.args[0].name)

    relax.analysis.post_order_visit(program[name], visit)
    return dict(found)


def test_a_call_checks_its_inputs_and_no_weights() -> None:
    found = checked(host(mlp().module, 1), "main")
    assert found == {"check_tensor_info": ["x"], "match_shape": ["x"]}


def test_what_was_prepared_is_not_checked() -> None:
    x = relax.Var("x", relax.TensorType((2, 4), "float32"))
    weight = relax.Var("w", relax.TensorType((3, 4), "float32"))
    block = relax.BlockBuilder()
    with block.function("main", [x, weight]):
        with block.dataflow():
            turned = block.emit(relax.op.exp(relax.op.permute_dims(weight)))
            output = block.emit_output(relax.Tuple([relax.op.matmul(x, turned)]))
        block.emit_func_output(output)
    found = checked(host(block.get(), 1), "main__run")
    assert found == {"check_tensor_info": ["x"], "match_shape": ["x"]}
