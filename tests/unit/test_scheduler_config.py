"""What users write: clusters, credentials, the command line, and how wrong input is answered."""

from __future__ import annotations

import stat
import subprocess
import sys

import pytest
from scheduler_model import NumpyGraph, load

from nexus_runtime.cli import main
from nexus_runtime.errors import DeviceError, SchedulerError
from nexus_runtime.scheduler.config import ClusterConfig, DeviceType
from nexus_runtime.scheduler.facade import Scheduler
from nexus_runtime.scheduler.security import Authority, Credentials


def test_a_cluster_is_a_value():
    empty = ClusterConfig()
    one = empty.add_node("lab", DeviceType.CPU, 2, threads=3, memory_limit_samples=64)
    assert empty.nodes == ()
    assert one.worker_count == 2
    assert one.nodes[0].workers == ("lab-0", "lab-1")
    assert not one.federated
    assert one.enable_federated_scheduling().federated
    assert one == empty.add_node("lab", DeviceType.CPU, 2, threads=3, memory_limit_samples=64)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("lab", DeviceType.CPU, 0), "count of 'lab' is 0"),
        (("", DeviceType.CPU, 1), "cannot be a pool's name"),
        (("a/b", DeviceType.CPU, 1), "cannot be a pool's name"),
    ],
)
def test_wrong_nodes_are_refused(arguments, cause):
    with pytest.raises(SchedulerError, match=cause):
        ClusterConfig().add_node(*arguments)


def test_a_pool_cannot_be_added_twice():
    cluster = ClusterConfig().add_node("lab", DeviceType.CPU, 1)
    with pytest.raises(SchedulerError, match="a pool 'lab' already"):
        cluster.add_node("lab", DeviceType.CPU, 1)


def test_an_unknown_device_is_refused():
    with pytest.raises(DeviceError, match="'quantum'") as caught:
        ClusterConfig().add_node("lab", "quantum", 1)
    assert "DeviceType.CPU" in caught.value.hint


def test_several_pools_need_federated_scheduling():
    cluster = ClusterConfig().add_node("a", DeviceType.CPU, 1).add_node("b", DeviceType.CPU, 1)
    with pytest.raises(SchedulerError, match="2 pools") as caught:
        Scheduler.with_graph(NumpyGraph(), cluster)
    assert "enable_federated_scheduling()" in caught.value.hint
    Scheduler.with_graph(NumpyGraph(), cluster.enable_federated_scheduling())


def test_an_empty_cluster_is_refused():
    with pytest.raises(SchedulerError, match="no devices"):
        Scheduler.with_graph(NumpyGraph(), ClusterConfig())


def test_the_local_engine_starts_cpu_workers_only():
    cluster = ClusterConfig().add_node("gpus", DeviceType.CUDA, 1)
    with pytest.raises(DeviceError, match="CPUs only, not on CUDA"):
        Scheduler.with_graph(NumpyGraph(), cluster, load=load).train("digits", verbose=False)


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
    ],
)
def test_wrong_options_are_refused(options, cause):
    cluster = ClusterConfig().add_node("lab", DeviceType.CPU, 1)
    with pytest.raises(SchedulerError, match=cause):
        Scheduler.with_graph(NumpyGraph(), cluster).train("digits", **options)


def test_credentials_are_for_the_owners_eyes(tmp_path):
    own = Authority().worker("lab-0")
    directory = own.write(tmp_path / "lab-0")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for name in ("ca.pem", "cert.pem", "key.pem"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    assert Credentials.read(directory) == own
    assert own.name == "lab-0"


def test_missing_credentials_are_named(tmp_path):
    with pytest.raises(SchedulerError, match="cannot be read"):
        Credentials.read(tmp_path)


def test_join_without_credentials_is_the_users_fault(tmp_path, capsys):
    words = ["join", "--scheduler", "x:1", "--credentials", str(tmp_path), "--pool", "lab"]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: the credentials in ")
    assert "\nhint: " in said
    assert "Traceback" not in said


def test_a_wrong_option_is_the_users_fault(capsys):
    assert main(["join", "--nothing"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_help_is_no_error(capsys):
    assert main(["join", "--help"]) == 0
    assert "--scheduler HOST:PORT" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["nexus_runtime", "nexus_runtime.cli", "nexus_runtime.trainer"])
def test_importing_the_runtime_is_light(module):
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    heavy = {"grpc", "tvm", "torch", "jax", "nexus_compiler", "cryptography", "sklearn", "rich"}
    assert not heavy & set(loaded)


def test_the_scheduler_never_imports_the_compiler():
    code = "import sys, nexus_runtime.scheduler.facade; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"tvm", "torch", "jax", "nexus_compiler"} & set(loaded)
