"""A store that a team shares: who is trusted, what moves, and what becomes of trouble."""

from __future__ import annotations

import functools
import http.server
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_compiler.ir.fingerprint import Fingerprint
from nexus_compiler.store import prune, signing
from nexus_compiler.store.door import KERNELS, OBJECTS, Store
from nexus_compiler.store.local import LocalStore, StoreWarning
from nexus_compiler.store.opening import open_store
from nexus_compiler.store.remote import PAUSE_SECONDS, LayeredStore
from nexus_compiler.store.signing import Refused, Signer, Trust
from nexus_compiler.store.transport import FileSystem
from nexus_runtime.errors import UserError

KEY = Fingerprint((("content", "a kernel"), ("tvm", "0.27")))


def key(number: int) -> Fingerprint:
    return Fingerprint((("content", str(number)),))


def signer() -> Signer:
    return Signer.of(Ed25519PrivateKey.generate())


ANNA, BEN = signer(), signer()


class Team:
    """Machines with a store of their own each, and one remote."""

    def __init__(self, root: Path, url: str) -> None:
        self.url, self._root, self._open = url, root, list[LayeredStore]()

    def machine(self, name: str, *, sign: Signer | None, trust: list[Signer]) -> LayeredStore:
        store = LayeredStore(
            LocalStore(self._root / name),
            FileSystem(self.url),
            trust=Trust(frozenset(one.public for one in trust)),
            signer=sign,
        )
        self._open.append(store)
        return store

    def close(self) -> None:
        for store in self._open:
            store.close()
            prune.wait(store.local.root)


@pytest.fixture(params=["file", "memory"])
def team(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Team]:
    place = f"file://{tmp_path}/remote" if request.param == "file" else f"memory://{tmp_path}"
    made = Team(tmp_path, place)
    yield made
    made.close()


def never() -> bytes:
    raise AssertionError("it is there already")


def test_what_one_built_others_need_not(team: Team) -> None:
    anna = team.machine("anna", sign=ANNA, trust=[ANNA])
    door: Store = anna
    assert door.get_or_build(OBJECTS, KEY, lambda: b"object") == (b"object", False)
    anna.close()
    ben = team.machine("ben", sign=BEN, trust=[ANNA, BEN])
    assert ben.get_or_build(OBJECTS, KEY, never) == (b"object", True)
    assert ben.get(KERNELS, KEY) is None
    assert (ben.traffic.fetched, ben.traffic.sent) == (1, 0)
    ben.get_or_build(OBJECTS, KEY, never)
    assert ben.traffic.fetched == 1, "what was fetched is here now"
    mine, hers = ben.about(OBJECTS, KEY.digest), anna.about(OBJECTS, KEY.digest)
    assert mine == hers, "with its factors, and the time that it took to build"
    assert ben.factors(OBJECTS, KEY.digest) == KEY.factors
    assert [one.digest for one in ben.entries(OBJECTS)] == [KEY.digest]


def test_get_and_put_reach_the_remote(team: Team) -> None:
    anna = team.machine("anna", sign=ANNA, trust=[ANNA])
    anna.put(OBJECTS, KEY, b"object")
    anna.close()
    ben = team.machine("ben", sign=None, trust=[ANNA])
    assert ben.get(OBJECTS, KEY) == ben.local.get(OBJECTS, KEY) == b"object"


def test_only_what_is_missing_moves(team: Team) -> None:
    for name, count, sent in (("anna", 3, 3), ("ben", 5, 2), ("carl", 5, 0)):
        store = team.machine(name, sign=ANNA, trust=[ANNA])
        for number in range(count):
            store.put(OBJECTS, key(number), b"object")
        store.close()
        assert store.traffic.sent == sent


def test_a_reader_without_a_key_sends_nothing(team: Team) -> None:
    reader = team.machine("reader", sign=None, trust=[ANNA])
    assert reader.get_or_build(OBJECTS, KEY, lambda: b"object") == (b"object", False)
    reader.close()
    assert not reader.transport.has(OBJECTS, KEY.digest)


def test_strangers_are_refused_by_name_and_replaced(team: Team) -> None:
    stranger = team.machine("stranger", sign=BEN, trust=[BEN])
    stranger.get_or_build(OBJECTS, KEY, lambda: b"evil")
    stranger.get_or_build(OBJECTS, key(1), lambda: b"evil")
    stranger.close()
    anna = team.machine("anna", sign=ANNA, trust=[ANNA])
    with pytest.warns(StoreWarning, match=signing.name(BEN.public)) as said:
        assert anna.get_or_build(OBJECTS, KEY, lambda: b"object") == (b"object", False)
        assert anna.get_or_build(OBJECTS, key(1), lambda: b"object") == (b"object", False)
    assert len(said) == 1, "one key is one warning"
    anna.close()
    assert (anna.traffic.refused, anna.traffic.sent) == (2, 2)
    other = team.machine("other", sign=None, trust=[ANNA])
    assert other.get_or_build(OBJECTS, KEY, never) == (b"object", True)


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, 10_000), value=st.integers(1, 255), cut=st.booleans())
def test_no_damaged_entry_is_believed(place: int, value: int, cut: bool) -> None:
    sealed = bytearray(ANNA.seal(OBJECTS, KEY.digest, b"an entry of some length"))
    place %= len(sealed)
    if cut:
        del sealed[place:]
    else:
        sealed[place] ^= value
    with pytest.raises(Refused):
        Trust(frozenset([ANNA.public])).open(OBJECTS, KEY.digest, bytes(sealed))


def test_a_signature_is_of_one_name(team: Team) -> None:
    trust = Trust(frozenset([ANNA.public]))
    sealed = ANNA.seal(OBJECTS, KEY.digest, b"entry")
    assert trust.open(OBJECTS, KEY.digest, sealed) == b"entry"
    for bucket, digest in ((KERNELS, KEY.digest), (OBJECTS, key(1).digest)):
        with pytest.raises(Refused, match=signing.name(ANNA.public)):
            trust.open(bucket, digest, sealed)


def test_a_damaged_remote_entry_is_healed(team: Team) -> None:
    anna = team.machine("anna", sign=ANNA, trust=[ANNA])
    anna.get_or_build(OBJECTS, KEY, lambda: b"object")
    anna.close()
    sealed = anna.transport.read(OBJECTS, KEY.digest)
    assert sealed is not None
    anna.transport.write(OBJECTS, KEY.digest, sealed[:-1] + b"?")
    ben = team.machine("ben", sign=BEN, trust=[ANNA, BEN])
    with pytest.warns(StoreWarning, match="signature is not of the key"):
        assert ben.get_or_build(OBJECTS, KEY, lambda: b"object") == (b"object", False)
    ben.close()
    carl = team.machine("carl", sign=None, trust=[BEN])
    assert carl.get_or_build(OBJECTS, KEY, never) == (b"object", True)


class Unreachable:
    """A remote that answers nothing, and counts how often it was asked."""

    url = "s3://nowhere"

    def __init__(self, error: type[Exception]) -> None:
        self.asked, self._error = 0, error

    def _fail(self) -> None:
        self.asked += 1
        raise self._error("no answer")

    def claim(self, bucket: str, digest: str, *, publish: bool) -> bytes | None:
        self._fail()

    def abandon(self, bucket: str, digest: str) -> None:
        pass

    def read(self, bucket: str, digest: str) -> bytes | None:
        self._fail()

    def has(self, bucket: str, digest: str) -> bool:
        self._fail()
        return False

    def write(self, bucket: str, digest: str, sealed: bytes) -> None:
        self._fail()

    def close(self) -> None:
        pass


@pytest.mark.parametrize("error", [ConnectionError, TimeoutError, RuntimeError])
def test_an_unreachable_remote_is_one_warning(tmp_path: Path, error: type[Exception]) -> None:
    remote, now = Unreachable(error), [0.0]
    store = LayeredStore(
        LocalStore(tmp_path),
        remote,
        trust=Trust(frozenset()),
        signer=ANNA,
        clock=lambda: now[0],
    )
    with pytest.warns(StoreWarning, match=f"cannot be reached.*{error.__name__}") as said:
        for number in range(20):
            assert store.get_or_build(OBJECTS, key(number), lambda: b"built") == (b"built", False)
        assert remote.asked == 1, "not again for every entry"
        now[0] = PAUSE_SECONDS
        store.get_or_build(OBJECTS, key(20), lambda: b"built")
        assert remote.asked == 2, "but it may have come back"
    assert len(said) == 1
    store.close()
    prune.wait(tmp_path)


def test_a_build_that_fails_fails(team: Team) -> None:
    anna = team.machine("anna", sign=ANNA, trust=[ANNA])

    def fail() -> bytes:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        anna.get_or_build(OBJECTS, KEY, fail)
    assert anna.get_or_build(OBJECTS, KEY, lambda: b"object") == (b"object", False)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_web_server_can_be_read(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="http:// needs aiohttp")
    team = Team(tmp_path, f"file://{tmp_path}/remote")
    anna = team.machine("anna", sign=ANNA, trust=[ANNA])
    anna.get_or_build(OBJECTS, KEY, lambda: b"object")
    anna.close()
    handler = functools.partial(Quiet, directory=str(tmp_path / "remote"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        web = Team(tmp_path, f"http://127.0.0.1:{server.server_port}")
        ben = web.machine("ben", sign=BEN, trust=[ANNA, BEN])
        assert ben.get_or_build(OBJECTS, KEY, never) == (b"object", True)
        with pytest.warns(StoreWarning, match="takes no entries") as said:
            for number in range(3):
                ben.get_or_build(OBJECTS, key(number), lambda: b"object")
            ben.close()
        assert len(said) == 1
        server.shutdown()
    team.close()
    web.close()


def test_keys_are_made_and_read(tmp_path: Path) -> None:
    private, public, called = signing.new_pair(tmp_path / "anna")
    _, other, _ = signing.new_pair(tmp_path / "ben")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    mine = signing.read_signer(private)
    assert signing.name(mine.public) == called
    both = tmp_path / "team.pub"
    both.write_bytes(b"\n" + public.read_bytes() + b"\n" + other.read_bytes())
    trust = signing.read_trust([both])
    assert len(trust.keys) == 2
    assert trust.open(OBJECTS, "00", mine.seal(OBJECTS, "00", b"entry")) == b"entry"
    with pytest.raises(UserError, match=r"anna\.key"):
        signing.new_pair(tmp_path / "anna")
    with pytest.raises(UserError, match="no private Ed25519 key"):
        signing.read_signer(public)
    for content in (b"", b"nonsense", private.read_bytes(), public.read_bytes() + b"rest"):
        both.write_bytes(content)
        with pytest.raises(UserError, match="no public Ed25519 key"):
            signing.read_trust([both])
    with pytest.raises(UserError, match="cannot read the key"):
        signing.read_trust([tmp_path / "none"])


def test_a_store_is_opened_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public, _ = signing.new_pair(tmp_path / "anna")
    url = f"file://{tmp_path}/remote"
    assert isinstance(open_store(root=tmp_path), LocalStore)
    store = open_store(url, sign=private, root=tmp_path / "a")
    store.get_or_build(OBJECTS, KEY, lambda: b"object")
    store.close()
    monkeypatch.setenv("NEXUS_STORE", url)
    monkeypatch.setenv("NEXUS_STORE_TRUST", f"{public}")
    reader = open_store(root=tmp_path / "b")
    assert reader.get_or_build(OBJECTS, KEY, never) == (b"object", True)
    for root in ("a", "b"):
        prune.wait(tmp_path / root)


@pytest.mark.parametrize(
    ("url", "trust", "said"),
    [
        ("file:///tmp/x", False, "nobody is trusted"),
        (None, True, "no store"),
        ("gopher://x", True, "gopher"),
        ("s3://bucket/x", True, "pip install s3fs"),
    ],
)
def test_a_store_that_cannot_be_opened(
    tmp_path: Path, url: str | None, trust: bool, said: str
) -> None:
    if url == "s3://bucket/x":
        try:
            import s3fs  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("s3fs is installed: there is nothing to complain about")
    _, public, _ = signing.new_pair(tmp_path / "anna")
    with pytest.raises(UserError) as error:
        open_store(url, trust=[public] if trust else [])
    assert said in str(error.value)
