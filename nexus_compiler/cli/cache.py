"""`nexusc cache`."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import click

from nexus_compiler.cli import console, options
from nexus_runtime import files
from nexus_runtime.errors import UserError


@click.group("cache")
def cache() -> None:
    """Look after what was built: where it is, how large, whether it is whole."""


@cache.command("dir")
@options.JSON
def dir_(as_json: bool) -> None:
    """Say where the cache is; NEXUS_CACHE moves it."""
    root = str(files.cache_root())
    console.emit({"dir": root}, root, as_json=as_json)


@cache.command()
@options.JSON
def size(as_json: bool) -> None:
    """Say how much the cache holds, and how much the store in it may hold."""
    from nexus_compiler.store import prune, upkeep

    held, limit = upkeep.usage(files.cache_root()), prune.default_limit()
    rows = [(one.name, one.files, console.size(one.bytes)) for one in held]
    total = sum(one.bytes for one in held)
    rows.append(("all", sum(one.files for one in held), console.size(total)))
    text = console.table(("what", "files", "size"), rows)
    value = {"limit": limit, "bytes": total, "held": [dataclasses.asdict(one) for one in held]}
    console.emit(value, f"{text}\nlimit of the store: {console.size(limit)}", as_json=as_json)


@cache.command("prune")
@click.option("--limit", help="What may stay: 500MB, 2GiB; by default NEXUS_CACHE_LIMIT or 10 GB.")
@options.JSON
def prune_(limit: str | None, as_json: bool) -> None:
    """Remove what was used longest ago, what lost builds left, and layouts of other releases."""
    from nexus_compiler.store import prune, upkeep

    root = files.cache_root()
    most = prune.parse_size(limit, origin="--limit") if limit else prune.default_limit()
    for path in upkeep.outdated(root):
        upkeep.remove(path)
    done = prune.prune(root, most, now=time.time())
    if done is None:
        raise UserError("another process is pruning", hint="wait for it")
    text = f"removed {done.entries} ({console.size(done.bytes)}), {console.size(done.left)} stay"
    console.emit(dataclasses.asdict(done), text, as_json=as_json)


@cache.command()
@options.JSON
def clean(as_json: bool) -> None:
    """Remove everything; it is made again when it is needed."""
    from nexus_compiler.store import upkeep

    held = upkeep.clean(files.cache_root())
    count, total = sum(one.files for one in held), sum(one.bytes for one in held)
    text = f"removed {count} files ({console.size(total)})"
    console.emit({"files": count, "bytes": total}, text, as_json=as_json)


@cache.command()
@click.option(
    "--rebuild",
    "sample",
    default=10,
    show_default=True,
    type=click.IntRange(min=0),
    help="Build so many objects again and compare the bytes.",
)
@click.option("--seed", default=0, show_default=True, help="Which ones follows from it.")
@options.JSON
def verify(sample: int, seed: int, as_json: bool) -> int:
    """Check the hash of every entry, and build a sample of them again.

    What is wrong is removed, to be built anew; the exit status is then 1.
    """
    from nexus_compiler.store import upkeep
    from nexus_compiler.store.door import BUCKETS
    from nexus_compiler.store.local import LocalStore

    store = LocalStore()
    checked = {bucket: list(upkeep.damaged(store, bucket)) for bucket in BUCKETS}
    rebuilt: dict[str, Any] = {"equal": [], "differing": [], "left_out": {}}
    if sample:
        from nexus_compiler.verify import stored

        found = stored.rebuild(store, sample, seed=seed)
        stored.discard(store, found.differing)
        rebuilt = dataclasses.asdict(found)
    value = {
        "entries": {name: len(found) for name, found in checked.items()},
        "damaged": {name: [d for d, bad in found if bad] for name, found in checked.items()},
        "rebuilt": rebuilt,
    }
    console.emit(value, _verified(value), as_json=as_json)
    return 1 if rebuilt["differing"] or any(value["damaged"].values()) else 0


def _verified(value: dict[str, Any]) -> str:
    rebuilt, lines = value["rebuilt"], list[str]()
    for name, count in value["entries"].items():
        bad = len(value["damaged"][name])
        lines.append(f"{name}: {count - bad} whole" + (f", {bad} DAMAGED, removed" if bad else ""))
    if differing := len(rebuilt["differing"]):
        lines.append(f"built again: {differing} objects DIFFER, removed")
    lines.append(f"built again: {len(rebuilt['equal'])} equal")
    lines += [f"not built again: {n} ({why})" for why, n in sorted(rebuilt["left_out"].items())]
    return "\n".join(lines)


@cache.group()
def key() -> None:
    """Keys that sign and trust what a shared store holds."""


@key.command()
@click.argument("name", type=click.Path(path_type=Path))
@options.JSON
def new(name: Path, as_json: bool) -> None:
    """Make a pair: NAME.key signs (keep it to yourself), NAME.pub is what others trust."""
    from nexus_compiler.store import signing

    private, public, called = signing.new_pair(name)
    text = f"{private}: signs, for you alone\n{public}: for those who shall trust you\nkey {called}"
    value = {"private": str(private), "public": str(public), "key": called}
    console.emit(value, text, as_json=as_json)
