"""A whole training step as one function, for batches of one size.

    step(features, labels, seed, row, step, learning_rate, state:..., param:...)
        -> loss, correct, param:..., state:...

It does what `gradients`, a division by the batch and `update` do. In one function no gradient
leaves the module, kernels are made for this batch, and parameters and states are written over:
what the caller gives for them holds the new values afterwards.
"""

from __future__ import annotations

import numpy as np
from tvm import IRModule, relax

from nexus_compiler.frontend.builder.emission import Variables
from nexus_compiler.ir.one_thread import one_thread
from nexus_runtime.errors import ShapeError
from nexus_runtime.signature import Dim, FunctionSpec, TensorSpec

NAME = "step"
_SAMPLES = 4  # features, labels, seed, row


@one_thread
def training_step(
    gradients: tuple[IRModule, FunctionSpec],
    update: tuple[IRModule, FunctionSpec],
    parameters: tuple[TensorSpec, ...],
    batch_size: int,
) -> tuple[IRModule, FunctionSpec]:
    """The module and the signature of `step` for batches of `batch_size` samples.

    Args:
        gradients: the function `gradients`, whose features are (batch, ...).
        update: the function `update`.
        parameters: the weights.
        batch_size: samples of a batch.

    Raises:
        ShapeError: `batch_size` is not the batch that the features are fixed to, or below 1.
    """
    (back, back_spec), (move, move_spec) = gradients, update
    batch = back_spec.inputs[0].shape[0]
    if batch_size < 1 or (not isinstance(batch, str) and batch != batch_size):
        raise ShapeError(
            f"a step of {batch_size} samples does not fit an input of {batch_size and batch}",
            hint="name the batch of the input, at least 1; or leave the input's open (None)",
        )
    samples = tuple(_sized(spec, batch, batch_size) for spec in back_spec.inputs)
    moving = tuple(spec for spec in move_spec.inputs if not spec.name.startswith("grad:"))
    weights = tuple(TensorSpec(f"param:{p.name}", p.dtype, p.shape) for p in parameters)
    inputs = (*samples, *moving, *weights)
    names = [spec.name for spec in back_spec.outputs[2:]]
    module = _composed(_fixed(back, batch, batch_size), names, move, move_spec, inputs)
    outputs = (*back_spec.outputs[:2], *move_spec.outputs)
    updates = {spec.name: spec.name for spec in move_spec.outputs}
    return module, FunctionSpec(NAME, inputs, outputs, updates=updates)


def _sized(spec: TensorSpec, batch: Dim, size: int) -> TensorSpec:
    return TensorSpec(spec.name, spec.dtype, tuple(size if d == batch else d for d in spec.shape))


def _fixed(module: IRModule, batch: Dim, size: int) -> relax.Function:
    """`gradients` for batches of `size`."""
    if isinstance(batch, str):
        module = relax.transform.BindSymbolicVars({batch: size}, "gradients")(module)
    return module["gradients"]


def _composed(
    back: relax.Function,
    names: list[str],
    update: IRModule,
    update_spec: FunctionSpec,
    inputs: tuple[TensorSpec, ...],
) -> IRModule:
    """Both functions called one after the other, then inlined; `names`: of what `back` returns."""
    variables = Variables()
    given = {spec.name: variables.tensor(spec) for spec in inputs}
    weights = [var for name, var in given.items() if name.startswith("param:")]
    callees = IRModule({"gradients": back, "update": update["update"]})
    first, second = (callees.get_global_var(name) for name in ("gradients", "update"))
    for variable, function in callees.functions.items():
        relax.expr._update_type(variable, function.ty)
    block = relax.BlockBuilder(callees)
    batch = relax.const(np.float32(inputs[0].shape[0]))
    with block.function(NAME, list(given.values())):
        with block.dataflow():
            found = block.emit(relax.Call(first, [*list(given.values())[:_SAMPLES], *weights]))
            fields = [block.emit(found[i]) for i in range(len(back.ret_ty.fields))]
            means = [block.emit(relax.op.divide(field, batch)) for field in fields[2:]]
            known = given | dict(zip(names, means))
            taken = [known[spec.name] for spec in update_spec.inputs]
            moved = block.emit(relax.Call(second, [*taken, *weights]))
            new = [block.emit(moved[i]) for i in range(len(update_spec.outputs))]
            result = block.emit_output(relax.Tuple([*fields[:2], *new]))
        block.emit_func_output(result)
    whole = block.get()[NAME].inline_functions({"gradients": back, "update": update["update"]})
    return relax.transform.CanonicalizeBindings()(IRModule({NAME: whole}))
