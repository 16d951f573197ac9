"""The client of a store service (`nexus://HOST:PORT`), where one builds for all who wait."""

from __future__ import annotations

import os
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from nexus_runtime.errors import UserError
from nexus_runtime.scheduler import blobs
from nexus_runtime.scheduler import scheduler_pb2 as pb
from nexus_runtime.scheduler import scheduler_pb2_grpc as rpc
from nexus_runtime.scheduler.security import Credentials
from nexus_runtime.scheduler.wire import OPTIONS, POLL_SECONDS, blob_message

_ANSWER_SECONDS = 10.0
_TRANSFER_SECONDS = 600.0
_Key = tuple[str, str]


class StoreUnreachable(Exception):
    """The service does not answer, or refuses."""


class Served:
    """See `Transport` in `transport.py`.

    Args:
        host: "host:port".
        credentials: of this client, from the service's authority.
    """

    def __init__(self, host: str, credentials: Credentials) -> None:
        self.url = f"nexus://{host}"
        own = grpc.ssl_channel_credentials(
            credentials.authority, credentials.key, credentials.certificate
        )
        self._channel = grpc.secure_channel(host, own, options=OPTIONS)
        self._stub = rpc.StoreStub(self._channel)
        self._leases: dict[_Key, int] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._renewer: threading.Thread | None = None

    @classmethod
    def at(cls, url: str) -> Served:
        """The service at nexus://HOST:PORT?credentials=DIR, or with `NEXUS_STORE_CREDENTIALS`.

        Raises:
            UserError: the URL has no host and port, or the credentials cannot be read.
        """
        parts = urllib.parse.urlsplit(url)
        given = urllib.parse.parse_qs(parts.query).get("credentials", [])
        directory = given[0] if given else os.environ.get("NEXUS_STORE_CREDENTIALS")
        try:
            complete = bool(parts.hostname and parts.port)
        except ValueError:
            complete = False
        if not complete or not directory:
            raise UserError(
                f"the store {url} cannot be used: "
                + ("no credentials are given" if complete else "it names no host and port"),
                hint="write nexus://HOST:PORT?credentials=DIR, with what `nexus-agent store init` "
                "made for this machine",
            )
        return cls(parts.netloc, Credentials.read(Path(directory)))

    def claim(self, bucket: str, digest: str, *, publish: bool) -> bytes | None:
        """As `Transport.claim`."""
        request = pb.ClaimRequest(name=_name(bucket, digest), publish=publish)
        while True:
            reply = self._call(self._stub.Claim, request, POLL_SECONDS + _ANSWER_SECONDS)
            if reply.kind == pb.ClaimReply.HELD:
                found = reply.data or self.read(bucket, digest)
                if found is not None:
                    return found
            elif reply.kind == pb.ClaimReply.LEASE:
                self._hold((bucket, digest), reply.lease, reply.seconds)
                return None
            elif reply.kind == pb.ClaimReply.MISSING:
                return None

    def abandon(self, bucket: str, digest: str) -> None:
        """As `Transport.abandon`."""
        if lease := self._forget((bucket, digest)):
            try:
                self._call(self._stub.Abandon, pb.Leases(leases=[lease]), _ANSWER_SECONDS)
            except StoreUnreachable:
                return  # it ends by itself

    def read(self, bucket: str, digest: str) -> bytes | None:
        """As `Transport.read`."""

        def get(request: pb.EntryName, timeout: float) -> bytes:
            chunks = self._stub.Get(request, timeout=timeout)
            return b"".join(chunk.data for chunk in chunks)

        return self._call(get, _name(bucket, digest), _TRANSFER_SECONDS)

    def has(self, bucket: str, digest: str) -> bool:
        """As `Transport.has`."""
        return self._call(self._stub.Has, _name(bucket, digest), _ANSWER_SECONDS).held

    def write(self, bucket: str, digest: str, sealed: bytes) -> None:
        """As `Transport.write`; ends the lease."""
        head = pb.PutHead(name=_name(bucket, digest), entry=blob_message(blobs.ref(sealed)))

        def put(head: pb.PutHead, timeout: float) -> pb.PutReply:
            return self._stub.Put(_messages(head, sealed), timeout=timeout)

        self._call(put, head, _TRANSFER_SECONDS)
        self._forget((bucket, digest))

    def close(self) -> None:
        """As `Transport.close`; leases that are still held end by themselves."""
        self._stop.set()
        if self._renewer is not None:
            self._renewer.join()
        self._channel.close()

    def _hold(self, key: _Key, lease: int, seconds: float) -> None:
        with self._lock:
            self._leases[key] = lease
            if self._renewer is None:
                self._renewer = threading.Thread(
                    target=self._renew, args=(seconds / 3,), name="nexus-store-leases", daemon=True
                )
                self._renewer.start()

    def _forget(self, key: _Key) -> int:
        with self._lock:
            return self._leases.pop(key, 0)

    def _renew(self, pause: float) -> None:
        while not self._stop.wait(pause):
            with self._lock:
                leases = list(self._leases.values())
            if leases:
                try:
                    self._call(self._stub.Renew, pb.Leases(leases=leases), _ANSWER_SECONDS)
                except StoreUnreachable:
                    continue  # whoever sends the entry meets the same trouble, and says so

    def _call(self, method: Callable[..., Any], request: object, timeout: float) -> Any:
        """Call; None where there is no such entry.

        Raises:
            StoreUnreachable: the service does not answer, or refuses.
        """
        try:
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            code: Any = error.code()
            if code == grpc.StatusCode.NOT_FOUND:
                return None
            details: Any = error.details()
            raise StoreUnreachable(f"{code.name}: {details}") from error


def _name(bucket: str, digest: str) -> pb.EntryName:
    return pb.EntryName(bucket=bucket, digest=digest)


def _messages(head: pb.PutHead, sealed: bytes) -> Iterator[pb.PutRequest]:
    for index, chunk in enumerate(blobs.chunks(sealed)):
        yield pb.PutRequest(data=chunk) if index else pb.PutRequest(head=head, data=chunk)
