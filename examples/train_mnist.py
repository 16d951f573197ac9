"""Train a network on MNIST with three workers of two pools.

The data set is looked for in $NEXUS_DATA/mnist, ./data/mnist and ../shared/data/mnist (IDX files).
"""

from nexus_compiler import GraphBuilder
from nexus_runtime import ClusterConfig, DeviceType, Scheduler


def main() -> None:
    """Train for three epochs and say how well it went."""
    graph = (
        GraphBuilder()
        .input("features", (None, 784))
        .dense(256, activation="relu")
        .dropout(0.5)
        .dense(10, activation="softmax")
    )
    cluster = (
        ClusterConfig()
        .add_node("gpu-pool", DeviceType.CPU, 2)
        .add_node("edge", DeviceType.CPU, 1)
        .enable_federated_scheduling()
    )
    report = Scheduler.with_graph(graph, cluster).train("mnist", epochs=3, batch_size=128)
    print(f"test accuracy {report.test_accuracy:.2%} after {report.seconds:.0f} s")


# Workers are processes of their own, which import this file again.
if __name__ == "__main__":
    main()
