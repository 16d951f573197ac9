"""A trainable model in NumPy that does all that an artifact for training does, without a compiler.

Its artifact is a small JSON file. Dropout masks are a pure function of (seed, row, element).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nexus_runtime.manifest import Training
from nexus_runtime.signature import FunctionSpec, Signature, TensorSpec

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Described:
    signature: Signature
    training: Training | None


@dataclass(frozen=True)
class NumpyGraph:
    """features -> hidden (relu, dropout) -> classes (softmax, cross-entropy), with Adam."""

    features: int = 64
    hidden: int = 32
    classes: int = 10
    rate: float = 0.25
    beta2: float = 0.99  # what the scheduler asks of Adam by default
    delay: float = 0.0  # seconds that each call of "gradients" takes longer

    def build_training(self, path: Path, *, loss, optimizer, options, targets) -> None:
        assert (loss, optimizer, targets) == ("auto", "adam", ("native",))
        path.write_text(json.dumps({**self.__dict__, **options}))


def load(path: Path, threads: int) -> NumpySteps:
    return NumpySteps(NumpyGraph(**json.loads(path.read_text())))


class NumpySteps:
    def __init__(self, graph: NumpyGraph) -> None:
        self.graph = graph
        random = np.random.default_rng(7)
        sizes = {
            "w1": (graph.features, graph.hidden),
            "b1": (graph.hidden,),
            "w2": (graph.hidden, graph.classes),
            "b2": (graph.classes,),
        }
        self.parameters = {
            name: (random.standard_normal(shape) * (len(shape) - 1) / 8).astype(np.float32)
            for name, shape in sizes.items()
        }
        specs = [TensorSpec(name, "float32", shape) for name, shape in sizes.items()]
        states = [
            TensorSpec(f"state:{kind}:{spec.name}", "float32", spec.shape)
            for kind in ("m", "v")
            for spec in specs
        ]
        x = TensorSpec("features", "float32", ("batch", graph.features))
        y = TensorSpec("labels", "int64", ("batch",))
        out = TensorSpec("output", "float32", ("batch", graph.classes))
        scalars = (TensorSpec("loss", "float32", ()), TensorSpec("correct", "int64", ()))
        grads = tuple(TensorSpec(f"grad:{s.name}", "float32", s.shape) for s in specs)
        gradients = FunctionSpec("gradients", (x, y), (*scalars, *grads))
        functions = (FunctionSpec("predict", (x,), (out,)), gradients)
        training = Training("cross_entropy", "adam", {}, "features", "labels", tuple(states))
        self.manifest = Described(Signature(functions, tuple(specs)), training)

    def run(
        self, function: str, inputs: Mapping[str, Any], parameters: Mapping | None = None
    ) -> Arrays:
        p = self.parameters if parameters is None else parameters
        return getattr(self, f"_{function}")(inputs, p)

    def _predict(self, inputs: Mapping, p: Mapping) -> Arrays:
        hidden = np.maximum(inputs["features"] @ p["w1"] + p["b1"], 0)
        return {"output": _softmax(hidden @ p["w2"] + p["b2"])}

    def _gradients(self, inputs: Mapping, p: Mapping) -> Arrays:
        import time

        if self.graph.delay:
            time.sleep(self.graph.delay)
        x, y = inputs["features"], inputs["labels"]
        before = x @ p["w1"] + p["b1"]
        keep = _mask(int(inputs["seed"]), int(inputs["row"]), before.shape, self.graph.rate)
        keep = keep * np.float32(1 / (1 - self.graph.rate))
        hidden = np.maximum(before, 0) * keep
        q = _softmax(hidden @ p["w2"] + p["b2"])
        rows = np.arange(len(y))
        loss = -np.log(np.maximum(q[rows, y], 1e-30)).sum(dtype=np.float32)
        correct = (q.argmax(1) == y).sum()
        d = q.copy()
        d[rows, y] -= 1
        dh = (d @ p["w2"].T) * keep * (before > 0)
        return {
            "loss": np.asarray(loss, np.float32),
            "correct": np.asarray(correct, np.int64),
            "grad:w1": x.T @ dh,
            "grad:b1": dh.sum(0),
            "grad:w2": hidden.T @ d,
            "grad:b2": d.sum(0),
        }

    def _update(self, inputs: Mapping, p: Mapping) -> Arrays:
        out: Arrays = {}
        t, rate = inputs["step"], inputs["learning_rate"]
        beta2 = np.float32(self.graph.beta2)
        assert t.dtype == rate.dtype == np.float32
        for name, value in p.items():
            g = inputs[f"grad:{name}"]
            m = np.float32(0.9) * inputs[f"state:m:{name}"] + np.float32(0.1) * g
            v = beta2 * inputs[f"state:v:{name}"] + (1 - beta2) * g * g
            step = (m / (1 - np.float32(0.9) ** t)) / (
                np.sqrt(v / (1 - beta2**t)) + np.float32(1e-8)
            )
            out[f"param:{name}"] = (value - rate * step).astype(np.float32)
            out[f"state:m:{name}"], out[f"state:v:{name}"] = m, v
        return out


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def _mask(seed: int, row: int, shape: tuple[int, ...], rate: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        index = np.arange(shape[0], dtype=np.uint64)[:, None] + np.uint64(row)
        z = index * np.uint64(shape[1]) + np.arange(shape[1], dtype=np.uint64)
        z = (z + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return ((z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)) >= np.float32(rate)
