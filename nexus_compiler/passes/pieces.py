"""A function cut at its anchors, as regions and layers are made of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

from tvm import relax

from nexus_compiler.ir.dataflow import PART, Node, variables_of
from nexus_compiler.passes.cluster import Cluster, clusters
from nexus_compiler.passes.weights import follows, weights_of


class Pieces:
    """The clusters of a function, and what follows from its weights alone.

    A node that follows from weights and serves one cluster only moves into it.

    Args:
        function: tells how many of its parameters are inputs.
        nodes: all of it.

    Attributes:
        known: the weights, and what follows from them.
        clusters: in an order in which each stands behind what it reads.
        own: the nodes of each cluster with those that moved into it, in the order of the function.
    """

    def __init__(self, function: relax.Function, nodes: Sequence[Node]) -> None:
        self.function, self.nodes = function, nodes
        self.known = set(weights_of(function))
        self._early = set(self._following())
        self._makers = variables_of(nodes)
        self.clusters: list[Cluster] = clusters(nodes, self._early)
        self._absorbed = self._absorb()
        self.own: list[list[Node]] = [list(cluster.nodes) for cluster in self.clusters]
        for position, place in self._absorbed.items():
            self.own[place].append(nodes[position])
        for found in self.own:
            found.sort(key=lambda node: node.position)

    @cached_property
    def results(self) -> set[relax.Var]:
        """What the function returns."""
        return set(relax.analysis.free_vars(self.function.body.body))

    @cached_property
    def readers(self) -> dict[relax.Var, set[int]]:
        """The places of the clusters that read each variable; -1 for the result."""
        found: dict[relax.Var, set[int]] = {}
        for place, nodes in enumerate(self.own):
            for node in nodes:
                for variable in node.reads:
                    found.setdefault(variable, set()).add(place)
        for position in self._early - self._absorbed.keys():
            for variable in self.nodes[position].reads:
                found.setdefault(variable, set()).add(-1)
        for variable in self.results:
            found.setdefault(variable, set()).add(-1)
        return found

    def outside(self) -> list[relax.Binding]:
        """What follows from the weights and stands before all clusters."""
        return [self.nodes[i].binding for i in sorted(self._early) if i not in self._absorbed]

    def used(self, place: int) -> set[relax.Var]:
        """What the cluster at `place` makes for others."""
        made = (node.makes for node in self.own[place])
        return {v for v in made if self.readers.get(v, {place}) - {place}}

    def _following(self) -> Iterator[int]:
        for node in self.nodes[:-1]:
            if node.operator is None or node.operator.startswith(PART):
                fits = follows(node.binding, self.known)
            else:
                fits = bool(node.reads) and self.known.issuperset(node.reads)
                fits = fits and not node.sizes
            if fits:
                self.known.add(node.makes)
                yield node.position

    def _absorb(self) -> dict[int, int]:
        """Nodes that follow from weights and serve one cluster only, with its place."""
        home = {n.position: place for place, c in enumerate(self.clusters) for n in c.nodes}
        readers: dict[int, set[int]] = {position: set() for position in self._early}
        for node in self.nodes:
            for variable in node.reads:
                source = self._makers.get(variable)
                if source is not None and source.position in self._early:
                    readers[source.position].add(node.position)
        kept = {self._makers[v].position for v in self.results if v in self._makers}
        owner: dict[int, int] = {}
        for position in sorted(self._early, reverse=True):
            places = {home.get(r, owner.get(r, -1)) for r in readers[position]}
            opaque = self.nodes[position].operator is None or position in kept
            place = places.pop() if len(places) == 1 and not opaque else -1
            if place >= 0 and not self.clusters[place].is_opaque:
                owner[position] = place
        return owner
