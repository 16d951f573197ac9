"""What PyTorch exports can be imported, also with a dynamic batch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from onnx_models import compare, floats, whole
from torch_models import Residual, nn, torch

from nexus_compiler.ir import calls

pytest.importorskip("onnxscript")

# The exporter itself uses what PyTorch and Python deprecate.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def resnet() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 4, 7, 2, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        *(Residual(4, 4, 1), Residual(4, 8, 2), Residual(8, 16, 2), Residual(16, 16, 1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


def mlp() -> Any:
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3), nn.Softmax(-1))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Any) -> Any:
        return self.layers(self.words(x)).mean(1)


MODELS = {
    "mlp": (mlp, floats(2, 6), ("batch",)),
    "resnet": (resnet, floats(2, 3, 32, 32), ("batch",)),
    "encoder": (Encoder, whole(2, 5, high=20), ("batch", "length")),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_export(name: str, dynamic: bool, tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.ERROR)
    make, example, names = MODELS[name]
    torch.manual_seed(0)
    network = make().eval()
    dims = {axis: torch.export.Dim(dim) for axis, dim in enumerate(names)} if dynamic else {}
    program = torch.onnx.export(
        network, (torch.from_numpy(example),), dynamo=True, dynamic_shapes=(dims,), verbose=False
    )
    path = tmp_path / f"{name}.onnx"
    program.save(path)
    graph = compare(path, {program.model.graph.inputs[0].name: example}, tol=1e-4)
    (entry,) = graph.signature.functions
    if dynamic:
        assert entry.inputs[0].shape[: len(names)] == names
        assert not calls.operators(graph.module["main"]) & {
            "relax.shape_of",
            "relax.shape_to_tensor",
        }
    weights = dict(network.named_parameters())
    assert set(weights) & set(graph.params)
