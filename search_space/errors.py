"""The one error that a person's input can cause, and how every command of the house prints and fails."""

from __future__ import annotations

import difflib
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from rich.console import Console


class UserError(ValueError):
    """Input that breaks a rule: the message names the rule, the value and the fix, and is shown without a traceback."""


class Parser(ArgumentParser):
    """A command's options. None may be abbreviated, for `--trial` would be taken for `--trials`; an error is one line, as a `UserError`'s."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        """End with 2: the message, the option that an unknown one is most like, and where all are listed."""
        words = message.partition("unrecognized arguments: ")[2].split()
        options = [name for action in self._actions for name in action.option_strings]
        hint = meant(words[0].partition("=")[0], options) if words and words[0].startswith("-") else ""
        self.exit(2, f"error: {message}; {hint}{self.prog} --help lists all options\n")


def unknown(kind: str, value: object, known: Iterable[object], besides: str = "") -> UserError:
    """The error for a name that is not in a list: quotes the value, the known name that is most like it, every known name, and what may stand `besides`."""
    names = sorted(map(str, known))
    return UserError(
        f"unknown {kind} {value!r}; {meant(value, names)}known: {names}{f', or {besides}' if besides else ''}"
    )


def meant(value: object, known: Iterable[object]) -> str:
    """The question whether the known name most like the value was meant, with a space behind it; empty where none is like it."""
    by_small = {str(name).lower(): str(name) for name in known}
    near = difflib.get_close_matches(str(value).lower(), by_small, n=1)
    return f"did you mean {by_small[near[0]]!r}? " if near else ""


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
