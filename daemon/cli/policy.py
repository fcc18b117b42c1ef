"""`patchctl policy`: list, show, check and choose the policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...policies.errors import BadInputError, PolicyError
from . import render
from .common import Settings, json_option, pass_settings, print_body

if TYPE_CHECKING:
    from ...policies.policy import Policy


@click.group()
def policy() -> None:
    """List, show, check and choose policies: the rules that turn the device's state into allocations."""


@policy.command("list", epilog="\b\nExample:\n  patchctl policy list")
@json_option
@pass_settings
def list_(settings: Settings, as_json: bool) -> None:
    """List the presets and the policy files known. * marks the one in force."""
    with settings.client() as client:
        if as_json:
            print_body(client.request("GET", "/v1/policies"))
            return
        rows = [
            ("*" if info.in_force else "", info.name, info.source, info.description)
            for info in client.policies().policies
        ]
        click.echo(render.table(("", "name", "source", "description"), rows))


@policy.command(epilog="\b\nExamples:\n  patchctl policy show\n  patchctl policy show powersave > my-policy.toml")
@click.argument("name", required=False)
@json_option
@pass_settings
def show(settings: Settings, name: str | None, as_json: bool) -> None:
    """Print a policy. Without NAME, the one in force."""
    from urllib.parse import quote

    with settings.client() as client:
        if name is None:
            name = next((info.name for info in client.policies().policies if info.in_force), None)
            name = client.status().policy.name if name is None else name
        if as_json:
            print_body(client.request("GET", f"/v1/policies/{quote(name, safe='')}"))
            return
        click.echo(client.policy(name).toml.rstrip("\n"))


@policy.command(
    epilog="\b\nExamples:\n  patchctl policy check my-policy.toml\n  patchctl policy check my-policy.toml && echo fine"
)
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Check a policy file. Needs no daemon; a mistake is named with file, line and key."""
    checked = read_policy(file)
    click.echo(f"{file}: policy '{checked.policy.name}' is fine.")


@policy.command(
    epilog=(
        "\b\nExamples:\n"
        "  patchctl policy use powersave\n"
        "  patchctl policy use ./my-policy.toml    the daemon watches the file and takes changes at once"
    )
)
@click.argument("policy_", metavar="NAME|FILE")
@json_option
@pass_settings
def use(settings: Settings, policy_: str, as_json: bool) -> None:
    """Put a policy in force. A preset by its name, or a file by its path (with a / in it, or ending in .toml)."""
    path = Path(policy_).absolute() if is_path(policy_) else None
    if path is not None and not path.is_file():
        raise BadInputError(f"The policy file {path} does not exist.")
    with settings.client() as client:
        if as_json:
            import json

            sent = {"name": None, "path": str(path)} if path else {"name": policy_, "path": None}
            print_body(client.request("POST", "/v1/policies/use", body=json.dumps(sent).encode()))
            return
        state = client.use_policy(path=path) if path else client.use_policy(name=policy_)
        click.echo(f"Policy '{state.name}' ({state.source}) is in force.")


def is_path(text: str) -> bool:
    """Whether a NAME|FILE argument means a file."""
    return "/" in text or text.endswith(".toml")


def read_policy(file: Path) -> Policy:
    """Read and check a policy file. Raises PolicyError naming file, line and key."""
    from ...policies.policy import parse_policy

    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise PolicyError(f"{file}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise PolicyError(f"{file}: is not UTF-8 text.") from error
    return parse_policy(text, str(file))


def preset_or_file(text: str) -> Policy:
    """The policy that a NAME|FILE argument means, without the daemon. Raises NotFoundError or PolicyError."""
    from ...policies.presets_loader import load_preset

    return read_policy(Path(text)) if is_path(text) else load_preset(text)
