"""What both ends of the wire must agree on."""

from __future__ import annotations

from nexus_runtime.scheduler import scheduler_pb2 as pb
from nexus_runtime.scheduler.blobs import BlobRef

PROTOCOL = 1
POLL_SECONDS = 10.0
"""A poll without a lease is answered after so long."""

#: gRPC's defaults end connections that are silent for a while (flwr#4300). 4 MiB: one message.
OPTIONS = [
    ("grpc.max_send_message_length", 4 << 20),
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]


def blob_message(name: BlobRef) -> pb.Blob:
    """The name of a blob as a message."""
    return pb.Blob(digest=name.digest, size=name.size)
