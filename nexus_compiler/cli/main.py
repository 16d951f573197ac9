"""The table of commands, and what becomes of their errors."""

from __future__ import annotations

import importlib
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import click

from nexus_compiler.cli import console
from nexus_runtime.errors import NexusError, UserError, nearest

# Imported when they are called: `nexusc --help` must not wait for TVM.
COMMANDS = {
    "apply": "nexus_compiler.cli.delta:apply_",
    "bench": "nexus_compiler.cli.bench:bench",
    "cache": "nexus_compiler.cli.cache:cache",
    "compile": "nexus_compiler.cli.compile:compile_",
    "conformance": "nexus_compiler.cli.conformance:conformance",
    "delta": "nexus_compiler.cli.delta:delta",
    "doctor": "nexus_compiler.cli.doctor:doctor",
    "explain": "nexus_compiler.cli.explain:explain",
    "inspect": "nexus_compiler.cli.show:inspect_",
    "run": "nexus_compiler.cli.run:run",
    "targets": "nexus_compiler.cli.targets:targets",
    "verify": "nexus_compiler.cli.verify:verify",
    "watch": "nexus_compiler.cli.watch:watch",
}

HELP = {
    "apply": "Turn an artifact into the next one by a delta.",
    "bench": "Time an artifact, in turns with a peer.",
    "cache": "Look after what was built.",
    "compile": "Compile a model to an artifact.",
    "conformance": "Hold the compiler against the tests of a standard.",
    "delta": "Write what leads from one artifact to the next.",
    "doctor": "Say what is installed and what each target still needs.",
    "explain": "Say how two builds differ, region by region.",
    "inspect": "Show what an artifact holds.",
    "run": "Run an artifact on inputs.",
    "targets": "List the targets.",
    "verify": "Hold a model or an artifact against a reference.",
    "watch": "Compile a model whenever it is saved.",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise UserError(f"there is no command '{args[0]}'", hint=nearest(args[0], COMMANDS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # Click would import every command for its first line of help.
        with formatter.section("Commands"):
            formatter.write_dl(sorted(HELP.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nexus-compiler", prog_name="nexusc")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def nexusc(debug: bool) -> None:
    """Compile machine learning models for many devices, and run them."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `nexusc` and leave with 0 (done), 1 (the user can mend it) or 2 (a fault of ours)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    warnings.showwarning = _warn
    sys.exit(_run(given))


def _run(arguments: list[str]) -> int:
    try:
        # A command may end early with a status of its own (verify does).
        status = nexusc.main(arguments, prog_name="nexusc", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.exceptions.Abort:
        console.say("interrupted")
        return 1
    except KeyboardInterrupt:
        console.say("interrupted")
        return 1
    except click.ClickException as error:
        return _report(error.format_message(), _usage_hint(error), 1, arguments)
    except NexusError as error:
        return _report(error.message, error.hint, error.exit_status, arguments)
    except Exception as error:
        hint = "this is a fault of nexusc; run `nexusc --debug …` and report what it prints"
        return _report(f"{type(error).__name__}: {error} ({_place(error)})", hint, 2, arguments)


def _place(error: Exception) -> str:
    """Where `error` was raised: what happens once in a thousand runs cannot be asked for again."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{'/'.join(Path(last.filename).parts[-3:])}:{last.lineno}, in {last.name}"


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our own warnings are talk to the user; others are about code, and name it."""
    if category.__module__.startswith("nexus_"):
        console.say(f"warning: {message}")
    else:
        console.say(warnings.formatwarning(message, category, filename, lineno, line).rstrip())


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"see `{context.command_path} --help`" if context else ""


def _report(message: str, hint: str, status: int, arguments: list[str]) -> int:
    if "--debug" in arguments:
        console.say(traceback.format_exc().rstrip())
    console.say(f"error: {message}")
    if hint:
        console.say(f"hint: {hint}")
    return status


if __name__ == "__main__":
    main()
