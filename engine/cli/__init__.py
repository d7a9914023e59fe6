"""The command line: flags, output, exit codes.

Owns: `main`, which turns every mistake of a user into one line that says what to do and an exit code:
2 for what was typed (flags, settings, the form of a target), 3 for what could not be started (import,
port, certificate, lifespan). A traceback means a bug of ours.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from engine.errors import ConfigError, EngineError, StartupError

__all__ = ["main"]

EXIT_USAGE = 2
EXIT_STARTUP = 3
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; `arguments` are those of the process where None.

    Raises:
        SystemExit: always.
    """
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """`main` with the exit code as its result."""
    from engine.cli.commands import cli  # late: `--help` of a broken installation should still say what is broken

    program = "python -m engine" if Path(sys.argv[0]).name == "__main__.py" else "engine"
    try:
        code = cli.main(args=None if arguments is None else list(arguments), prog_name=program, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return EXIT_USAGE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else program
        return _say(f"{error.format_message().rstrip('.')}; see {where} --help", EXIT_USAGE)
    except click.ClickException as error:
        return _say(error.format_message(), EXIT_USAGE)
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except (EngineError, ExceptionGroup) as error:
        return _report(error)


def _report(error: Exception) -> int:
    """Say what the user can do about it; what he cannot do anything about is raised on."""
    cause: BaseException = error
    while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
        cause = cause.exceptions[0]  # a nursery's wrapping
    if isinstance(cause, ConfigError):
        return _say(str(cause), EXIT_USAGE)
    if isinstance(cause, StartupError):
        return _say(str(cause), EXIT_STARTUP)
    raise error


def _say(message: str, code: int) -> int:
    click.echo(f"engine: error: {' '.join(message.split())}", err=True)
    return code
