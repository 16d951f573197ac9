"""Operators that ONNX itself defines by others, and functions that a model brings along."""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import onnx

from nexus_compiler.frontend.onnx.nested import graphs
from nexus_compiler.frontend.onnx.registry import plain_domain
from nexus_runtime.errors import CaptureError

Functions = Mapping[tuple[str, str], onnx.FunctionProto]


def local(model: onnx.ModelProto) -> Functions:
    """The functions that `model` brings along, by domain and name."""
    return {(plain_domain(f.domain), f.name): f for f in model.functions}


def check_recursion(local: Functions) -> None:
    """Check that no function calls itself, be it through others: ONNX has no such functions.

    Raises:
        CaptureError: one does.
    """
    calls = {key: set(_called(function.node)) & set(local) for key, function in local.items()}
    try:
        graphlib.TopologicalSorter(calls).prepare()
    except graphlib.CycleError as error:
        names = [f"{domain}::{name}" for domain, name in error.args[1]]
        raise CaptureError(
            f"functions of the model call each other in a circle: {' -> '.join(names)}",
            hint="write the repetition as a Loop",
        ) from error


def _called(nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[str, str]]:
    for node in nodes:
        yield plain_domain(node.domain), node.op_type
        for graph in graphs(node):
            yield from _called(graph.node)


def _schema(domain: str, name: str, opset: int) -> Any:
    """ONNX's description of an operator, None where it has none."""
    try:
        return onnx.defs.get_schema(name, opset, domain)
    except onnx.defs.SchemaError:
        return None


def has_body(domain: str, name: str, opset: int) -> bool:
    """Whether ONNX defines the operator by others."""
    schema = _schema(domain, name, opset)
    return schema is not None and bool(schema.has_function or schema.has_context_dependent_function)


def body(
    node: onnx.NodeProto, opset: int, inputs: Iterable[onnx.TypeProto]
) -> onnx.FunctionProto | None:
    """ONNX's own definition of the operator of `node`, None where there is none for it."""
    if (schema := _schema(plain_domain(node.domain), node.op_type, opset)) is None:
        return None
    data = b""
    if versions := [v for v in schema.function_opset_versions if v <= opset]:
        data = schema.get_function_with_opset_version(max(versions))
    elif versions := [v for v in schema.context_dependent_function_opset_versions if v <= opset]:
        types = [kind.SerializeToString() for kind in inputs]
        data = schema.get_context_dependent_function_with_opset_version(
            max(versions), node.SerializeToString(), types
        )
    return onnx.FunctionProto.FromString(data) if data else None


def instantiate(
    function: onnx.FunctionProto, node: onnx.NodeProto, opset: int
) -> list[onnx.NodeProto]:
    """The nodes of `function` with the attributes of the call `node` put in."""
    given = {a.name: a for a in function.attribute_proto}
    if schema := _schema(plain_domain(node.domain), node.op_type, opset):
        given |= {
            name: a.default_value for name, a in schema.attributes.items() if a.default_value.type
        }
    given |= {a.name: a for a in node.attribute}
    return [_fill(inner, given) for inner in function.node]


def _fill(node: onnx.NodeProto, given: Mapping[str, onnx.AttributeProto]) -> onnx.NodeProto:
    filled = onnx.NodeProto()
    filled.CopyFrom(node)
    del filled.attribute[:]
    for attribute in node.attribute:
        if attribute.ref_attr_name and attribute.ref_attr_name not in given:
            continue
        copy = filled.attribute.add()
        copy.CopyFrom(given[attribute.ref_attr_name] if attribute.ref_attr_name else attribute)
        copy.name = attribute.name
        for graph in [copy.g] if copy.HasField("g") else copy.graphs:
            nodes = [_fill(inner, given) for inner in graph.node]
            del graph.node[:]
            graph.node.extend(nodes)
    return filled
