"""TVM's runtime for another machine: two libraries out of wheels, and no Python there.

A module needs `libtvm_runtime.so` and `libtvm_ffi.so` of the very versions that compiled it. The
wheels for the other machine hold them beside 240 MB of compiler; the two are taken out and kept in
`<cache>/slim-v1/<machine>-<TVM's version>-<ffi's version>/`, each with its SHA-256 next to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Generator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from nexus_runtime import files
from nexus_runtime.errors import TargetError

BUCKET = "slim-v1"
WHEELS_VARIABLE = "NEXUS_WHEELS"


@dataclass(frozen=True)
class Library:
    """One library and where it comes from."""

    package: str
    member: str

    @property
    def name(self) -> str:
        """Its file name."""
        return self.member.rpartition("/")[2]


LIBRARIES = (
    Library("apache-tvm", "tvm/lib/libtvm_runtime.so"),
    Library("apache-tvm-ffi", "tvm_ffi/lib/libtvm_ffi.so"),
)

# SHA-256 of the libraries by package, version and machine. Not of the wheels: there is one for
# each Python, all with the same library in it. Of a version that is not listed, the hash which pip
# compares with the index's is relied on, and that of the library is written down at that time.
PINNED = {
    (
        "apache-tvm",
        "0.27.0.post1",
        "aarch64",
    ): "ba06950fac134b8d71549111fad2c6605cd6f738061fe0482f217c37ccbdff05",
    (
        "apache-tvm-ffi",
        "0.1.14.post1",
        "aarch64",
    ): "673d816bd962daddb55d8b0f8ae137e797500307951d0f721227731df0c13e24",
}

# pip takes a wheel only for a platform that it was told of by name.
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux2014")


def bucket() -> Path:
    """The directory of everything that emulation keeps."""
    return files.cache_root() / BUCKET


def directory(machine: str) -> Path:
    """Where the libraries for `machine` are kept, whether they are there or not."""
    versions = "-".join(metadata.version(library.package) for library in LIBRARIES)
    return bucket() / f"{machine}-{versions}"


def is_present(machine: str) -> bool:
    """Whether `provide` has no more work to do."""
    return all(_is_intact(library, machine) for library in LIBRARIES)


def provide(machine: str) -> Path:
    """The directory with both libraries for `machine`, fetched with pip where they are missing.

    Damaged ones are fetched again. Several processes may call this at once.

    Raises:
        TargetError: a wheel can be had neither from the index nor from `NEXUS_WHEELS`, or the
            library in it is not the one that this release knows.
    """
    place = directory(machine)
    if not is_present(machine):
        with _one_at_a_time(place):
            for library in LIBRARIES:
                # Another process may have fetched it while this one waited.
                if not _is_intact(library, machine):
                    _fetch(library, machine)
    return place


def _is_intact(library: Library, machine: str) -> bool:
    path = directory(machine) / library.name
    try:
        wanted = _pin(library, machine) or _record(path).read_text(encoding="ascii")
        return hashlib.sha256(path.read_bytes()).hexdigest() == wanted
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def _pin(library: Library, machine: str) -> str | None:
    return PINNED.get((library.package, metadata.version(library.package), machine))


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _fetch(library: Library, machine: str) -> None:
    place = directory(machine)
    with tempfile.TemporaryDirectory(dir=place, prefix="wheel-") as folder:
        wheel = _download(library.package, machine, Path(folder))
        data = _extract(wheel, library.member)
        found, wanted = hashlib.sha256(data).hexdigest(), _pin(library, machine)
        if wanted and found != wanted:
            raise TargetError(
                f"{library.name} in {wheel.name} has SHA-256 {found}, but this release of Nexus "
                f"knows {wanted}",
                hint=f"take the wheel from PyPI; {WHEELS_VARIABLE} or a pip setting may name "
                "another source",
            )
    files.write_atomically(place / library.name, data)
    # Last: a library without its record does not count.
    files.write_atomically(_record(place / library.name), found.encode())


def _extract(wheel: Path, member: str) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(member)
    except (KeyError, zipfile.BadZipFile) as error:
        raise TargetError(
            f"{wheel.name} holds no {member}: {error}", hint="take the wheel from PyPI"
        ) from error


def _download(package: str, machine: str, folder: Path) -> Path:
    wanted = f"{package}=={metadata.version(package)}"
    if importlib.util.find_spec("pip") is None:
        raise TargetError(
            f"pip is not installed, which fetches the wheel {wanted} for {machine}",
            hint=f"{sys.executable} -m ensurepip",
        )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", str(folder)]
    command += [f"--platform={platform}_{machine}" for platform in _PLATFORMS]
    if wheels := os.environ.get(WHEELS_VARIABLE):
        command += ["--no-index", "--find-links", wheels]
    done = subprocess.run([*command, wanted], capture_output=True, text=True, check=False)
    found = list(folder.glob("*.whl"))
    if done.returncode or len(found) != 1:
        lines = done.stderr.strip().splitlines()
        raise TargetError(
            f"the wheel {wanted} for {machine} cannot be fetched: {lines[-1] if lines else ''}",
            hint=f"put it into a directory and set {WHEELS_VARIABLE} to that, or mend pip's "
            f"index; on a machine with network: pip download --no-deps --only-binary=:all: "
            f"--platform {_PLATFORMS[0]}_{machine} {wanted}",
        )
    return found[0]


@contextlib.contextmanager
def _one_at_a_time(place: Path) -> Generator[None]:
    """Hold a lock that the system releases even if this process is killed."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
