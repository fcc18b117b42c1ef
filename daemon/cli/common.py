"""What every command of `patchctl` shares: the client, exit codes, error reporting, option types, lazy commands."""

from __future__ import annotations

import importlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, overload

import click

from ...client import Client
from ...policies.errors import (
    BadInputError,
    BusyError,
    ConflictError,
    DeadlineError,
    ForbiddenError,
    NotFoundError,
    PatchdError,
    TooLargeError,
    UnavailableError,
    WorkerCrashedError,
)

if TYPE_CHECKING:
    from pydantic import ValidationError

EXIT_CODES: Mapping[int, str] = {
    0: "ok",
    1: "another error, a prediction that was not the expected one, or a failure that `doctor` found",
    2: "the command line is wrong",
    3: "patchd is not reachable, is stopping, or lacks what the request needs",
    4: "the named task, patch, job, policy or decision does not exist",
    5: "refused: bad input, a bad policy file, or a contradiction to the present state",
    6: "busy, or a worker died: try again later",
    7: "forbidden to this user",
    130: "interrupted with Ctrl-C",
}

_EXIT_OF_ERROR: tuple[tuple[type[PatchdError], int], ...] = (
    (UnavailableError, 3),
    (NotFoundError, 4),
    (BadInputError, 5),
    (TooLargeError, 5),
    (ConflictError, 5),
    (BusyError, 6),
    (DeadlineError, 6),
    (WorkerCrashedError, 6),
    (ForbiddenError, 7),
)

Function = TypeVar("Function", bound=Callable[..., Any])


def exit_code(error: PatchdError) -> int:
    """The exit code that an error ends `patchctl` with."""
    return next((code for kind, code in _EXIT_OF_ERROR if isinstance(error, kind)), 1)


def report(error: PatchdError) -> int:
    """Print an error as one line on stderr; its exit code is returned."""
    retry = "" if error.retry_after_s is None else f" Try again in {error.retry_after_s:.3g} s."
    click.echo(f"patchctl: {error}{retry}", err=True)
    return exit_code(error)


@dataclass(frozen=True)
class Settings:
    """The options given before the command's name."""

    socket: Path | None

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client of the daemon, closed at the end; errors are told at once, trying again is for the caller."""
        with Client(self.socket, retries=0) as client:
            yield client


pass_settings = click.make_pass_decorator(Settings)


def json_option(function: Function) -> Function:
    """Add `--json`: the body of the API's answer, unchanged."""
    return click.option("as_json", "--json", is_flag=True, help="Print the API's answer as it came.")(function)


def print_body(body: bytes) -> None:
    """Print an answer's body unchanged, as one line."""
    click.echo(body.rstrip(b"\n"))


class PatchctlGroup(click.Group):
    """The top group: commands are imported when they are used, and every error becomes one line and an exit code."""

    def __init__(self, *args: Any, lazy: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click calls it with the context)
        """All names, in the order of their declaration."""
        return [*self._lazy, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported from `module:attribute` at the first use."""
        if cmd_name in self._lazy:
            module, attribute = self._lazy[cmd_name].split(":")
            command = getattr(importlib.import_module(f"{__package__}.{module}"), attribute)
            assert isinstance(command, click.Command)
            return command
        return super().get_command(ctx, cmd_name)

    @overload
    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: Literal[True] = True,
        **extra: Any,
    ) -> NoReturn: ...

    @overload
    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = ...,
        **extra: Any,
    ) -> Any: ...

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: ARG002 (click's signature)
        **extra: Any,
    ) -> Any:
        """Run, and end the process with the documented exit code."""
        color = False if os.environ.get("NO_COLOR") else None
        try:
            result = super().main(args, prog_name, complete_var, standalone_mode=False, color=color, **extra)
            sys.exit(result if isinstance(result, int) else 0)
        except PatchdError as error:
            sys.exit(report(error))
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(2)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "patchctl"
            message = error.format_message()
            click.echo(f"patchctl: {_sentence(message)} See '{command} --help'.", err=True)
            sys.exit(2)
        except click.ClickException as error:
            click.echo(f"patchctl: {_sentence(error.format_message())}", err=True)
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            click.echo("patchctl: interrupted.", err=True)
            sys.exit(130)
        except BrokenPipeError:
            # The reader of our output (head, less) has gone; Python would complain while flushing at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)


def refusal(error: ValidationError) -> BadInputError:
    """The first complaint of pydantic about what was asked, as one sentence; one of our own checks is a sentence."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    return BadInputError(f"{where}: {message}." if where else f"{message}.")


def _sentence(message: str) -> str:
    text = message.strip().replace("\n", " ")
    return text if text.endswith((".", "?", "!")) else text + "."


class Sides(click.ParamType[tuple[int, ...]]):
    """A comma-separated list of input sides in pixels."""

    name = "px,px,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parse; each side has to be a multiple of 4 between 32 and 512."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",") if part.strip()]
        if not all(part.isdecimal() for part in parts) or not parts:
            self.fail(f"'{value}' is no comma-separated list of whole numbers, such as 128,96,64", param, ctx)
        sides = tuple(int(part) for part in parts)
        for side in sides:
            check_side(side, self, param, ctx)
        return sides


class Side(click.ParamType[int]):
    """One input side in pixels."""

    name = "px"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse; a multiple of 4 between 32 and 512."""
        text = str(value)
        if not text.isdecimal():
            self.fail(f"'{value}' is no whole number", param, ctx)
        check_side(int(text), self, param, ctx)
        return int(text)


def check_side(side: int, kind: click.ParamType[Any], param: click.Parameter | None, ctx: click.Context | None) -> None:
    """Refuse a side that no rung can have."""
    if not 32 <= side <= 512 or side % 4:
        kind.fail(f"{side} px is no multiple of 4 between 32 and 512", param, ctx)


class BaseSides(click.ParamType[tuple[str, tuple[int, ...]]]):
    """A base and sides of its input in pixels."""

    name = "base:px,px,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        """Parse; the sides are as those of `Sides`."""
        if isinstance(value, tuple):
            return value
        base, colon, sides = str(value).partition(":")
        if not base or not colon:
            self.fail(f"'{value}' is not of the form BASE:PX,PX, such as lite2:260,224", param, ctx)
        return base, Sides().convert(sides, param, ctx)


class Words(click.ParamType[tuple[str, ...]]):
    """A comma-separated list of words, each one of `allowed`."""

    name = "word,word,..."

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = tuple(allowed)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Parse and compare with the allowed words."""
        if isinstance(value, tuple):
            return value
        words = tuple(part.strip() for part in str(value).split(",") if part.strip())
        for word in words:
            if word not in self._allowed:
                self.fail(f"'{word}' is not one of {', '.join(self._allowed)}", param, ctx)
        if not words:
            self.fail("at least one of " + ", ".join(self._allowed) + " is needed", param, ctx)
        return words


class Moment(click.ParamType[float]):
    """A moment: Unix seconds, an ISO date and time, a local HH:MM[:SS] of today, or how long ago (-90s, -5m, -2h)."""

    name = "time"
    _AGO = re.compile(r"-(\d+(?:\.\d+)?)([smhd])")
    _SECONDS: Mapping[str, float] = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Unix time in seconds."""
        text = str(value).strip()
        try:
            if ago := self._AGO.fullmatch(text):
                return time.time() - float(ago[1]) * self._SECONDS[ago[2]]
            if re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", text):
                today = datetime.now().astimezone()
                hour, minute, *second = (int(part) for part in text.split(":"))
                return today.replace(
                    hour=hour, minute=minute, second=second[0] if second else 0, microsecond=0
                ).timestamp()
            if re.fullmatch(r"\d+(\.\d+)?", text):
                return float(text)
            return datetime.fromisoformat(text).astimezone().timestamp()
        except ValueError:
            self.fail(
                f"'{value}' is no time; write Unix seconds, 2026-01-31T14:05, 14:05 or, for five minutes ago, -5m",
                param,
                ctx,
            )
