"""Cuts a dataflow graph where fusion would stop anyway: between one product and the next.

An *anchor* is an operator that takes a kernel of its own: a product, a convolution, attention, and
whatever is opaque. Everything else joins what it is connected to at the same depth, counted in
anchors; so a product keeps its epilogue, and a normalisation stays with the sum that it follows. A
cut follows from what is near it, so that an edit elsewhere does not move it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import relax, tirx

from nexus_compiler.ir.dataflow import PART, Node, variables_of
from nexus_compiler.passes.turn_at_readers import TURN, exchanged

_ANCHORS = ("matmul", "conv", "attention", "linear", "einsum", "dense", PART)
_PRODUCT, _RESHAPE = "relax.matmul", "relax.reshape"


def is_anchor(operator: str | None) -> bool:
    """Whether calls of `operator` begin a cluster. None is an opaque node."""
    return operator is None or any(word in operator for word in _ANCHORS)


@dataclass(frozen=True)
class Cluster:
    """Nodes that are lowered together, in the order of the function; opaque nodes stand alone."""

    nodes: tuple[Node, ...]

    @property
    def is_opaque(self) -> bool:
        """Whether it is one node that only TVM can read."""
        return self.nodes[0].operator is None


def clusters(nodes: Sequence[Node], early: set[int]) -> list[Cluster]:
    """Cut `nodes` but for those at the positions `early`, which follow from weights alone.

    Returns the clusters in an order in which each stands behind what it reads. Contracting each to
    one node leaves the graph without cycles: reads go to lower depths, to scalars that read no
    tensor of their depth, or stay within.
    """
    producers = _producers(nodes, early)
    group = _Groups(producers)
    depth: dict[int, int] = {}
    light: set[int] = set()
    late = _late(nodes, producers)
    for position, sources in producers.items():
        anchor = is_anchor(nodes[position].operator)
        deepest = max([depth[source] for source in sources], default=0)
        # What reads an opaque node must not join what the opaque node reads.
        behind = any(nodes[s].operator is None and depth[s] == deepest for s in sources)
        depth[position] = deepest + (1 if (anchor and sources) or behind else 0)
        near = [source for source in sources if depth[source] == depth[position]]
        if _is_scalar(nodes[position]) and not anchor and light.issuperset(near):
            light.add(position)
        if (not anchor or behind) and position not in late:
            for source in near:
                # What only scalars make (a learning rate) would join all that it scales.
                apart = source in light and position not in light
                if nodes[source].operator is not None and not apart:
                    group.join(position, source)
    _sink(group, producers, depth, nodes)
    return _ordered(group, producers, nodes)


def _is_scalar(node: Node) -> bool:
    """Whether a node makes one tensor of one value."""
    return node.kind is not None and node.kind[0] == "T" and all(s == 1 for s in node.kind[2:])


def _late(nodes: Sequence[Node], producers: dict[int, list[int]]) -> set[int]:
    """Transpositions that one product reads, and what only gives them another shape.

    The product reads what is transposed where it lies, and they take no kernel beside it.
    """
    readers: dict[int, set[int]] = {}
    for position, sources in producers.items():
        for source in sources:
            readers.setdefault(source, set()).add(position)
    late: set[int] = set()
    for position in reversed(producers):
        node, known = nodes[position], readers.get(position, set())
        if len(known) != 1:
            continue
        (reader,) = known
        if node.operator == TURN and nodes[reader].operator == _PRODUCT:
            late |= {position} if exchanged(node.binding.value) is not None else set()
        elif node.operator == _RESHAPE and reader in late:
            late.add(position)
    return late


def _producers(nodes: Sequence[Node], early: set[int]) -> dict[int, list[int]]:
    """What each node must stand behind: the nodes that it reads, and those that tell its sizes."""
    made = variables_of(nodes)
    told: dict[tirx.Var, int] = {}
    matches: list[int] = []
    producers: dict[int, list[int]] = {}
    for node in nodes:
        if node.position in early:
            continue
        reads = [made[variable].position for variable in node.reads if variable in made]
        found = [position for position in reads if position not in early]
        if node.operator is None:
            found += matches  # which sizes it needs is not known
        else:
            found += [told[v] for size in node.sizes for v in size.variables if v in told]
        producers[node.position] = found
        if isinstance(node.binding, relax.MatchCast):
            matches.append(node.position)
            for variable in relax.analysis.tir_vars_in_type(node.binding.ty):
                told.setdefault(variable, node.position)
    return producers


class _Groups:
    """Sets of positions, joined by union and find."""

    def __init__(self, positions: dict[int, list[int]]) -> None:
        self._parent = {position: position for position in positions}

    def find(self, position: int) -> int:
        while self._parent[position] != position:
            self._parent[position] = self._parent[self._parent[position]]
            position = self._parent[position]
        return position

    def join(self, one: int, other: int) -> None:
        first, second = sorted((self.find(one), self.find(other)))
        self._parent[second] = first

    def members(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for position in self._parent:
            found.setdefault(self.find(position), []).append(position)
        return found


def _sink(
    group: _Groups,
    producers: dict[int, list[int]],
    depth: dict[int, int],
    nodes: Sequence[Node],
) -> None:
    """Let a group without an anchor join the only group that reads it, from the deepest on.

    It is a prologue there (a scale, a transpose), which TVM can fuse into the epilogue of its
    reader.
    """
    readers: dict[int, set[int]] = {}
    for position, sources in producers.items():
        for source in sources:
            readers.setdefault(source, set()).add(position)
    members = group.members()
    for root in sorted(members, key=lambda root: -depth[root]):
        own = members[root]
        if any(is_anchor(nodes[position].operator) for position in own):
            continue
        targets = {group.find(r) for p in own for r in readers.get(p, ())} - {group.find(root)}
        if len(targets) == 1 and nodes[target := targets.pop()].operator is not None:
            group.join(root, target)


def _ordered(
    group: _Groups, producers: dict[int, list[int]], nodes: Sequence[Node]
) -> list[Cluster]:
    """The groups, each behind those that it reads; of those that could come next, the earliest."""
    import heapq

    members = group.members()
    waits: dict[int, set[int]] = {}
    readers: dict[int, set[int]] = {}
    for root, own in members.items():
        before = {group.find(source) for position in own for source in producers[position]} - {root}
        waits[root] = before
        for one in before:
            readers.setdefault(one, set()).add(root)
    ready = [(max(members[root]), root) for root, before in waits.items() if not before]
    heapq.heapify(ready)
    found: list[Cluster] = []
    while ready:
        _, root = heapq.heappop(ready)
        found.append(Cluster(tuple([nodes[position] for position in members[root]])))
        for reader in readers.get(root, ()):
            waits[reader].discard(root)
            if not waits[reader]:
                heapq.heappush(ready, (max(members[reader]), reader))
    return found
