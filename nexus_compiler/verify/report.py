"""What a verification found, region by region and function by function."""

from __future__ import annotations

import msgspec

from nexus_compiler.verify.compare import Difference

PROVED, INHERITED, DIFFERS, UNCHECKED = "proved", "inherited", "differs", "unchecked"


class RegionVerdict(msgspec.Struct, frozen=True):
    """One region at one set of shapes.

    Attributes:
        region: its digest.
        status: `PROVED` now, `INHERITED` from an earlier proof, `DIFFERS`, or `UNCHECKED`.
        places: in how many places of the model it stands with these shapes.
        origin: the modules of the model that it computes, at the first of them.
        location: file and line of these, where they are known.
        operators: what it computes.
        shapes: of its inputs and weights; None where only a run tells a size.
        kernels: names of the kernels that were checked.
        outputs: how far each output was from the reference when it was checked.
        reference: what computed that.
        proved_at: where in which model it was checked.
        reason: why it is unchecked; "" where it is not.
    """

    region: str
    status: str
    places: int
    origin: str
    location: str
    operators: tuple[str, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    kernels: tuple[str, ...] = ()
    outputs: tuple[Difference, ...] = ()
    reference: str = ""
    proved_at: str = ""
    reason: str = ""


class FunctionVerdict(msgspec.Struct, frozen=True):
    """A whole function of the model, from its inputs to its outputs.

    Attributes:
        status: as of `RegionVerdict`.
        reference: what computed the outputs that it was compared with.
        reason: why it is unchecked; "" where it is not.
    """

    function: str
    status: str
    reference: str
    outputs: tuple[Difference, ...] = ()
    reason: str = ""


class Report(msgspec.Struct, frozen=True):
    """A verification for one target.

    Attributes:
        target: what it was built for.
        regions: in the order of the graph.
        functions: empty where nothing was compared end to end.
        loose: names of kernels that are in no region, or that write in place where those of the
            region do not: only the functions say something of them.
        seconds: how long it took, but for capture and build.
        build_seconds: how long the build took; of what was built before, it reads the store.
    """

    target: str
    regions: tuple[RegionVerdict, ...]
    functions: tuple[FunctionVerdict, ...]
    loose: tuple[str, ...]
    seconds: float
    build_seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether nothing differs, and whatever has no proof of its own was compared end to end."""
        found = {one.status for one in (*self.regions, *self.functions)}
        if DIFFERS in found:
            return False
        whole = bool(self.functions) and all(one.status != UNCHECKED for one in self.functions)
        return whole or UNCHECKED not in found

    def count(self, status: str) -> int:
        """How many regions have this status."""
        return sum(one.status == status for one in self.regions)
