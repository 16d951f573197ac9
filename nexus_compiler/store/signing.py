"""Who built an entry: Ed25519 signatures, and the keys that a user trusts.

    4 bytes    "NXS1"
    32 bytes   the signer's public key
    64 bytes   the signature over bucket, digest and the SHA-256 of the entry
               the entry (see `entry.py`)

An entry is code that will run here, so that the hash alone, which anybody can make, says nothing.
The signature covers the name as well: a signed entry cannot be passed off as another one.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from nexus_runtime.errors import UserError

_MAGIC = b"NXS1"
_KEY = 32
_SIGNATURE = 64
_START = len(_MAGIC) + _KEY + _SIGNATURE
_END = b"-----END PUBLIC KEY-----"


class Refused(Exception):
    """A signed entry must not be used; the text says why and names the key."""


def name(public: bytes) -> str:
    """What a public key is called: 16 characters of its SHA-256, in base32."""
    return base64.b32encode(hashlib.sha256(public).digest()[:10]).decode().lower()


@dataclass(frozen=True)
class Signer:
    """Signs entries; `public` is the raw public key."""

    key: Ed25519PrivateKey
    public: bytes

    @classmethod
    def of(cls, key: Ed25519PrivateKey) -> Signer:
        """A signer with this key."""
        return cls(key, key.public_key().public_bytes_raw())

    def seal(self, bucket: str, digest: str, entry: bytes) -> bytes:
        """`entry`, signed as the entry of `digest` in `bucket`."""
        signature = self.key.sign(_message(bucket, digest, entry))
        return b"".join((_MAGIC, self.public, signature, entry))


@dataclass(frozen=True)
class Trust:
    """The raw public keys whose entries may be used."""

    keys: frozenset[bytes]

    def open(self, bucket: str, digest: str, sealed: bytes) -> bytes:
        """The entry in `sealed`, if a trusted key signed it as that of `digest` in `bucket`.

        Raises:
            Refused: it is cut short, the key is not trusted, or the signature does not fit.
        """
        if len(sealed) < _START or not sealed.startswith(_MAGIC):
            raise Refused("it is no signed entry")
        public = sealed[len(_MAGIC) : len(_MAGIC) + _KEY]
        if public not in self.keys:
            raise Refused(f"it is signed by the key {name(public)}, which is not trusted")
        signature, entry = sealed[len(_MAGIC) + _KEY : _START], sealed[_START:]
        try:
            key = Ed25519PublicKey.from_public_bytes(public)
            key.verify(signature, _message(bucket, digest, entry))
        except (InvalidSignature, ValueError) as error:
            raise Refused(f"its signature is not of the key {name(public)} it names") from error
        return entry


def _message(bucket: str, digest: str, entry: bytes) -> bytes:
    # Neither a bucket nor a digest holds a zero byte.
    head = f"nexus-store-entry-v1\0{bucket}\0{digest}\0".encode()
    return head + hashlib.sha256(entry).digest()


def new_pair(path: Path) -> tuple[Path, Path, str]:
    """Make a key pair: `path`.key for the owner's eyes only, and `path`.pub; its name is third.

    Raises:
        UserError: a file of this name is there, or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    private, public = path.with_name(f"{path.name}.key"), path.with_name(f"{path.name}.pub")
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    shown = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    for place, data, mode in ((private, secret, 0o600), (public, shown, 0o644)):
        try:
            descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except OSError as error:
            raise UserError(f"cannot write {place}: {error.strerror}") from error
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    return private, public, name(key.public_key().public_bytes_raw())


def read_signer(path: Path) -> Signer:
    """The private key in a PEM file.

    Raises:
        UserError: it cannot be read, or is no Ed25519 key.
    """
    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "private") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path, "private")
    return Signer.of(key)


def read_trust(paths: Sequence[Path], *, own: Iterable[bytes] = ()) -> Trust:
    """The public keys in PEM files, any number in each, and one's `own`.

    Raises:
        UserError: a file cannot be read, or holds something else.
    """
    keys = set(own)
    for path in paths:
        blocks = [block for block in _read(path).split(_END) if block.strip()]
        for block in blocks:
            try:
                key = serialization.load_pem_public_key(block.lstrip() + _END + b"\n")
            except (ValueError, UnsupportedAlgorithm) as error:
                raise _no_key(path, "public") from error
            if not isinstance(key, Ed25519PublicKey):
                raise _no_key(path, "public")
            keys.add(key.public_bytes_raw())
        if not blocks:
            raise _no_key(path, "public")
    return Trust(frozenset(keys))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the key {path}: {error.strerror}") from error


def _no_key(path: Path, which: str) -> UserError:
    return UserError(
        f"{path} holds no {which} Ed25519 key",
        hint="`nexusc cache key new NAME` makes NAME.key (to sign) and NAME.pub (to trust)",
    )
