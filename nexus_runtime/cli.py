"""`nexus-agent`: what runs where the compiler is absent."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import click

from nexus_runtime.errors import NexusError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show Python's traceback of an error.")
def agent(debug: bool) -> None:
    """Let this machine's devices work for a Nexus scheduler."""


@agent.command()
@click.option("--scheduler", required=True, metavar="HOST:PORT", help="Where the scheduler is.")
@click.option(
    "--credentials",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory with ca.pem, cert.pem and key.pem, made by the scheduler.",
)
@click.option("--pool", required=True, help="The pool that this device belongs to.")
@click.option("--name", help="The worker's name.  [default: the name in cert.pem]")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
@click.option("--memory-limit-samples", type=click.IntRange(1), help="Rows that fit at once.")
def join(
    scheduler: str,
    credentials: Path,
    pool: str,
    name: str | None,
    threads: int,
    memory_limit_samples: int | None,
) -> None:
    """Work for a scheduler until its job is over."""
    from nexus_runtime.scheduler.security import Credentials
    from nexus_runtime.scheduler.worker import Worker, WorkerOptions

    own = Credentials.read(credentials)
    options = WorkerOptions(
        scheduler=scheduler,
        credentials=own,
        pool=pool,
        name=name or own.name,
        threads=threads,
        memory_limit_samples=memory_limit_samples,
    )
    Worker(options).run()


@agent.command()
def doctor() -> None:
    """Say what this machine is, and what runs the kernels, and why."""
    from nexus_runtime import files, host, threads
    from nexus_runtime.executors import line
    from nexus_runtime.executors.tvm_library import runtime_library

    click.echo(f"machine  {host.machine()}")
    click.echo(f"cache    {files.cache_root()}")
    click.echo(f"threads  {threads.describe()}")
    click.echo(f"calls    {line.describe()}")
    click.echo(f"runtime  {runtime_library()}")


@agent.command("apply")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("delta", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
def apply_(old: Path, delta: Path, output: Path) -> None:
    """Make of the artifact OLD the next one, with the DELTA of `nexusc delta`; OLD may be -o."""
    from nexus_runtime.delta import apply

    click.echo(apply(old, delta, output))


@agent.group()
def store() -> None:
    """Share what a team has built, and let one machine build what several ask for."""


@store.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--host", "hosts", multiple=True, help="A name by which clients dial the service.")
@click.option("--client", "clients", multiple=True, required=True, help="Who may use it.")
def init(directory: Path, hosts: tuple[str, ...], clients: tuple[str, ...]) -> None:
    """Make certificates: DIRECTORY/service, and DIRECTORY/NAME for each client to take along.

    They are good for 30 days; who makes them anew gives every client a new one.
    """
    from nexus_runtime.scheduler.store_server import issue

    if "service" in clients:
        raise click.ClickException("a client cannot be called 'service'")
    issue(directory, list(hosts), list(clients))
    for name in ("service", *clients):
        click.echo(str(directory / name))


@store.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--credentials",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="What `nexus-agent store init` made for the service.",
)
@click.option("--listen", default="0.0.0.0:7045", show_default=True, metavar="HOST:PORT")
@click.option("--limit", default=100.0, show_default=True, help="What it may hold, in GB.")
def serve(directory: Path, credentials: Path, listen: str, limit: float) -> None:
    """Serve the entries in DIRECTORY until interrupted."""
    from nexus_runtime.scheduler.security import Credentials
    from nexus_runtime.scheduler.store_server import StoreServer

    own = Credentials.read(credentials)
    server = StoreServer(directory, own, listen=listen, limit=int(limit * 1e9))
    port = server.start()
    click.echo(f"nexus://{listen.rpartition(':')[0]}:{port}")
    try:
        server.wait()
    finally:
        server.close()


def main(arguments: list[str] | None = None) -> int:
    """Run `nexus-agent`; returns 0, 1 (the user can mend it) or 2 (a fault of ours)."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        agent.main(words, prog_name="nexus-agent", standalone_mode=False)
    except click.ClickException as error:
        return _complain(error.format_message(), "see `nexus-agent --help`", 1)
    except (click.Abort, KeyboardInterrupt):
        return _complain("interrupted", "", 1)
    except Exception as error:
        if "--debug" in words:
            traceback.print_exc()
        if isinstance(error, NexusError):
            return _complain(error.message, error.hint, error.exit_status)
        return _complain(f"{type(error).__name__}: {error}", "report this; --debug shows where", 2)
    return 0


def _complain(message: str, hint: str, status: int) -> int:
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
