"""The store: whole entries or none, whoever writes and whatever breaks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_compiler.ir.fingerprint import Fingerprint
from nexus_compiler.store import layout, locks, prune, upkeep
from nexus_compiler.store.counting import CountingStore
from nexus_compiler.store.door import KERNELS, OBJECTS, Store
from nexus_compiler.store.local import LocalStore, StoreWarning
from nexus_runtime.errors import UserError

KEY = Fingerprint((("content", "a kernel"), ("tvm", "0.27")))


def key(number: int) -> Fingerprint:
    return Fingerprint((("content", str(number)),))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    yield LocalStore(tmp_path / "store")
    prune.wait(tmp_path / "store")


def damaged(path: Path, position: int, value: int, cut: bool) -> None:
    data = bytearray(path.read_bytes())
    place = position % len(data)
    if cut:
        del data[place:]
    else:
        data[place] = (data[place] + 1 + value % 255) % 256
    path.write_bytes(bytes(data))


def test_what_is_put_is_found(store: LocalStore) -> None:
    assert store.get(OBJECTS, KEY) is None
    store.put(OBJECTS, KEY, b"object")
    assert store.get(OBJECTS, KEY) == b"object"
    assert LocalStore(store.root).get(OBJECTS, KEY) == b"object"
    assert store.get(KERNELS, KEY) is None, "buckets are apart"


def test_a_second_build_is_not_needed(store: LocalStore) -> None:
    door: Store = store
    built = []

    def build() -> bytes:
        built.append(1)
        return b"object"

    assert door.get_or_build(OBJECTS, KEY, build) == (b"object", False)
    assert door.get_or_build(OBJECTS, KEY, build) == (b"object", True)
    assert len(built) == 1


def test_an_entry_says_what_it_follows_from(store: LocalStore) -> None:
    store.get_or_build(OBJECTS, KEY, lambda: b"object")
    about = store.about(OBJECTS, KEY.digest)
    assert about is not None
    assert about.factors == store.factors(OBJECTS, KEY.digest) == KEY.factors
    assert 0 <= about.seconds < 1
    (entry,) = store.entries(OBJECTS)
    assert entry.digest == KEY.digest
    assert entry.size == store.path(OBJECTS, KEY.digest).stat().st_size
    assert store.factors(OBJECTS, key(1).digest) is None
    assert list(store.entries(KERNELS)) == []


@settings(max_examples=60, deadline=None)
@given(
    position=st.integers(0, 1000),
    value=st.integers(0, 255),
    cut=st.booleans(),
    payload=st.binary(max_size=50),
)
def test_damage_is_found_and_healed(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, cut: bool, payload: bytes
) -> None:
    store = LocalStore(tmp_path_factory.mktemp("store"))
    store.put(OBJECTS, KEY, payload)
    damaged(store.path(OBJECTS, KEY.digest), position, value, cut)
    assert store.factors(OBJECTS, KEY.digest) in (None, KEY.factors)
    assert store.get(OBJECTS, KEY) is None
    assert store.get_or_build(OBJECTS, KEY, lambda: payload) == (payload, False)
    assert store.get(OBJECTS, KEY) == payload
    prune.wait(store.root)


def test_an_entry_of_another_name_is_no_hit(store: LocalStore) -> None:
    store.put(OBJECTS, KEY, b"object")
    path = store.path(OBJECTS, key(1).digest)
    path.parent.mkdir(parents=True)
    store.path(OBJECTS, KEY.digest).rename(path)
    assert store.factors(OBJECTS, key(1).digest) is None
    assert store.get(OBJECTS, key(1)) is None


def test_many_threads_cause_one_build(store: LocalStore) -> None:
    built, found = [], []
    gate = threading.Barrier(8)

    def build() -> bytes:
        built.append(1)
        return b"object" * 1000

    def work() -> None:
        for number in range(20):
            gate.wait()
            found.append(store.get_or_build(OBJECTS, key(number), build)[0])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 20
    assert found == [b"object" * 1000] * 160
    assert list(layout.locks_path(store.root).iterdir()) == []


def test_a_build_that_fails_leaves_the_key_free(store: LocalStore) -> None:
    def fail() -> bytes:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.get_or_build(OBJECTS, KEY, fail)
    assert store.get_or_build(OBJECTS, KEY, lambda: b"object") == (b"object", False)


def test_a_lock_file_of_a_dead_holder_is_no_lock(store: LocalStore) -> None:
    path = layout.locks_path(store.root) / f"{OBJECTS}-{KEY.digest}"
    path.parent.mkdir(parents=True)
    path.touch()
    with locks.held(path, wait=False) as mine:
        assert mine
        with locks.held(path, wait=False) as second:
            assert not second
    assert not path.exists()


def test_a_store_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = LocalStore(tmp_path / "file" / "store")
    with pytest.warns(StoreWarning, match="NEXUS_CACHE") as said:
        assert store.get_or_build(OBJECTS, KEY, lambda: b"object") == (b"object", False)
        assert store.get_or_build(OBJECTS, KEY, lambda: b"object") == (b"object", False)
    assert len(said) == 1


def test_a_hit_is_written_down_once_a_minute(tmp_path: Path) -> None:
    now = [1000.0]
    store = LocalStore(tmp_path, clock=lambda: now[0])
    store.put(OBJECTS, KEY, b"object")
    prune.wait(tmp_path)
    path = store.path(OBJECTS, KEY.digest)
    os.utime(path, (1000, 1000))
    for now[0], used in ((1059.0, 1000.0), (1061.0, 1061.0), (1100.0, 1061.0)):
        store.get(OBJECTS, KEY)
        assert path.stat().st_mtime == used


def filled(root: Path, count: int, *, limit: int) -> LocalStore:
    store = LocalStore(root, limit=limit)
    for number in range(count):
        store.put(OBJECTS, key(number), bytes(10_000))
        os.utime(store.path(OBJECTS, key(number).digest), (number, number))
    prune.wait(root)
    return store


def test_what_was_used_longest_ago_is_pruned(tmp_path: Path) -> None:
    store = filled(tmp_path, 20, limit=10**9)
    size = next(store.entries(OBJECTS)).size
    store.get(OBJECTS, key(3))
    done = prune.prune(tmp_path, 5 * size + 100, now=1000.0)
    assert done is not None
    assert (done.entries, done.left <= 5 * size + 100) == (15, True)
    left = [n for n in range(20) if store.get(OBJECTS, key(n)) is not None]
    assert left == [3, 16, 17, 18, 19]


def test_a_store_stays_below_its_limit(tmp_path: Path) -> None:
    store = filled(tmp_path, 100, limit=200_000)
    store.put(OBJECTS, key(200), b"new")
    prune.wait(tmp_path)
    assert sum(entry.size for entry in store.entries(OBJECTS)) <= 200_000
    assert store.get(OBJECTS, key(200)) == b"new"


@pytest.mark.parametrize("said", [b"", b"nonsense is here", b"0"])
def test_a_damaged_account_is_put_right(tmp_path: Path, said: bytes) -> None:
    store = filled(tmp_path, 30, limit=10**9)
    layout.account_path(tmp_path).write_bytes(said)
    limited = LocalStore(tmp_path, limit=100_000)
    limited.put(OBJECTS, KEY, b"object")
    prune.wait(tmp_path)
    assert sum(entry.size for entry in store.entries(OBJECTS)) <= 100_000


def test_what_lost_writers_left_is_removed(tmp_path: Path) -> None:
    store = filled(tmp_path, 1, limit=10**9)
    shard = store.path(OBJECTS, key(0).digest).parent
    for name, written in ((".old-1-abcd", 1000), (".new-1-abcd", 4000)):
        (shard / name).write_bytes(b"half an entry")
        os.utime(shard / name, (written, written))
    lock = layout.locks_path(tmp_path) / "objects-1234"
    lock.touch()
    assert [entry.digest for entry in store.entries(OBJECTS)] == [key(0).digest]
    prune.prune(tmp_path, 10**9, now=5000.0)
    assert sorted(path.name for path in shard.iterdir()) == sorted(
        [".new-1-abcd", store.path(OBJECTS, key(0).digest).name]
    )
    assert not lock.exists()


def test_cleaning_beside_a_build_is_no_trouble(store: LocalStore) -> None:
    wrong: list[object] = []

    def work(first: int) -> None:
        for number in range(first, first + 300):
            payload, _ = store.get_or_build(OBJECTS, key(number), lambda: b"object")
            if payload != b"object":
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 150)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        upkeep.clean(store.root)
    for thread in threads:
        thread.join()
    assert wrong == []
    prune.wait(store.root)
    upkeep.clean(store.root)
    assert upkeep.usage(store.root) == []


def test_a_store_that_counts(store: LocalStore) -> None:
    counting = CountingStore(store)
    door: Store = counting
    for bucket in (KERNELS, OBJECTS):
        for number in (1, 2, 1, 1):
            door.get_or_build(bucket, key(number), lambda: b"object")
    assert (counting.built, counting.reused) == (2, 2)
    door.put(OBJECTS, key(3), b"three")
    assert door.get(OBJECTS, key(3)) == b"three"
    assert door.factors(OBJECTS, key(3).digest) == key(3).factors
    assert door.about(OBJECTS, key(3).digest) is not None
    assert len(list(door.entries(OBJECTS))) == 3
    door.close()


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("500M", 500 * 10**6), ("10 GB", 10**10), ("1.5KiB", 1536)]
)
def test_sizes(text: str, size: int) -> None:
    assert prune.parse_size(text, origin="--limit") == size


@pytest.mark.parametrize("text", ["", "GB", "ten", "1PB", "-3M"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UserError, match=r"--limit is .*no size"):
        prune.parse_size(text, origin="--limit")


def test_the_limit_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_CACHE_LIMIT", "2GiB")
    assert LocalStore().limit == 2**31
    monkeypatch.setenv("NEXUS_CACHE_LIMIT", "much")
    with pytest.raises(UserError, match="NEXUS_CACHE_LIMIT is 'much'"):
        LocalStore()
