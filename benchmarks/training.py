"""One training step against PyTorch eager: gradients and optimiser update of the same network."""

from __future__ import annotations

import tempfile
from pathlib import Path

import common

GIVEN = common.arguments(__doc__)

import numpy as np  # noqa: E402
import torch  # noqa: E402

import nexus_runtime  # noqa: E402
from nexus_compiler import GraphBuilder  # noqa: E402
from nexus_runtime import Trainer  # noqa: E402

torch.set_num_threads(GIVEN.threads)


def case(widths: tuple[int, ...], batch: int) -> dict[str, object]:
    """A multilayer perceptron with dropout, trained with Adam."""
    random = np.random.default_rng(0)
    x = random.random((batch, widths[0]), np.float32)
    y = random.integers(0, widths[-1], batch)
    builder = GraphBuilder().input("features", (None, widths[0]))
    layers: list[torch.nn.Module] = []
    for index, width in enumerate(widths[1:-1]):
        builder = builder.dense(width, activation="relu").dropout(0.5)
        layers += [torch.nn.Linear(widths[index], width), torch.nn.ReLU(), torch.nn.Dropout(0.5)]
    builder = builder.dense(widths[-1], activation="softmax")
    network = torch.nn.Sequential(*layers, torch.nn.Linear(widths[-2], widths[-1]))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    with tempfile.TemporaryDirectory() as directory:
        builder.build_training(Path(directory) / "t.nxa")
        module = nexus_runtime.load(Path(directory) / "t.nxa", num_threads=GIVEN.threads)
    trainer = Trainer(module)
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)

    def ours() -> None:
        sums = trainer.gradients(x, y, seed=1, row=0)
        trainer.update({k: g / batch for k, g in sums.grads.items()}, 1e-3)

    def theirs() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(tx), ty).backward()
        optimizer.step()

    name = f"mlp {'-'.join(map(str, widths))}, batch {batch}"
    return common.contest(name, {"nexus": ours, "torch eager": theirs}, GIVEN.rounds)


def main() -> None:
    """Run all cases."""
    rows = [
        case((784, 256, 10), 32),
        case((784, 256, 10), 128),
        case((784, 1024, 1024, 10), 128),
    ]
    common.report("training step", rows, GIVEN)


if __name__ == "__main__":
    main()
