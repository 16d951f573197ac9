"""What `make demo` runs: train on three workers, compile what they learned, run it, look at it.

The data are scikit-learn's handwritten digits (1797 images of 8 x 8), which need no download.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import nexus_compiler
import nexus_runtime
from nexus_compiler import GraphBuilder
from nexus_runtime import ClusterConfig, DeviceType, Scheduler, data


def main() -> None:
    """Run the demo."""
    graph = (
        GraphBuilder()
        .input("features", (None, 64))
        .dense(128, activation="relu")
        .dropout(0.3)
        .dense(10, activation="softmax")
    )
    cluster = (
        ClusterConfig()
        .add_node("gpu-pool", DeviceType.CPU, 2)
        .add_node("edge", DeviceType.CPU, 1)
        .enable_federated_scheduling()
    )
    print(graph.summary(), end="\n\n", flush=True)
    report = Scheduler.with_graph(graph, cluster).train("digits", epochs=10, batch_size=64)
    print(f"trained to {report.test_accuracy:.1%} of the test digits in {report.seconds:.1f} s\n")

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "digits.nxa"
        trained = graph.to_graph(report.params)
        nexus_compiler.compile(trained, targets=["native"]).save(path)
        module = nexus_runtime.load(path)
        digits = data.load("digits")
        found = module(digits.test_x.reshape(len(digits.test_x), -1)).argmax(axis=1)
        right = (found == digits.test_y).mean()
        print(f"{path.name}, built for {module.target}, reads {right:.1%} of them\n", flush=True)
        command = [sys.executable, "-m", "nexus_compiler.cli.main", "inspect", path.name]
        subprocess.run(command, cwd=directory, check=True)


# Workers are processes of their own, which import this file again.
if __name__ == "__main__":
    main()
