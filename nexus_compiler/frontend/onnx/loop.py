"""Loops: what a step is, and how its function comes about; `recursion.py` repeats it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tvm import relax, tirx

from nexus_compiler.frontend.onnx import subgraph
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.subgraph import Closure
from nexus_compiler.frontend.onnx.values import R, tensor_type, variable_of
from nexus_runtime.errors import UnsupportedOperator

if TYPE_CHECKING:
    from nexus_compiler.frontend.onnx.importer import Importer


@dataclass(frozen=True)
class Turn:
    """What one step gives.

    Attributes:
        going: whether another step follows (a bool); None where only the number of steps decides.
        state: what the next step begins with.
        outputs: what the loop collects, one row a step.
    """

    going: relax.Expr | None
    state: Sequence[relax.Expr]
    outputs: Sequence[relax.Expr] = ()


Step = Callable[[relax.Var, Sequence[relax.Var]], Turn]
"""Emits one step: of its number (an int64 scalar) and of the state."""


class Body:
    """One step as a function.

    Raises:
        UnsupportedOperator: the state changes its element type or rank.

    Attributes:
        label: what its function is called, and what errors call it.
        step: the function: of the number of the step and the state.
        state: its arguments.
        local: those of their sizes that change from step to step.
        conditional: whether a step decides if another one follows.
        rows: what a run of steps collects.
    """

    def __init__(
        self,
        importer: Importer,
        label: str,
        state: Sequence[relax.Expr],
        step: Step,
        *,
        conditional: bool = False,
    ) -> None:
        self.importer = importer
        self.label = label
        self.conditional = conditional
        self.local: set[tirx.Var] = set()
        self.step, self.state = self._lift(state, step)
        rows = self.step.results[1 + self.conditional + len(self.state) :]
        self.rows = [replace(row, shape=(None, *row.shape[1:])) for row in rows]

    def _lift(self, state: Sequence[relax.Expr], step: Step) -> tuple[Closure, list[relax.Var]]:
        """The function of one step; sizes of the state that change are arguments of it."""
        # As results are checked, so is the state: its elements must be what they look like.
        shapes = [
            list(subgraph.result(self.importer, value, set[tirx.Var]()).shape) for value in state
        ]
        while True:
            params = [
                variable_of(f"state_{place}", shape, str(tensor_type(value).dtype.dtype))
                for place, (shape, value) in enumerate(zip(shapes, state))
            ]
            known = dict(self.importer.parameters)
            closure = self._lift_once(params, step)
            if not self._widen(closure, params, shapes):
                return closure, params
            # Weights that only the dropped attempt has used are none.
            self.importer.parameters = known

    def _lift_once(self, params: Sequence[relax.Var], step: Step) -> Closure:
        place = relax.Var("step", relax.TensorType([], "int64"))
        one = relax.const(1, "int64")

        def body() -> list[relax.Expr]:
            with self.importer.random.repeated(place):
                turn = step(place, params)
            self.conditional |= turn.going is not None
            going = [] if turn.going is None else [R.reshape(turn.going, [])]
            if self.conditional and not going:
                going = [relax.const(True, "bool")]
            rows = [R.expand_dims(output, [0]) for output in turn.outputs]
            return [R.add(place, one), *going, *turn.state, *rows]

        return subgraph.lift(
            self.importer, f"{self.label}_step", [place, *params], body, self.local
        )

    def _widen(
        self, closure: Closure, params: Sequence[relax.Var], shapes: list[list[Size]]
    ) -> bool:
        """Make every size that a step changes a size of its own; whether there were any."""
        widened = False
        results = closure.results[1 + self.conditional :]
        for place, (param, result) in enumerate(zip(params, results)):
            kind = tensor_type(param)
            if result.dtype != str(kind.dtype.dtype) or len(result.shape) != kind.ndim:
                raise UnsupportedOperator(
                    f"state {place} of {self.label} begins as {kind.dtype.dtype} with {kind.ndim} "
                    f"dimensions, and a step makes it {result.dtype} with {len(result.shape)}",
                    hint="give the first value the type and the rank of the later ones",
                )
            for axis, (old, new) in enumerate(zip(shapes[place], result.shape)):
                if isinstance(old, tirx.Var) and old in self.local:
                    continue
                if new is None or not self.importer.sizes.equal(old, new):
                    size = self.importer.sizes.variable(f"{self.label}_{place}_{axis}", 0)
                    self.local.add(size)
                    shapes[place][axis] = size
                    widened = True
        return widened
