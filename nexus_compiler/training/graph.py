"""Forward, loss, gradients and optimiser step of a network as one Relax module.

The functions are those that `nexus_runtime/trainer.py` calls:

    predict(features) -> output
    gradients(features, labels, seed, row) -> loss, correct, grad:<parameter>...   sums over samples
    update(step, learning_rate, grad:..., state:...) -> param:..., state:...       of mean gradients
    step(...)                                           all of it, for one size of a batch (step.py)

A weight that a layer moves and no optimiser (running statistics) goes the same way: its "gradient"
is what the layer observed, summed over samples, and `update` lets the layer make the new value of
the mean. Whatever adds and averages gradients treats it rightly without knowing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tvm import IRModule, relax

from nexus_compiler.frontend.builder import emission
from nexus_compiler.frontend.builder.builder import GraphBuilder
from nexus_compiler.frontend.builder.emission import Variables
from nexus_compiler.frontend.builder.layers.base import Randomness
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.ir.one_thread import one_thread
from nexus_compiler.passes.differentiate import Differentiate
from nexus_compiler.training import losses, optimizers
from nexus_compiler.training.step import training_step
from nexus_runtime.errors import UserError
from nexus_runtime.manifest import Training
from nexus_runtime.signature import FunctionSpec, Signature, TensorSpec

_SEED = TensorSpec("seed", "uint32", ())
_ROW = TensorSpec("row", "int64", ())
_STEP = TensorSpec("step", "float32", ())
_RATE = TensorSpec("learning_rate", "float32", ())


@one_thread
def training_graph(
    builder: GraphBuilder,
    *,
    loss: str,
    optimizer: str,
    options: Mapping[str, Any],
    batch_size: int | None = None,
) -> CapturedGraph:
    """The captured graph of a trainer for `builder`; with `step`, where there is a `batch_size`.

    Raises:
        UserError: the loss or the optimiser is unknown, or does not fit the network; or the network
            has more than one input or output.
        ShapeError: the batch size does not fit the network's input.
        UnsupportedOperator: an operator of the network has no gradient.
    """
    _check(builder)
    chosen = losses.choose(loss, builder)
    rule = optimizers.make(optimizer, options)
    predict = emission.inference_graph(builder, "predict")
    specs = emission.parameter_specs(builder)
    gradients = _gradients(builder, losses.LOSSES[chosen], specs)
    update = _update(builder, rule, specs)
    made = [gradients, update]
    if batch_size is not None:
        made.append(training_step(gradients, update, specs, batch_size))
    functions = dict(predict.module.functions)
    for module, _ in made:
        functions |= module.functions
    states = [spec for spec in update[1].inputs if spec.name.startswith("state:")]
    training = Training(
        loss=chosen,
        optimizer=optimizer,
        options=dataclasses.asdict(rule),
        features=builder.sources[0].name,
        labels="labels",
        states=tuple(states),
    )
    signature = Signature((*predict.signature.functions, *(spec for _, spec in made)), specs)
    return dataclasses.replace(
        predict, module=IRModule(functions), signature=signature, training=training
    )


def _check(builder: GraphBuilder) -> None:
    """What a trainer feeds is one array of features and one of labels."""
    builder.tensor()
    if len(builder.sources) > 1:
        names = ", ".join(f"'{source.name}'" for source in builder.sources)
        raise UserError(
            f"a network with several inputs ({names}) cannot be trained: a trainer feeds one",
            hint="take one input and cut it by .slice, or train elsewhere and use .with_weights",
        )
    if len(builder.ends()) > 1:
        names = ", ".join(f"'{name}'" for name in builder.declared)
        raise UserError(
            f"a network with several outputs ({names}) cannot be trained: the loss takes one",
            hint="declare the others on a copy of the builder: every call returns a new one",
        )


def _gradients(
    builder: GraphBuilder, loss: losses.Loss, specs: tuple[TensorSpec, ...]
) -> tuple[IRModule, FunctionSpec]:
    behind, source = loss.behind(builder), builder.sources[0]
    inputs = (source, loss.labels(builder), _SEED, _ROW)
    block, variables = relax.BlockBuilder(), Variables()
    given = [variables.tensor(spec) for spec in inputs]
    weights = {spec.name: variables.tensor(spec) for spec in specs}
    with block.function("gradients", [*given, *weights.values()]):
        with block.dataflow():
            randomness = Randomness(seed=given[2], row=given[3])
            made = emission.forward(
                builder, block, {source.name: given[0]}, weights, randomness=randomness
            )
            total, correct = loss.emit(block, made.tensors[behind], given[1])
            output = block.emit_output(relax.Tuple([total, correct, *made.observed.values()]))
        block.emit_func_output(output)
    trained = [name for name in weights if name not in made.observed]
    wanted = tuple(len(given) + list(weights).index(name) for name in trained)
    module = Differentiate(function="gradients", wanted=wanted).apply(block.get())
    by_name = {spec.name: spec for spec in specs}
    returned = tuple(by_name[name] for name in (*made.observed, *trained))
    outputs = (TensorSpec("loss", "float32", ()), TensorSpec("correct", "int64", ()))
    return module, FunctionSpec(
        "gradients", inputs, outputs + _prefixed("grad", returned), tuple(weights)
    )


def _update(
    builder: GraphBuilder, rule: optimizers.Optimizer, specs: tuple[TensorSpec, ...]
) -> tuple[IRModule, FunctionSpec]:
    wanted = builder.parameter_specs()
    trained = tuple(spec for spec in specs if wanted[spec.name].trained)
    grads = _prefixed("grad", specs)
    states = [_prefixed(f"state:{kind}", trained) for kind in rule.states]
    inputs = (_STEP, _RATE, *grads, *(spec for kind in states for spec in kind))
    block, variables = relax.BlockBuilder(), Variables()
    given = {spec.name: variables.tensor(spec) for spec in inputs}
    weights = {spec.name: variables.tensor(spec) for spec in specs}
    with block.function("update", [*given.values(), *weights.values()]):
        with block.dataflow():
            results = [
                rule.emit(
                    block,
                    weights[spec.name],
                    given[f"grad:{spec.name}"],
                    tuple(given[kind[index].name] for kind in states),
                    given["learning_rate"],
                    given["step"],
                )
                for index, spec in enumerate(trained)
            ]
            moved: dict[str, relax.Expr] = {s.name: new for s, (new, _) in zip(trained, results)}
            moved |= _advanced(builder, block, weights, given)
            fields = [moved[spec.name] for spec in specs]
            fields += [state[kind] for kind in range(len(states)) for _, state in results]
            output = block.emit_output(relax.Tuple(fields))
        block.emit_func_output(output)
    outputs = _prefixed("param", specs) + tuple(spec for kind in states for spec in kind)
    return block.get(), FunctionSpec("update", inputs, outputs, tuple(weights))


def _advanced(
    builder: GraphBuilder,
    block: relax.BlockBuilder,
    weights: Mapping[str, relax.Var],
    given: Mapping[str, relax.Var],
) -> dict[str, relax.Expr]:
    """The new values of the weights that layers move themselves."""
    found: dict[str, relax.Expr] = {}
    for step in builder.steps:
        parameters = step.layer.parameters(step.shapes)
        own = [name for name, parameter in parameters.items() if not parameter.trained]
        old = {name: weights[f"{step.owner}.{name}"] for name in own}
        seen = {name: given[f"grad:{step.owner}.{name}"] for name in own}
        new = step.layer.advance(block, old, seen)
        found |= {f"{step.owner}.{name}": value for name, value in new.items()}
    return found


def _prefixed(prefix: str, specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(f"{prefix}:{spec.name}", spec.dtype, spec.shape) for spec in specs)
