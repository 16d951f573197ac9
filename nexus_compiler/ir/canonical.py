"""The canonical digest of a function: equal for equal functions, whatever things are called.

TVM's own structural hash has 64 bits and is meant for bucketing. This one walks TVM's JSON form and
hashes it as a Merkle tree with names and source spans left out: a variable is the number of its
first occurrence, so renaming changes nothing; constants and attributes count in full.
"""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Any

from tvm.runtime import Object
from tvm_ffi import core

from nexus_compiler.ir import serial

_VARIABLES = {"ir.Var", "relax.expr.DataflowVar", "tirx.SizeVar"}
_BLOCKS = {"s_tir.SBlock": "name_hint"}
# Labels that TVM prints but that change no code. `name` of an IterVar's variable is an ir.Var's.
_LABELS = {"span", "name_hint"}
_SYMBOL = "global_symbol"
_NUMBERS = {"int", "bool", "float"}


def digest(function: Object) -> str:
    """SHA-256 in hexadecimal over the structure of a Relax function or a PrimFunc."""
    return _digest(json.loads(serial.dumps(function)))


def digest_and_nameless(function: Object) -> tuple[str, Any]:
    """The digest of `function`, and `function` with names by the order in TVM's JSON.

    Functions of one digest become the same: what LLVM makes of a kernel still depends on names.
    """
    graph: dict[str, Any] = json.loads(serial.dumps(function))
    return _digest(graph), _nameless(graph)


def _digest(graph: dict[str, Any]) -> str:
    walk = _Walk(graph["nodes"])
    state = hashlib.sha256(walk.visit(graph["root_index"])[len(_LENGTH) :])
    # Constant tensors stand beside the nodes, which refer to them by position.
    tensors = {k: v for k, v in graph.items() if k not in ("nodes", "root_index", "metadata")}
    metadata = {k: v for k, v in graph.get("metadata", {}).items() if k != "tvm_version"}
    state.update(json.dumps([tensors, metadata], sort_keys=True).encode())
    return state.hexdigest()


def _nameless(graph: dict[str, Any]) -> Any:
    nodes: list[dict[str, Any]] = graph["nodes"]
    count = 0
    for node in list(nodes):
        label = "name" if node["type"] in _VARIABLES else _BLOCKS.get(node["type"])
        if label is not None:
            node["data"] = {**node["data"], label: len(nodes)}
            nodes.append({"type": "ffi.String", "data": f"v{count}"})
            count += 1
    return serial.loads(json.dumps(graph))


class _Walk:
    """One traversal: digests by node, numbers by variable in the order of first occurrence."""

    def __init__(self, nodes: list[dict[str, Any]]) -> None:
        self._nodes = nodes
        self._digests: dict[int, bytes] = {}
        self._variables: dict[int, int] = {}

    def visit(self, index: int) -> bytes:
        """The digest of the node at `index`, behind its length."""
        found = self._digests.get(index)
        if found is None:
            state = hashlib.sha256(b"".join(self._parts(index)))
            found = self._digests[index] = _LENGTH + state.digest()
        return found

    def _parts(self, index: int) -> list[bytes]:
        """What a node is made of; each part behind its length, so that no two lists are alike."""
        node = self._nodes[index]
        kind: str = node["type"]
        data: Any = node.get("data")
        if kind in _VARIABLES:
            number = self._variables.setdefault(index, len(self._variables))
            return [_framed(kind), _framed(str(number)), self.visit(data["ty"])]
        if kind == "ffi.Array":
            return [_framed(kind), *[self.visit(item) for item in data]]
        if kind in ("ffi.Map", "ffi.Dict"):
            return [_framed(kind), *self._pairs(data)]
        if not isinstance(data, dict):
            return [_framed(kind), _framed(json.dumps(data))]
        parts = [_framed(kind)]
        for name, framed, literal in _fields(kind, tuple(data)):
            value = data[name]
            plain = literal or not isinstance(value, int)
            parts += (framed, _framed(json.dumps(value)) if plain else self.visit(value))
        return parts

    def _pairs(self, data: list[int]) -> list[bytes]:
        # The order of a map is no part of its value.
        pairs = sorted(zip(data[::2], data[1::2]), key=lambda pair: self.visit(pair[0]))
        return [
            self.visit(item)
            for pair in pairs
            if self._nodes[pair[0]].get("data") != _SYMBOL
            for item in pair
        ]


_LENGTH = hashlib.sha256().digest_size.to_bytes(4, "little")


@functools.lru_cache(1 << 16)
def _framed(text: str) -> bytes:
    """`text` behind its length."""
    encoded = text.encode()
    return len(encoded).to_bytes(4, "little") + encoded


@functools.cache
def _fields(kind: str, names: tuple[str, ...]) -> list[tuple[str, bytes, bool]]:
    """The fields of a node that count: name, name behind its length, whether it is no reference."""
    labels = _LABELS - {"name_hint"} if kind == "ir.GlobalVar" else _LABELS
    literals = _literal_fields(kind)
    return [(name, _framed(name), name in literals) for name in names if name not in labels]


def _literal_fields(kind: str) -> frozenset[str]:
    # A number in a field is the index of a node, but for fields that are declared as numbers.
    info = core._lookup_or_register_type_info_from_type_key(kind)
    found: set[str] = set()
    while info is not None:
        for field in info.fields:
            if json.loads(field.metadata.get("type_schema", "{}")).get("type") in _NUMBERS:
                found.add(field.name)
        info = info.parent_type_info
    return frozenset(found)
