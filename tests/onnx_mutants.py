"""Broken ONNX models: small seeds, and one to three faults in each mutant.

A mutant is named by a seed model and a number, and the same name always gives the same bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, helper, numpy_helper

_EXTREMES = [0, 1, -1, 2, -2, 7, 255, 2**31 - 1, -(2**31), 2**31, 2**40, 2**62, 2**63 - 1, -(2**63)]
_FLOATS = [0.0, -1.0, 1e-45, 1e38, float("nan"), float("inf"), -float("inf")]
_OPERATORS = [
    *("Add", "MatMul", "Conv", "Relu", "Reshape", "Transpose", "Concat", "Split", "Slice"),
    *("Gather", "GatherND", "ScatterND", "Pad", "Tile", "Expand", "Resize", "ReduceSum"),
    *("ArgMax", "TopK", "NonZero", "Where", "Cast", "Shape", "ConstantOfShape", "Range"),
    *("OneHot", "If", "Loop", "Scan", "LSTM", "Einsum", "Softmax", "BatchNormalization"),
    *("LayerNormalization", "MaxPool", "AveragePool", "Gemm", "ConvTranspose", "Flatten"),
    *("Squeeze", "Unsqueeze", "QuantizeLinear", "DequantizeLinear", "Unique", "SequenceAt"),
    *("SplitToSequence", "Optional", "CumSum", "Mod", "Pow", "DepthToSpace", "GridSample"),
    *("RoiAlign", "NoSuchOperator"),
]


def mutant(seed: onnx.ModelProto, number: int) -> bytes:
    """The bytes of the `number`-th mutant of `seed`."""
    chance = random.Random(number)
    model = onnx.ModelProto()
    model.CopyFrom(seed)
    if chance.random() < 0.75:
        for _ in range(chance.choice([1, 1, 2, 3])):
            fault = chance.choice(_FAULTS)
            try:
                fault(model, chance)
            except (IndexError, ValueError, TypeError, DecodeError, onnx.checker.ValidationError):
                continue  # the model has nothing of the kind, or protobuf itself refuses it
        return model.SerializeToString()
    data = bytearray(model.SerializeToString())
    for _ in range(chance.choice([1, 1, 2, 8])):
        _damage(data, chance)
    return bytes(data)


def _damage(data: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(data) + 1)
    kind = chance.randrange(5)
    if kind == 0:
        del data[place:]
    elif kind == 1:
        data[place:place] = chance.randbytes(chance.randint(1, 9))
    elif kind == 2:
        other = chance.randrange(len(data) + 1)
        data[place:place] = data[other : other + 40]
    elif kind == 3:
        del data[place : place + chance.randint(1, 40)]
    elif place < len(data):
        data[place] ^= 1 << chance.randrange(8)


# Finding a victim
def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _graph(model: onnx.ModelProto, chance: random.Random) -> onnx.GraphProto:
    return chance.choice(list(_graphs(model.graph)))


def _nodes(model: onnx.ModelProto, chance: random.Random) -> Any:
    inside = [f.node for f in model.functions if f.node]
    return chance.choice([*(g.node for g in _graphs(model.graph) if g.node), *inside])


def _node(model: onnx.ModelProto, chance: random.Random) -> onnx.NodeProto:
    return chance.choice(_nodes(model, chance))


def _attribute(model: onnx.ModelProto, chance: random.Random) -> AttributeProto:
    every = [a for g in _graphs(model.graph) for node in g.node for a in node.attribute]
    return chance.choice(every)


def _tensor(model: onnx.ModelProto, chance: random.Random) -> TensorProto:
    every = [tensor for g in _graphs(model.graph) for tensor in g.initializer]
    every += [a.t for g in _graphs(model.graph) for n in g.node for a in n.attribute if a.type == 4]
    return chance.choice(every)


def _value(model: onnx.ModelProto, chance: random.Random) -> onnx.ValueInfoProto:
    graph = _graph(model, chance)
    return chance.choice([*graph.input, *graph.output, *graph.value_info])


def _name(model: onnx.ModelProto, chance: random.Random) -> str:
    names = [name for g in _graphs(model.graph) for n in g.node for name in (*n.input, *n.output)]
    return chance.choice([*names, "nowhere", ""])


# Faults
def _drop_node(model: onnx.ModelProto, chance: random.Random) -> None:
    nodes = _nodes(model, chance)
    del nodes[chance.randrange(len(nodes))]


def _repeat_node(model: onnx.ModelProto, chance: random.Random) -> None:
    nodes = _nodes(model, chance)
    nodes.append(chance.choice(nodes))


def _shuffle_nodes(model: onnx.ModelProto, chance: random.Random) -> None:
    nodes = _nodes(model, chance)
    copies = list(nodes)
    chance.shuffle(copies)
    del nodes[:]
    nodes.extend(copies)


def _close_a_cycle(model: onnx.ModelProto, chance: random.Random) -> None:
    nodes = _nodes(model, chance)
    node = chance.choice(nodes)
    node.input[chance.randrange(len(node.input))] = nodes[-1].output[0]


def _rewire_input(model: onnx.ModelProto, chance: random.Random) -> None:
    node = _node(model, chance)
    node.input[chance.randrange(len(node.input))] = _name(model, chance)


def _rename_output(model: onnx.ModelProto, chance: random.Random) -> None:
    node = _node(model, chance)
    node.output[chance.randrange(len(node.output))] = _name(model, chance)


def _resize_inputs(model: onnx.ModelProto, chance: random.Random) -> None:
    names = chance.choice([_node(model, chance).input, _node(model, chance).output])
    if chance.random() < 0.5:
        names.append(_name(model, chance))
    else:
        names.pop()


def _swap_inputs(model: onnx.ModelProto, chance: random.Random) -> None:
    names = _node(model, chance).input
    mixed = list(names)
    chance.shuffle(mixed)
    names[:] = mixed


def _other_operator(model: onnx.ModelProto, chance: random.Random) -> None:
    _node(model, chance).op_type = chance.choice(_OPERATORS)


def _other_domain(model: onnx.ModelProto, chance: random.Random) -> None:
    domains = ["", "ai.onnx", "ai.onnx.ml", "com.microsoft", "acme"]
    _node(model, chance).domain = chance.choice(domains)


def _other_opset(model: onnx.ModelProto, chance: random.Random) -> None:
    kind = chance.randrange(3)
    if kind == 0:
        del model.opset_import[:]
    elif kind == 1:
        model.opset_import.append(helper.make_opsetid("", chance.choice([1, 9, 99])))
    else:
        model.opset_import[0].version = chance.choice([*range(1, 28), -1, 0, 2**63 - 1])


def _drop_attribute(model: onnx.ModelProto, chance: random.Random) -> None:
    attributes = _node(model, chance).attribute
    del attributes[chance.randrange(len(attributes))]


def _other_value(model: onnx.ModelProto, chance: random.Random) -> None:
    attribute = _attribute(model, chance)
    attribute.i, attribute.f = chance.choice(_EXTREMES), chance.choice(_FLOATS)
    if attribute.ints:
        attribute.ints[chance.randrange(len(attribute.ints))] = chance.choice(_EXTREMES)
    if attribute.floats:
        attribute.floats[chance.randrange(len(attribute.floats))] = chance.choice(_FLOATS)
    if attribute.s:
        attribute.s = chance.choice([b"", b"\xff\xfe", b"constant", b"nonsense", attribute.s])


def _other_length(model: onnx.ModelProto, chance: random.Random) -> None:
    attribute = _attribute(model, chance)
    items = attribute.ints or attribute.floats or attribute.strings
    kind = chance.randrange(3)
    if kind == 0:
        del items[:]
    elif kind == 1:
        items.append(items[-1])
    else:
        del items[-1]


def _other_attribute_type(model: onnx.ModelProto, chance: random.Random) -> None:
    _attribute(model, chance).type = chance.randrange(15)  # pyright: ignore


def _strange_attribute(model: onnx.ModelProto, chance: random.Random) -> None:
    node = _node(model, chance)
    known = [a.name for a in _node(model, chance).attribute]
    value = chance.choice([chance.choice(_EXTREMES), 1.5, "text", [1, 2], [0.5], np.zeros(2, "f")])
    if isinstance(value, np.ndarray):
        value = numpy_helper.from_array(value)
    node.attribute.append(helper.make_attribute(chance.choice([*known, "axis", "axes"]), value))


def _other_dtype(model: onnx.ModelProto, chance: random.Random) -> None:
    _tensor(model, chance).data_type = chance.randrange(-1, 30)


def _other_dims(model: onnx.ModelProto, chance: random.Random) -> None:
    dims = _tensor(model, chance).dims
    kind = chance.randrange(4)
    if kind == 0:
        dims.append(chance.choice([1, 2, 0, -1, 2**40]))
    elif kind == 1:
        del dims[-1]
    elif kind == 2:
        dims[chance.randrange(len(dims))] = chance.choice(_EXTREMES)
    else:
        dims[:] = [2**40, 2**40]


def _other_data(model: onnx.ModelProto, chance: random.Random) -> None:
    tensor = _tensor(model, chance)
    kind = chance.randrange(3)
    if kind == 0:
        tensor.raw_data = tensor.raw_data[:-1]
    elif kind == 1:
        tensor.raw_data = chance.randbytes(chance.randint(0, 24))
    else:
        tensor.float_data.append(1.5)


def _other_numbers(model: onnx.ModelProto, chance: random.Random) -> None:
    """Extreme numbers where a shape, an axis or a bound is stored."""
    tensor = _tensor(model, chance)
    array = numpy_helper.to_array(tensor).copy().reshape(-1)
    if array.dtype.kind == "f":
        array[chance.randrange(array.size)] = chance.choice(_FLOATS)
    else:
        bound = np.iinfo(array.dtype)
        number = chance.choice(_EXTREMES)
        array[chance.randrange(array.size)] = min(max(number, bound.min), bound.max)
    stored = numpy_helper.from_array(array.reshape(tuple(tensor.dims)), tensor.name)
    tensor.CopyFrom(stored)


def _elsewhere(model: onnx.ModelProto, chance: random.Random) -> None:
    tensor = _tensor(model, chance)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    places = ["../../../../etc/passwd", "/etc/passwd", "none.bin", "model.onnx", "", "."]
    values = ["-1", "0", "8", str(2**63), "text"]
    for key, value in {
        "location": chance.choice(places),
        "offset": chance.choice(values),
        "length": chance.choice(values),
    }.items():
        if chance.random() < 0.8:
            tensor.external_data.add(key=key, value=value)


def _other_name(model: onnx.ModelProto, chance: random.Random) -> None:
    victim = chance.choice([_tensor, _value])(model, chance)
    victim.name = _name(model, chance)


def _other_type(model: onnx.ModelProto, chance: random.Random) -> None:
    value = _value(model, chance)
    if chance.random() < 0.2:
        chance.choice([value.ClearField, value.type.ClearField])(  # pyright: ignore
            chance.choice(["type", "name", "tensor_type"])
        )
        return
    value.type.tensor_type.elem_type = chance.randrange(30)


def _other_shape(model: onnx.ModelProto, chance: random.Random) -> None:
    shape = _value(model, chance).type.tensor_type.shape
    kind = chance.randrange(4)
    if kind == 0:
        del shape.dim[-1]
    elif kind == 1:
        shape.dim.add(dim_value=chance.choice(_EXTREMES))
    elif kind == 2:
        names = ["n", "batch", "1", "a b", "class", "x" * 300, "é", "n+1", "%s", "self"]
        shape.dim[chance.randrange(len(shape.dim))].dim_param = chance.choice(names)
    else:
        shape.dim[chance.randrange(len(shape.dim))].dim_value = chance.choice(_EXTREMES)


def _drop_from_graph(model: onnx.ModelProto, chance: random.Random) -> None:
    graph = _graph(model, chance)
    items = chance.choice([graph.input, graph.output, graph.initializer])
    del items[chance.randrange(len(items))]


def _nest(model: onnx.ModelProto, chance: random.Random) -> None:
    """Conditions in conditions, the innermost of which has the model's own nodes."""
    name = model.graph.output[0].name
    for depth in range(chance.choice([1, 5, 20])):
        inner = helper.make_graph(
            list(model.graph.node), f"g{depth}", [], [helper.make_empty_tensor_value_info(name)]
        )
        other = helper.make_node("Constant", [], [name], value_float=1.0)
        infos = [helper.make_empty_tensor_value_info(name)]
        plain = helper.make_graph([other], f"h{depth}", [], infos)
        flag = helper.make_node("Constant", [], [f"flag{depth}"], value_ints=[depth % 2])
        cast = helper.make_node("Cast", [f"flag{depth}"], [f"bool{depth}"], to=TensorProto.BOOL)
        node = helper.make_node(
            "If", [f"bool{depth}"], [name], then_branch=inner, else_branch=plain
        )
        del model.graph.node[:]
        model.graph.node.extend([flag, cast, node])


def _recursive_function(model: onnx.ModelProto, chance: random.Random) -> None:
    other = chance.choice(["Self", "Other"])
    for name, called in {"Self": other, "Other": "Self"}.items():
        node = helper.make_node(called, ["x"], ["y"], domain="acme")
        imports = [helper.make_opsetid("acme", 1)]
        model.functions.append(helper.make_function("acme", name, ["x"], ["y"], [node], imports))
    if all(o.domain != "acme" for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid("acme", 1))
    node = _node(model, chance)
    node.op_type, node.domain = "Self", "acme"
    del node.attribute[:]


_FAULTS: list[Callable[[onnx.ModelProto, random.Random], None]] = [
    *(_drop_node, _repeat_node, _shuffle_nodes, _close_a_cycle, _rewire_input, _rename_output),
    *(_resize_inputs, _swap_inputs, _other_operator, _other_domain, _other_opset),
    *(_drop_attribute, _other_value, _other_value, _other_length, _other_attribute_type),
    *(_strange_attribute, _other_dtype, _other_dims, _other_data, _other_numbers, _other_numbers),
    *(_elsewhere, _other_name, _other_type, _other_shape, _other_shape, _drop_from_graph),
    *(_nest, _recursive_function),
]
