"""Small whole ONNX models that mutants are made of: a family of operators in each."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, helper, numpy_helper


def _value_info(name: str, kind: str, shape: Any) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape
    )


def _model(text: str, inputs: dict[str, Any], constants: dict[str, Any]) -> onnx.ModelProto:
    """A model of nodes in ONNX's own text form; what none of them reads is an output."""
    nodes = [onnx.parser.parse_node(line.strip()) for line in text.splitlines()]
    read = {name for node in nodes for name in node.input}
    names = [name for node in nodes for name in node.output]
    graph = helper.make_graph(
        nodes,
        "seed",
        [_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in names if name not in read],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def _floats(*shape: int) -> np.ndarray:
    return np.linspace(-1, 1, int(np.prod(shape)), dtype="float32").reshape(shape)


def seeds() -> dict[str, onnx.ModelProto]:
    """Small whole models, by name."""
    return {
        "convolutions": _model(
            """a = Conv <kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]> (x, w, b)
            n = BatchNormalization <epsilon=1e-3> (a, s, s, s, s)
            r = Relu(n)
            p = MaxPool <kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1> (r)
            u = Resize <mode="linear"> (p, , scales)
            g = GlobalAveragePool(u)
            f = Flatten(g)
            y = Gemm <transB=1, alpha=0.5> (f, m, s)""",
            {"x": ("float32", ["n", 3, 8, 8])},
            {
                **{"w": _floats(4, 3, 3, 3), "b": _floats(4), "s": np.ones(4, "float32")},
                **{"m": _floats(4, 4), "scales": np.array([1, 1, 2, 2], "float32")},
            },
        ),
        "attention": _model(
            """q = MatMul(x, w)
            s = Shape(x)
            n = Gather <axis=0> (s, zero)
            d = Unsqueeze(n, axes)
            t = Concat <axis=0> (d, rest)
            h = Reshape(q, t)
            i = Transpose <perm=[0, 2, 1, 3]> (h)
            j = Transpose <perm=[0, 2, 3, 1]> (h)
            k = MatMul(i, j)
            p = Softmax <axis=-1> (k)
            o = MatMul(p, i)
            e = ReduceMean <keepdims=0> (o, last)
            l = LayerNormalization <axis=-1> (x, g)
            a, b = Split <num_outputs=2, axis=2> (l)""",
            {"x": ("float32", ["batch", "time", 8])},
            {
                **{"w": _floats(8, 8), "g": np.ones(8, "float32"), "zero": np.array(0)},
                **{"axes": np.array([0]), "rest": np.array([-1, 2, 4]), "last": np.array([-1])},
            },
        ),
        "sizes": _model(
            """s = Shape(x)
            a = Slice(x, begin, end, axes)
            p = Pad <mode="constant"> (a, pads, value)
            e = Expand(one, s)
            t = Tile(p, twice)
            c = ConstantOfShape(s)
            v, i = TopK <axis=1> (x, k)
            z = NonZero(x)
            g = GatherND(x, places)
            r = Range(zero, four, step)
            h = OneHot(r, four, pair)
            w = Where(mask, x, c)
            m = CumSum(x, zero)""",
            {"x": ("float32", ["n", 4]), "mask": ("bool", ["n", 4])},
            {
                **{"begin": np.array([1]), "end": np.array([2**63 - 1]), "axes": np.array([1])},
                **{"pads": np.array([0, 1, 0, 1]), "value": np.float32(0), "one": _floats(1, 1)},
                **{"twice": np.array([2, 1]), "k": np.array([2]), "places": np.array([[0]])},
                **{"zero": np.array(0), "four": np.array(4), "step": np.array(1)},
                **{"pair": _floats(2)},
            },
        ),
        "integers": _model(
            """q = QuantizeLinear(x, scale, zero)
            d = DequantizeLinear(q, scale, zero)
            m = QLinearMatMul(q, scale, zero, w, scale, zero, scale, zero)
            c = Cast <to=1> (m)
            e = Einsum <equation="bi,bj->bij"> (d, c)
            s = ReduceSum <keepdims=0> (e, axes)
            a = ArgMax <axis=0> (s)""",
            {"x": ("float32", ["n", 4])},
            {
                **{"scale": np.float32(0.1), "zero": np.uint8(128), "axes": np.array([1])},
                "w": np.arange(16, dtype="uint8").reshape(4, 4),
            },
        ),
        "recurrent": _model(
            """y, h, c = LSTM <hidden_size=3> (x, w, r, b)
            s = Squeeze(y, axes)
            g = GRU <hidden_size=2, direction="reverse"> (s, u, v)
            t = Tanh(g)""",
            {"x": ("float32", ["time", 2, 4])},
            {
                **{"w": _floats(1, 12, 4), "r": _floats(1, 12, 3), "b": _floats(1, 24)},
                **{"u": _floats(1, 6, 3), "v": _floats(1, 6, 2), "axes": np.array([1])},
            },
        ),
        "control": _control(),
    }


def _control() -> onnx.ModelProto:
    """A loop that is counted, a condition that data decides, and a function of the model."""
    step = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["more"]),
            helper.make_node("Add", ["state", "one"], ["next"]),
            helper.make_node("Mul", ["next", "x"], ["row"]),
        ],
        "step",
        [_value_info("i", "int64", []), _value_info("going", "bool", [])]
        + [_value_info("state", "float32", ["n"])],
        [_value_info("more", "bool", [])]
        + [_value_info("next", "float32", ["n"]), _value_info("row", "float32", ["n"])],
    )
    branches = [
        helper.make_graph(
            [helper.make_node(kind, ["last"], ["chosen"])],
            kind,
            [],
            [_value_info("chosen", "float32", ["n"])],
        )
        for kind in ("Relu", "Neg")
    ]
    nodes = [
        helper.make_node("Loop", ["count", "true", "x"], ["last", "rows"], body=step),
        helper.make_node("ReduceSum", ["last"], ["sum"], keepdims=0),
        helper.make_node("Less", ["sum", "one"], ["flag"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Twice", ["rows"], ["z"], domain="acme", slope=0.5),
    ]
    graph = helper.make_graph(
        nodes,
        "seed",
        [_value_info("x", "float32", ["n"])],
        [_value_info("y", "float32", ["n"]), _value_info("z", "float32", ["m", "n"])],
        [
            numpy_helper.from_array(np.array(value), name)
            for name, value in {"count": 6, "true": True, "one": np.float32(1)}.items()
        ],
    )
    slope = AttributeProto(name="alpha", ref_attr_name="slope", type=AttributeProto.FLOAT)
    leaky = helper.make_node("LeakyRelu", ["x"], ["t"])
    leaky.attribute.append(slope)
    twice = helper.make_function(
        "acme",
        "Twice",
        ["x"],
        ["y"],
        [leaky, helper.make_node("Add", ["t", "t"], ["y"])],
        [helper.make_opsetid("", 18)],
        ["slope"],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("acme", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9, functions=[twice])
