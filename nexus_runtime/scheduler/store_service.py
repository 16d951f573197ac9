"""A team's store behind gRPC: answers the calls of the service `Store` of scheduler.proto."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from nexus_runtime.errors import NexusError
from nexus_runtime.scheduler import blobs, flights
from nexus_runtime.scheduler import scheduler_pb2 as pb
from nexus_runtime.scheduler import scheduler_pb2_grpc as rpc
from nexus_runtime.scheduler.shelf import Shelf
from nexus_runtime.scheduler.wire import POLL_SECONDS

Context = grpc.aio.ServicerContext
LARGEST = 1 << 31
"""Bytes of an entry, at most."""


class StoreServicer(rpc.StoreServicer):
    """One method for each call. A client is whom its certificate names.

    Args:
        shelf: where the entries are.
        clock: seconds, monotonic.
        first: the number of the first lease; one that no client of an earlier service has.
    """

    def __init__(self, shelf: Shelf, clock: Callable[[], float], *, first: int = 1) -> None:
        self._shelf, self._clock = shelf, clock
        self._flights = flights.Flights(first=first)
        self._claims = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[flights.Instruction]] = {}

    def tick(self) -> None:
        """Look for leases that have ended."""
        self._handle(flights.Ticked(at=self._clock()))

    async def Has(self, request: pb.EntryName, context: Context) -> pb.HasReply:
        """Whether an entry is there."""
        return pb.HasReply(held=_name(request) in self._shelf)

    async def Get(self, request: pb.EntryName, context: Context) -> AsyncIterator[pb.Chunk]:
        """Send an entry in chunks."""
        data = self._shelf.get(_name(request))
        if data is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such entry")
            return
        for chunk in blobs.chunks(data):
            yield pb.Chunk(data=chunk)

    async def Put(
        self, request_iterator: AsyncIterator[pb.PutRequest], context: Context
    ) -> pb.PutReply:
        """Take an entry; whoever waits for it gets it."""
        first = await anext(aiter(request_iterator), pb.PutRequest())
        name = _name(first.head.name)
        try:
            announced = blobs.BlobRef(first.head.entry.digest, first.head.entry.size)
            blob = blobs.Assembler(announced, limit=LARGEST)
            blob.add(first.data)
            async for request in request_iterator:
                blob.add(request.data)
            self._shelf.put(name, blob.finish())
        except NexusError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        self._handle(flights.Stored(at=self._clock(), entry=name))
        return pb.PutReply()

    async def Claim(self, request: pb.ClaimRequest, context: Context) -> pb.ClaimReply:
        """The entry, or the right to build it, or a wait for whoever builds it."""
        name, claim = _name(request.name), next(self._claims)
        if not self._shelf.is_name(name):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{name!r} is no name")
        waiting: asyncio.Future[flights.Instruction] = asyncio.get_running_loop().create_future()
        self._waiting[claim] = waiting
        claimed = flights.Claimed(
            at=self._clock(),
            claim=claim,
            client=_client(context),
            entry=name,
            held=name in self._shelf,
            publish=request.publish,
        )
        try:
            self._handle(claimed)
            answer = await asyncio.wait_for(waiting, POLL_SECONDS)
        except (TimeoutError, asyncio.CancelledError) as error:
            self._handle(flights.Left(at=self._clock(), claim=claim))
            if isinstance(error, asyncio.CancelledError):
                raise
            return pb.ClaimReply(kind=pb.ClaimReply.AGAIN)
        finally:
            del self._waiting[claim]
        return self._answer(name, answer)

    async def Renew(self, request: pb.Leases, context: Context) -> pb.RenewReply:
        """Builds go on."""
        lost: list[int] = []
        for lease in request.leases:
            event = flights.Renewed(at=self._clock(), client=_client(context), lease=lease)
            lost += [one.lease for one in self._handle(event) if isinstance(one, flights.Lost)]
        return pb.RenewReply(lost=lost)

    async def Abandon(self, request: pb.Leases, context: Context) -> pb.AbandonReply:
        """Builds failed."""
        for lease in request.leases:
            client = _client(context)
            self._handle(flights.Abandoned(at=self._clock(), client=client, lease=lease))
        return pb.AbandonReply()

    def _answer(self, name: str, answer: flights.Instruction) -> pb.ClaimReply:
        if isinstance(answer, flights.Grant):
            seconds = flights.LEASE_SECONDS
            return pb.ClaimReply(kind=pb.ClaimReply.LEASE, lease=answer.lease, seconds=seconds)
        if isinstance(answer, flights.Decline):
            return pb.ClaimReply(kind=pb.ClaimReply.MISSING)
        data = self._shelf.get(name)
        if data is None:  # pruned this moment
            return pb.ClaimReply(kind=pb.ClaimReply.AGAIN)
        whole = data if len(data) <= blobs.CHUNK else b""
        return pb.ClaimReply(kind=pb.ClaimReply.HELD, data=whole)

    def _handle(self, event: flights.Event) -> list[flights.Instruction]:
        instructions = self._flights.handle(event)
        for one in instructions:
            if isinstance(one, flights.Serve | flights.Grant | flights.Decline):
                waiting = self._waiting.get(one.claim)
                if waiting is not None and not waiting.done():
                    waiting.set_result(one)
        return instructions


def _name(entry: pb.EntryName) -> str:
    return f"{entry.bucket}/{entry.digest}"


def _client(context: Context) -> str:
    names: Any = context.auth_context().get("x509_common_name", [])
    return names[0].decode() if names else ""
