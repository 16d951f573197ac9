"""The store service over gRPC: one build for all, lost builders, strangers, and its absence."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nexus_compiler.ir.fingerprint import Fingerprint
from nexus_compiler.store import prune, signing
from nexus_compiler.store.door import OBJECTS
from nexus_compiler.store.local import LocalStore, StoreWarning
from nexus_compiler.store.opening import open_store
from nexus_compiler.store.remote import LayeredStore
from nexus_compiler.store.served import Served, StoreUnreachable
from nexus_compiler.store.signing import Signer, Trust
from nexus_runtime.errors import UserError
from nexus_runtime.scheduler import blobs
from nexus_runtime.scheduler.flights import LEASE_SECONDS
from nexus_runtime.scheduler.security import Authority
from nexus_runtime.scheduler.store_server import StoreServer, issue

DEADLINE = 30.0
KEY = Fingerprint((("content", "a kernel"),))
SIGNER = Signer.of(Ed25519PrivateKey.generate())


class Fleet:
    """A service, and machines that have certificates from its authority."""

    def __init__(self, root: Path) -> None:
        self.root, self.now, self._stores = root, 0.0, list[LayeredStore]()
        self.authority = Authority()
        self.server = StoreServer(root / "service", self.authority.server(), clock=lambda: self.now)
        self.port = self.server.start()

    def client(self, name: str) -> Served:
        return Served(f"localhost:{self.port}", self.authority.worker(name))

    def machine(self, name: str, *, sign: bool = True) -> LayeredStore:
        store = LayeredStore(
            LocalStore(self.root / name),
            self.client(name),
            trust=Trust(frozenset([SIGNER.public])),
            signer=SIGNER if sign else None,
        )
        self._stores.append(store)
        return store

    def close(self) -> None:
        for store in self._stores:
            store.close()
            prune.wait(store.local.root)
        self.server.close()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    made.close()


def never() -> bytes:
    raise AssertionError("it is there already")


def test_ten_trainers_cause_one_build(fleet: Fleet) -> None:
    built: list[int] = []
    found: list[bytes] = []
    machines = [fleet.machine(f"trainer-{number}") for number in range(10)]
    gate = threading.Barrier(10)
    # The first holds its lease until all others have asked, so that they must wait for it.
    asked = threading.Semaphore(0)

    def build() -> bytes:
        built.append(1)
        for _ in range(9):
            assert asked.acquire(timeout=DEADLINE)
        return b"object" * 1000

    def train(store: LayeredStore) -> None:
        gate.wait()
        claim = store.transport.claim

        def counted(bucket: str, digest: str, *, publish: bool) -> bytes | None:
            asked.release()
            return claim(bucket, digest, publish=publish)

        store.transport.claim = counted  # type: ignore[method-assign]
        found.append(store.get_or_build(OBJECTS, KEY, build)[0])

    threads = [threading.Thread(target=train, args=(store,)) for store in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert len(built) == 1
    assert found == [b"object" * 1000] * 10


def test_large_entries_travel_in_chunks(fleet: Fleet) -> None:
    payload = bytes(range(256)) * (3 * blobs.CHUNK // 256) + b"rest"
    anna = fleet.machine("anna")
    anna.get_or_build(OBJECTS, KEY, lambda: payload)
    anna.close()
    ben = fleet.machine("ben", sign=False)
    assert ben.get_or_build(OBJECTS, KEY, never) == (payload, True)
    assert fleet.machine("carl").get(OBJECTS, KEY) == payload


def test_a_lost_builder_is_replaced(fleet: Fleet) -> None:
    lost, next_one = fleet.client("lost"), fleet.client("next")
    assert lost.claim(OBJECTS, KEY.digest, publish=True) is None
    found: list[bytes | None] = []
    waiting = threading.Thread(
        target=lambda: found.append(next_one.claim(OBJECTS, KEY.digest, publish=True))
    )
    waiting.start()
    fleet.now += LEASE_SECONDS
    waiting.join(DEADLINE)
    assert found == [None], "it is its turn"
    next_one.write(OBJECTS, KEY.digest, b"entry")
    assert lost.claim(OBJECTS, KEY.digest, publish=True) == b"entry"
    lost.close()
    next_one.close()


def test_a_build_that_fails_lets_the_next_try(fleet: Fleet) -> None:
    anna, ben = fleet.machine("anna"), fleet.machine("ben")

    def fail() -> bytes:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        anna.get_or_build(OBJECTS, KEY, fail)
    assert ben.get_or_build(OBJECTS, KEY, lambda: b"object") == (b"object", False)


def test_a_reader_does_not_wait_for_itself(fleet: Fleet) -> None:
    reader = fleet.machine("reader", sign=False)
    assert reader.get_or_build(OBJECTS, KEY, lambda: b"object") == (b"object", False)
    assert fleet.machine("anna").get(OBJECTS, KEY) is None


def test_strangers_are_not_let_in(fleet: Fleet) -> None:
    stranger = Served(f"localhost:{fleet.port}", Authority().worker("stranger"))
    with pytest.raises(StoreUnreachable):
        stranger.read(OBJECTS, KEY.digest)
    stranger.close()


def test_a_damaged_transfer_and_a_wrong_name_are_refused(fleet: Fleet) -> None:
    client = fleet.client("anna")
    with pytest.raises(StoreUnreachable, match="no name"):
        client.write("../..", KEY.digest, b"entry")
    with pytest.raises(StoreUnreachable, match="no name"):
        client.claim(OBJECTS, "../../etc/passwd", publish=True)
    assert not client.has(OBJECTS, KEY.digest)
    client.close()


def test_a_service_that_is_gone_is_a_warning(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    writer = fleet.machine("ben")
    writer.get_or_build(OBJECTS, KEY, lambda: b"object")
    writer.close()  # waits for what is on its way
    store = fleet.machine("anna")
    assert store.get(OBJECTS, KEY) == b"object"
    fleet.server.close()
    with pytest.warns(StoreWarning, match=r"nexus://localhost:\d+ cannot be reached") as said:
        for number in range(5):
            key = Fingerprint((("content", str(number)),))
            assert store.get_or_build(OBJECTS, key, lambda: b"object") == (b"object", False)
    assert len(said) == 1
    fleet.close()


def test_the_url_of_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    issue(tmp_path / "keys", ["store.example"], ["anna", "ben"])
    private, _, _ = signing.new_pair(tmp_path / "team")
    monkeypatch.delenv("NEXUS_STORE_CREDENTIALS", raising=False)
    for url, said in (
        ("nexus://store.example", "no host and port"),
        ("nexus://store.example:high", "no host and port"),
        ("nexus://store.example:4000", "no credentials"),
        (f"nexus://store.example:4000?credentials={tmp_path}/nobody", "cannot be read"),
    ):
        with pytest.raises(UserError) as error:
            open_store(url, sign=private)
        assert said in str(error.value)
    url = f"nexus://store.example:4000?credentials={tmp_path}/keys/anna"
    store = open_store(url, sign=private, root=tmp_path)
    assert isinstance(store, LayeredStore)
    assert store.transport.url == "nexus://store.example:4000"
    store.close()


def test_the_agent_serves_a_store(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    agent = [sys.executable, "-m", "nexus_runtime.cli", "store"]
    made = subprocess.run(
        [*agent, "init", str(keys), "--host", "store.example", "--client", "anna"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert made.stdout == f"{keys}/service\n{keys}/anna\n"
    with subprocess.Popen(
        [*agent, "serve", str(tmp_path / "entries"), "--credentials", str(keys / "service")]
        + ["--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as service:
        assert service.stdout is not None
        client = Served.at(f"{service.stdout.readline().strip()}?credentials={keys}/anna")
        client.write(OBJECTS, KEY.digest, b"entry")
        client.close()
        service.send_signal(signal.SIGINT)
        said = service.communicate(timeout=DEADLINE)
    assert (service.returncode, said[1].strip()) == (1, "error: interrupted")
    assert (tmp_path / "entries" / OBJECTS / KEY.digest[:2] / KEY.digest[2:]).exists()
