"""The one error that a person's input can cause, and how every command of the house prints and fails."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class UserError(ValueError):
    """Input that breaks a rule: the message names the rule, the value and the fix, and is shown without a traceback."""


def unknown(kind: str, value: object, known: Iterable[object]) -> UserError:
    """The error for a name that is not in a list: quotes the value and every known name."""
    return UserError(f"unknown {kind} {value!r}; known: {sorted(map(str, known))}")


def open_console(stderr: bool = False) -> Console:
    """Where a command prints for people: as wide as the terminal, or 120 columns of plain lines into a file or pipe.

    Text is printed as it is: names and paths may hold what rich takes for markup. Who wants markup says so at the print, and escapes names.
    """
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, markup=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, markup=False, width=120)


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command and exit: 0 when it went well, 2 with one plain message on a `UserError` or a disk that fails, 130 on Ctrl-C."""
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror or error}{place}; what was finished before is kept", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
