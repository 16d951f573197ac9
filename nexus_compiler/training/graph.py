"""Forward, loss, gradients and optimiser step of a network as one Relax module.

The functions are those that `nexus_runtime/trainer.py` calls:

    predict(features) -> output
    gradients(features, labels, seed, row) -> loss, correct, grad:<parameter>...   sums over samples
    update(step, learning_rate, grad:..., state:...) -> param:..., state:...       of mean gradients
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tvm import IRModule, relax

from nexus_compiler.frontend.builder import emission
from nexus_compiler.frontend.builder.builder import GraphBuilder
from nexus_compiler.frontend.builder.emission import Variables
from nexus_compiler.frontend.builder.layers import Randomness
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.passes.differentiate import Differentiate
from nexus_compiler.training import losses, optimizers
from nexus_runtime.manifest import Training
from nexus_runtime.signature import FunctionSpec, Signature, TensorSpec

_SEED = TensorSpec("seed", "uint32", ())
_ROW = TensorSpec("row", "int64", ())
_STEP = TensorSpec("step", "float32", ())
_RATE = TensorSpec("learning_rate", "float32", ())


def training_graph(
    builder: GraphBuilder, *, loss: str, optimizer: str, options: Mapping[str, Any]
) -> CapturedGraph:
    """The captured graph of a trainer for `builder`.

    Raises:
        UserError: the loss or the optimiser is unknown, or does not fit the network.
        UnsupportedOperator: an operator of the network has no gradient.
    """
    chosen = losses.choose(loss, builder)
    rule = optimizers.make(optimizer, options)
    predict = emission.inference_graph(builder, "predict")
    specs = emission.parameter_specs(builder)
    gradients, gradients_spec = _gradients(builder, losses.LOSSES[chosen], specs)
    update, update_spec = _update(rule, specs)
    functions = {**predict.module.functions, **gradients.functions, **update.functions}
    states = [spec for spec in update_spec.inputs if spec.name.startswith("state:")]
    training = Training(
        loss=chosen,
        optimizer=optimizer,
        options=dataclasses.asdict(rule),
        features=builder.features.name,
        labels="labels",
        states=tuple(states),
    )
    signature = Signature((*predict.signature.functions, gradients_spec, update_spec), specs)
    return dataclasses.replace(
        predict, module=IRModule(functions), signature=signature, training=training
    )


def _gradients(
    builder: GraphBuilder, loss: losses.Loss, specs: tuple[TensorSpec, ...]
) -> tuple[IRModule, FunctionSpec]:
    steps = loss.steps(builder)
    inputs = (builder.features, loss.labels(builder), _SEED, _ROW)
    block, variables = relax.BlockBuilder(), Variables()
    given = [variables.tensor(spec) for spec in inputs]
    weights = {spec.name: variables.tensor(spec) for spec in specs}
    with block.function("gradients", [*given, *weights.values()]):
        with block.dataflow():
            randomness = Randomness(seed=given[2], row=given[3])
            value = emission.forward(
                builder, block, given[0], weights, randomness=randomness, steps=steps
            )
            total, correct = loss.emit(block, value, given[1])
            output = block.emit_output(relax.Tuple([total, correct]))
        block.emit_func_output(output)
    wanted = tuple(range(len(given), len(given) + len(weights)))
    module = Differentiate(function="gradients", wanted=wanted).apply(block.get())
    outputs = (TensorSpec("loss", "float32", ()), TensorSpec("correct", "int64", ()))
    spec = FunctionSpec(
        "gradients", inputs, outputs + _prefixed("grad", specs), tuple(s.name for s in specs)
    )
    return module, spec


def _update(
    rule: optimizers.Optimizer, specs: tuple[TensorSpec, ...]
) -> tuple[IRModule, FunctionSpec]:
    grads = _prefixed("grad", specs)
    states = [_prefixed(f"state:{kind}", specs) for kind in rule.states]
    inputs = (_STEP, _RATE, *grads, *(spec for kind in states for spec in kind))
    block, variables = relax.BlockBuilder(), Variables()
    given = {spec.name: variables.tensor(spec) for spec in inputs}
    weights = [variables.tensor(spec) for spec in specs]
    with block.function("update", [*given.values(), *weights]):
        with block.dataflow():
            results = [
                rule.emit(
                    block,
                    weight,
                    given[grads[index].name],
                    tuple(given[kind[index].name] for kind in states),
                    given["learning_rate"],
                    given["step"],
                )
                for index, weight in enumerate(weights)
            ]
            fields = [new for new, _ in results]
            fields += [state[kind] for kind in range(len(states)) for _, state in results]
            output = block.emit_output(relax.Tuple(fields))
        block.emit_func_output(output)
    outputs = _prefixed("param", specs) + tuple(spec for kind in states for spec in kind)
    return block.get(), FunctionSpec("update", inputs, outputs, tuple(s.name for s in specs))


def _prefixed(prefix: str, specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(f"{prefix}:{spec.name}", spec.dtype, spec.shape) for spec in specs)
