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
    graph: dict[str, Any] = json.loads(serial.dumps(function))
    walk = _Walk(graph["nodes"])
    state = hashlib.sha256(walk.visit(graph["root_index"]))
    # Constant tensors stand beside the nodes, which refer to them by position.
    tensors = {k: v for k, v in graph.items() if k not in ("nodes", "root_index", "metadata")}
    metadata = {k: v for k, v in graph.get("metadata", {}).items() if k != "tvm_version"}
    state.update(json.dumps([tensors, metadata], sort_keys=True).encode())
    return state.hexdigest()


def nameless(function: Object) -> Any:
    """`function` with variables and blocks called by the order in which TVM's JSON has them.

    Functions of one digest become the same: what LLVM makes of a kernel still depends on names.
    """
    graph: dict[str, Any] = json.loads(serial.dumps(function))
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
        if index not in self._digests:
            self._digests[index] = self._hash(index)
        return self._digests[index]

    def _hash(self, index: int) -> bytes:
        node = self._nodes[index]
        kind: str = node["type"]
        data: Any = node.get("data")
        if kind in _VARIABLES:
            number = self._variables.setdefault(index, len(self._variables))
            return _sha(kind, str(number), self.visit(data["ty"]))
        if kind == "ffi.Array":
            return _sha(kind, *(self.visit(item) for item in data))
        if kind in ("ffi.Map", "ffi.Dict"):
            return _sha(kind, *self._pairs(data))
        if isinstance(data, dict):
            return _sha(kind, *self._fields(kind, data))
        return _sha(kind, json.dumps(data))

    def _pairs(self, data: list[int]) -> list[bytes]:
        # The order of a map is no part of its value.
        pairs = sorted(zip(data[::2], data[1::2]), key=lambda pair: self.visit(pair[0]))
        return [
            self.visit(item)
            for pair in pairs
            if self._nodes[pair[0]].get("data") != _SYMBOL
            for item in pair
        ]

    def _fields(self, kind: str, data: dict[str, Any]) -> list[bytes | str]:
        parts: list[bytes | str] = []
        literals = _literal_fields(kind)
        for name, value in data.items():
            if name in _LABELS and not (name == "name_hint" and kind == "ir.GlobalVar"):
                continue
            literal = name in literals or not isinstance(value, int)
            parts += [name, json.dumps(value) if literal else self.visit(value)]
        return parts


@functools.cache
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


def _sha(*parts: bytes | str) -> bytes:
    framed = [_DIGEST + part if isinstance(part, bytes) else _framed(part) for part in parts]
    return hashlib.sha256(b"".join(framed)).digest()


_DIGEST = hashlib.sha256().digest_size.to_bytes(4, "little")


@functools.lru_cache(1 << 16)
def _framed(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(4, "little") + encoded
