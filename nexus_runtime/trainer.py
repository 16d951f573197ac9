"""The library that trainers link: gradients, updates, evaluation and checkpoints of one model.

It needs an artifact with these functions (`TrainingSteps`), which the compiler wrote:

    predict    features [batch, ...]                         -> output [batch, classes]
    gradients  features, labels int64 [batch], seed uint32,
               row int64                                     -> loss (sum), correct, grad:<p> (sums)
    update     step, learning_rate, grad:<p> (means),
               state:<kind>:<p>                              -> param:<p>, state:<kind>:<p>
    step       what these two take, for one size of a batch  -> loss, correct, and what update gives

`step` is there where the artifact was compiled for a batch size, and does `gradients` and `update`
in one call, which takes less time; results are equal but for rounding.
Gradients are sums over samples, and dropout masks depend on (seed, row + i) alone: the sum of the
gradients of a batch's pieces is the gradient of the batch, however it is cut. One worker and many
therefore train the same model with the same code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nexus_runtime import checkpoint
from nexus_runtime import data as datasets
from nexus_runtime.errors import ArtifactError, DataError
from nexus_runtime.manifest import Training
from nexus_runtime.signature import Dim, Signature
from nexus_runtime.tensors import aligned, copied, empty_aligned

#: Share of a job's steps in which the learning rate rises.
WARM_UP = 0.3


class Described(Protocol):
    """The part of a manifest that a trainer reads."""

    @property
    def signature(self) -> Signature: ...  # noqa: D102
    @property
    def training(self) -> Training | None: ...  # noqa: D102


class TrainingSteps(Protocol):
    """What a `Trainer` needs of a model; `nexus_runtime.Module` is one."""

    @property
    def manifest(self) -> Described: ...  # noqa: D102
    @property
    def parameters(self) -> Mapping[str, np.ndarray]: ...  # noqa: D102

    def run(
        self,
        function: str,
        inputs: Mapping[str, Any],
        parameters: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        """Call `predict`, `gradients` or `update`."""
        ...


@dataclass(frozen=True)
class Gradients:
    """Sums over `count` samples: of the losses, of the hits, of the gradients by parameter."""

    loss_sum: float
    correct: int
    count: int
    grads: dict[str, np.ndarray]


def total(parts: Sequence[Gradients]) -> Gradients:
    """Add gradients in the given order, which fixes the float32 result to the last bit."""
    first, *rest = parts
    grads = {name: np.array(grad) for name, grad in first.grads.items()}
    for part in rest:
        for name, grad in grads.items():
            np.add(grad, part.grads[name], out=grad)
    return Gradients(
        loss_sum=sum(part.loss_sum for part in parts),
        correct=sum(part.correct for part in parts),
        count=sum(part.count for part in parts),
        grads=grads,
    )


def scheduled_rate(step: int, steps: int, peak: float) -> float:
    """The learning rate of step 1, 2, ..., `steps`: rises linearly to `peak`, falls linearly to 0.

    The rise spares Adam's first steps, whose second moments rest on few samples; the fall to zero
    averages the noise of the last steps out (Goyal et al. 2017; Defazio et al. 2023,
    "When, why and how much?").
    """
    rise = WARM_UP * steps
    done = step - 0.5
    return peak * min(done / rise, (steps - done) / (steps - rise))


def batches(samples: int, batch_size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of each batch of an epoch; the last takes what is left."""
    for start in range(0, samples, batch_size):
        yield start, min(start + batch_size, samples)


class Trainer:
    """A model being trained: its present parameters, its optimiser's state, its steps.

    Args:
        module: an artifact compiled for training.
        rows_at_once: more rows are computed in several calls, whose sums are added.

    Attributes:
        params: the present parameters by name.
        states: the optimiser's tensors by name.
        step: updates made so far.

    Raises:
        ArtifactError: the artifact was not compiled for training.
    """

    def __init__(self, module: TrainingSteps, *, rows_at_once: int | None = None) -> None:
        training = module.manifest.training
        if training is None:
            raise ArtifactError(
                "the artifact was compiled for inference only",
                hint="build it with GraphBuilder.build_training",
            )
        self.module = module
        self.training = training
        # Copies, which are the trainer's own to be written over.
        self.params = {name: copied(array) for name, array in module.parameters.items()}
        self.states = {s.name: _zeros(s.shape, s.dtype) for s in training.states}
        self.step = 0
        self._rows = rows_at_once
        functions = module.manifest.signature.functions
        # The batch of `step`, where there is one.
        self._batch = next((f.inputs[0].shape[0] for f in functions if f.name == "step"), None)

    @property
    def feature_shape(self) -> tuple[Dim, ...]:
        """What one sample must look like: the input of `predict` without its batch."""
        return self._input("predict", self.training.features)[1:]

    def fit_data(self, data: datasets.DataSet) -> datasets.DataSet:
        """`data` with features as the model takes them.

        Raises:
            DataError: the samples do not fit the input, or there are more classes than outputs.
        """
        outputs = self.module.manifest.signature.function("predict").outputs[0].shape
        width = outputs[-1] if len(outputs) > 1 else None
        if isinstance(width, int) and width > 1 and data.classes > width:
            raise DataError(
                f"'{data.name}' has {data.classes} classes, but the model has {width} outputs",
                hint=f"make the last layer {data.classes} wide",
            )
        return data.shaped(self.feature_shape)

    def gradients(
        self,
        x: np.ndarray,
        y: np.ndarray,
        *,
        seed: int,
        row: int,
        params: Mapping[str, np.ndarray] | None = None,
    ) -> Gradients:
        """Sums of loss, hits and gradients over the samples.

        Args:
            x: float32 [n, features...].
            y: int64 [n].
            seed: of the dropout masks.
            row: global index of the first sample, for the masks.
            params: differentiate at these instead of at the present parameters.
        """
        rows = self._rows or len(x)
        weights = self.params if params is None else params
        parts = [
            self._gradients(x[i : i + rows], y[i : i + rows], seed, row + i, weights)
            for i in range(0, len(x), rows)
        ]
        return parts[0] if len(parts) == 1 else total(parts)

    def update(self, mean_grads: Mapping[str, np.ndarray], learning_rate: float) -> None:
        """Make one step of the optimiser; `mean_grads` are means over the whole batch."""
        step = self.step + 1
        inputs: dict[str, np.ndarray] = {
            "step": np.asarray(step, np.float32),
            "learning_rate": np.asarray(learning_rate, np.float32),
            **{f"grad:{name}": grad for name, grad in mean_grads.items()},
            **self.states,
        }
        outputs = self.module.run("update", inputs, self.params)
        self.params = {name: outputs.get(f"param:{name}", p) for name, p in self.params.items()}
        self.states = {name: outputs[name] for name in self.states}
        self.step = step

    def train(
        self, x: np.ndarray, y: np.ndarray, learning_rate: float, *, seed: int, row: int
    ) -> tuple[float, int]:
        """One step on the mean gradient of a batch; returns the summed loss and the hits.

        Args:
            x: float32 [n, features...].
            y: int64 [n].
            learning_rate: of this step.
            seed: of the dropout masks.
            row: global index of the first sample, for the masks.
        """
        if len(x) != self._batch:
            sums = self.gradients(x, y, seed=seed, row=row)
            count = np.float32(sums.count)
            self.update({name: grad / count for name, grad in sums.grads.items()}, learning_rate)
            return sums.loss_sum, sums.correct
        inputs = self._samples(x, y, seed, row)
        inputs["step"] = np.asarray(self.step + 1, np.float32)
        inputs["learning_rate"] = np.asarray(learning_rate, np.float32)
        # The call may write over its arguments: where it fails, there is nothing to go on with.
        weights = {f"param:{name}": p for name, p in self.params.items()}
        outputs = self.module.run("step", {**inputs, **weights, **self.states})
        self.params = {name: outputs[f"param:{name}"] for name in self.params}
        self.states = {name: outputs[name] for name in self.states}
        self.step += 1
        return float(outputs["loss"]), int(outputs["correct"])

    def evaluate(self, x: np.ndarray, y: np.ndarray, batch_size: int = 1000) -> float:
        """The share of samples whose class is predicted rightly, from 0 to 1."""
        hits = 0
        for start, stop in batches(len(x), batch_size):
            output = self.predict(x[start:stop])
            wide = output.ndim > 1 and output.shape[-1] > 1
            guess = output.argmax(-1) if wide else output.reshape(-1) > 0.5
            hits += int((guess == y[start:stop]).sum())
        return hits / max(len(x), 1)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The model's output for float32 [n, features...] at the present parameters."""
        outputs = self.module.run("predict", {self.training.features: x}, self.params)
        return next(iter(outputs.values()))

    def save(self, path: str | Path, *, about: Mapping[str, Any] | None = None) -> None:
        """Write parameters, optimiser states and step to a checkpoint, atomically.

        `about` is JSON that comes along, for `restore` to return.
        """
        arrays = {f"param:{name}": array for name, array in self.params.items()} | self.states
        checkpoint.write(path, arrays, step=self.step, about=about or {})

    def restore(self, path: str | Path) -> dict[str, Any]:
        """Go back to a checkpoint; returns its `about`.

        Raises:
            ArtifactError: it is damaged, or of another model or optimiser.
        """
        found = checkpoint.read(path)
        arrays = found.arrays
        own = {f"param:{name}": p for name, p in self.params.items()} | self.states
        wrong = [name for name in own.keys() | arrays.keys() if not _alike(own, arrays, name)]
        if wrong:
            raise ArtifactError(
                f"{path}: '{min(wrong)}' does not fit the model and its optimizer",
                hint="this checkpoint is of another model: name another file",
            )
        self.params = {name: aligned(arrays[f"param:{name}"]) for name in self.params}
        self.states = {name: aligned(arrays[name]) for name in self.states}
        self.step = found.step
        return found.about

    def _gradients(
        self, x: np.ndarray, y: np.ndarray, seed: int, row: int, weights: Mapping[str, np.ndarray]
    ) -> Gradients:
        out = self.module.run("gradients", self._samples(x, y, seed, row), weights)
        grads = {n.removeprefix("grad:"): g for n, g in out.items() if n.startswith("grad:")}
        return Gradients(float(out["loss"]), int(out["correct"]), len(x), grads)

    def _samples(self, x: np.ndarray, y: np.ndarray, seed: int, row: int) -> dict[str, np.ndarray]:
        return {
            self.training.features: x,
            self.training.labels: y,
            "seed": np.asarray(seed, np.uint32),
            "row": np.asarray(row, np.int64),
        }

    def _input(self, function: str, name: str) -> tuple[Dim, ...]:
        specs = self.module.manifest.signature.function(function).inputs
        return next(spec.shape for spec in specs if spec.name == name)


@dataclass(frozen=True)
class Epoch:
    """One epoch of `train_alone`: mean loss, and the share of samples predicted rightly."""

    loss: float
    accuracy: float


def train_alone(
    trainer: Trainer,
    data: datasets.DataSet,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int = 0,
) -> list[Epoch]:
    """Train in this process: the reference that every distributed run must equal."""
    x, y = data.train_x, data.train_y
    steps = epochs * -(-len(x) // batch_size)
    history: list[Epoch] = []
    for epoch in range(epochs):
        order, masks = datasets.order(seed, epoch, len(x)), datasets.mask_seed(seed, epoch)
        loss, correct = 0.0, 0
        for start, stop in batches(len(x), batch_size):
            rows = order[start:stop]
            rate = scheduled_rate(trainer.step + 1, steps, learning_rate)
            lost, hits = trainer.train(x[rows], y[rows], rate, seed=masks, row=start)
            loss, correct = loss + lost, correct + hits
        history.append(Epoch(loss / len(x), correct / len(x)))
    return history


def _zeros(shape: Sequence[Dim], dtype: str) -> np.ndarray:
    array = empty_aligned(tuple(int(dim) for dim in shape), np.dtype(dtype))
    array.fill(0)
    return array


def _alike(own: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], name: str) -> bool:
    a, b = own.get(name), other.get(name)
    return a is not None and b is not None and a.shape == b.shape and a.dtype == b.dtype
