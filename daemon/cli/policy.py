"""`patchctl policy`: list, show, check and choose the policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...policies.errors import BadInputError
from . import render
from .common import Settings, json_option, pass_settings, print_body

if TYPE_CHECKING:
    from ...policies.policy import LoadedPolicy, Policy

EXIT_FINDINGS = 5  # as for a policy that is refused


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


@policy.command(
    epilog=(
        "\b\nExamples:\n"
        "  patchctl policy show\n"
        "  patchctl policy show powersave > my-policy.toml\n"
        "  patchctl policy show --effective                 what is in force, and from which files\n"
        "  patchctl policy show --effective ./my-policy.toml    needs no daemon"
    )
)
@click.argument("name", metavar="[NAME|FILE]", required=False)
@click.option(
    "--effective", is_flag=True, help="All files of the policy as one text, each key with the file and line it is from."
)
@json_option
@pass_settings
def show(settings: Settings, name: str | None, effective: bool, as_json: bool) -> None:
    """Print a policy. Without NAME, the one in force."""
    if name is not None and is_path(name):
        _show_file(Path(name), effective, as_json)
        return
    with settings.client() as client:
        if name is None:
            name = next((info.name for info in client.policies().policies if info.in_force), None)
            name = client.status().policy.name if name is None else name
        if as_json:
            print_body(client.raw.policy(name, effective=effective))
            return
        click.echo(client.policy(name, effective=effective).toml.rstrip("\n"))


def _show_file(file: Path, effective: bool, as_json: bool) -> None:
    """Print a file, or what it and its includes make together; what the daemon lays over it, only the daemon knows."""
    from ...policies.policy_text import effective_text
    from ..api.schemas import PolicyText
    from ..policy_files import PolicyFiles

    loaded = PolicyFiles(None).load_file(file)
    merged = loaded.merged
    toml = effective_text(merged) if effective else merged.layers[-1].text
    if as_json:
        shown = PolicyText(name=loaded.policy.policy.name, source=str(file.absolute()), in_force=False, toml=toml)
        print_body(shown.model_dump_json().encode())
        return
    click.echo(toml.rstrip("\n"))


@policy.command(
    epilog=(
        "\b\nExamples:\n"
        "  patchctl policy check my-policy.toml\n"
        "  patchctl policy check my-policy.toml --drop-ins /etc/patchd/policies.d\n"
        "  patchctl policy check my-policy.toml --strict --no-daemon    for a build: every finding fails it\n"
        "\b\nA mistake exits with 5. Findings are told and exit with 0; with --strict with 5 too."
    )
)
@click.argument("name", metavar="NAME|FILE")
@click.option(
    "--drop-ins",
    type=click.Path(path_type=Path, file_okay=False),
    help="Lay the *.toml files of this directory over it.",
)
@click.option("--no-daemon", is_flag=True, help="Ask no daemon which signals and tasks this machine has.")
@click.option("--strict", is_flag=True, help="Exit with 5 where anything is found.")
@json_option
@pass_settings
def check(settings: Settings, name: str, drop_ins: Path | None, no_daemon: bool, strict: bool, as_json: bool) -> None:
    """Check a policy with all it includes: for mistakes, and for what is hardly meant.

    A mistake is named with file, line, column and key. Found as well, with what to do: rules that never match or never
    decide anything, thresholds that interlock or have no band, and, where a daemon answers, signals and tasks that this
    machine does not have.
    """
    from ...policies.policy_checks import CheckReport, check_policy

    loaded = load(name, drop_ins)
    present, tasks, machine, why = _machine(settings, no_daemon)
    found = check_policy(loaded, present, tasks)
    report = CheckReport(policy=loaded.policy.policy.name, files=loaded.merged.files, machine=machine, findings=found)
    if as_json:
        print_body(report.model_dump_json().encode())
    else:
        for finding in found:
            click.echo(str(finding))
        count = f"{len(found)} finding{'' if len(found) == 1 else 's'}"
        click.echo(f"{name}: policy '{report.policy}' is right{f', with {count}' if found else ''}.")
        click.echo(why)
    if strict and found:
        raise SystemExit(EXIT_FINDINGS)


def _machine(
    settings: Settings, no_daemon: bool
) -> tuple[frozenset[str] | None, frozenset[str] | None, str | None, str]:
    """The signals and the tasks that a daemon has, its socket, and a sentence on whether one was asked."""
    skipped = "signals and tasks that this machine lacks were not looked for"
    if no_daemon:
        return None, None, None, f"No daemon was asked, so {skipped}."
    from ...policies.errors import PatchdError
    from ...policies.signals import signals

    try:
        with settings.client() as client:
            present = frozenset(signals(client.snapshot()))
            tasks = frozenset(task.spec.name for task in client.tasks().tasks)
            socket = client.status().socket
    except PatchdError as error:
        return None, None, None, f"{skipped[:1].upper()}{skipped[1:]}: {error}"
    return present, tasks, socket, f"Signals and tasks are those of the daemon at {socket} now."


@policy.command(
    epilog=(
        "\b\nExample:\n"
        "  patchctl policy schema > policy.schema.json    then begin a policy with #:schema ./policy.schema.json"
    )
)
def schema() -> None:
    """Print the JSON Schema of policy files, for editors that check and complete TOML. Needs no daemon."""
    import json

    from ...policies.policy_schema import policy_json_schema

    click.echo(json.dumps(policy_json_schema(), indent=2))


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


def load(text: str, drop_ins: Path | None = None) -> LoadedPolicy:
    """The policy that a NAME|FILE argument means, without the daemon. Raises NotFoundError or PolicyError."""
    from ...policies.presets_loader import preset_names
    from ..policy_files import PolicyFiles

    files, path = PolicyFiles(drop_ins), Path(text)
    if text not in preset_names() and (is_path(text) or path.exists()):
        return files.load_file(path)
    return files.load(text)


def preset_or_file(text: str) -> Policy:
    """The policy that a NAME|FILE argument means, without its files."""
    return load(text).policy
