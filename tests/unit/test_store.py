"""The store: whole entries or none, whoever writes and whatever breaks."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_compiler.store.local import LocalStore

KEY = hashlib.sha256(b"key").hexdigest()


def entry(root: Path) -> Path:
    return next(path for path in root.rglob("*") if path.is_file())


def test_what_is_put_is_found(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert store.get(KEY) is None
    store.put(KEY, b"object")
    assert store.get(KEY) == b"object"
    assert LocalStore(tmp_path).get(KEY) == b"object"


def test_a_second_build_is_not_needed(tmp_path: Path) -> None:
    store, built = LocalStore(tmp_path), []

    def build() -> bytes:
        built.append(1)
        return b"object"

    assert store.get_or_build(KEY, build) == (b"object", False)
    assert store.get_or_build(KEY, build) == (b"object", True)
    assert len(built) == 1


@settings(max_examples=40, deadline=None)
@given(position=st.integers(0, 1000), value=st.integers(0, 255), cut=st.booleans())
def test_damage_is_found_and_healed(
    tmp_path_factory: object, position: int, value: int, cut: bool
) -> None:
    root = tmp_path_factory.mktemp("store")  # type: ignore[attr-defined]
    store = LocalStore(root)
    store.put(KEY, b"a good object")
    path = entry(root)
    data = bytearray(path.read_bytes())
    place = position % len(data)
    if cut:
        del data[place:]
    else:
        data[place] = (data[place] + 1 + value % 255) % 256
    path.write_bytes(bytes(data))
    assert store.get(KEY) is None
    assert store.get_or_build(KEY, lambda: b"a good object") == (b"a good object", False)
    assert store.get(KEY) == b"a good object"


def test_many_threads_see_whole_entries(tmp_path: Path) -> None:
    store, wrong = LocalStore(tmp_path), []
    payloads = [bytes([n]) * 5000 for n in range(4)]

    def work(number: int) -> None:
        for _ in range(50):
            store.put(KEY, payloads[number % 4])
            if store.get(KEY) not in payloads:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


WRITER = """
import sys
from pathlib import Path
from nexus_compiler.store.local import LocalStore
store = LocalStore(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    store.put(sys.argv[2], b"x" * 200_000)
"""


def test_a_killed_writer_leaves_no_torn_entry(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for _ in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), KEY], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        while store.get(KEY) is None:
            os.sched_yield()
        writer.kill()
        writer.wait()
        writer.stdout.close()
        assert store.get(KEY) == b"x" * 200_000
