"""`mesh auth explain | diff | apply`: who may do what and why, and what another policy changes."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli import options
from mesh.cli.running import execute, joined

if TYPE_CHECKING:
    from mesh.identity.authority import Authority
    from mesh.identity.preview import Preview
    from mesh.policy.rights import Policy, ScopeChange, Verdict

PolicyFile = Annotated[
    Path | None, typer.Argument(metavar="[FILE]", help="A policy, or a mesh.toml. [default: auth/policy.toml in the state directory]")
]


def explain(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Whose rights.")],
    action: Annotated[
        list[str],
        typer.Argument(
            metavar="ACTION...",
            help="call AGENT, call AGENT/TOOL, call AGENT/prompt:NAME, call AGENT/resource:URI, call AGENT/stream:TYPE, "
            "submit AGENT/TOOL, send NAME, publish TOPIC, subscribe TOPIC, answer NAME, see AGENT, read journal|registry|health, "
            "change topology; of NATS itself: nats pub SUBJECT, nats sub SUBJECT",
        ),
    ],
    roles: Annotated[list[str] | None, typer.Option("--role", help="As if it had these roles. [default: those it was issued]")] = None,
    file: Annotated[Path | None, typer.Option("--policy", metavar="FILE", help="By this policy. [default: the one in force]")] = None,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    as_json: options.Json = False,
) -> None:
    """Say whether an agent may do something, and which role and rule allow it. Exits with 1 if it may not."""

    async def work() -> int:
        from mesh.cli import render
        from mesh.cli.telling import authority_of
        from mesh.identity.scopes import members_of
        from mesh.policy.rights import explain as explain_rights

        authority = authority_of(state_dir)
        policy = authority.policy if file is None else await _read(file, state_dir, broker, as_json)
        held = tuple(roles) if roles else authority.user(agent).roles
        known = authority.ledger.load()
        verdict = explain_rights(policy, agent, held, " ".join(action), subjects=authority.subjects, members=members_of(known))
        if as_json:
            render.print_json(verdict_dict(agent, " ".join(action), held, verdict))
        else:
            for line in _lines(verdict):
                render.print_text(line)
        return 0 if verdict.allowed else 1

    execute(work, as_json=as_json)


def diff(
    file: PolicyFile = None,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    as_json: options.Json = False,
) -> None:
    """Show what `apply` would add and take away, for whom, and how large the account becomes. Changes nothing."""

    async def work() -> int:
        from mesh.cli.telling import authority_of
        from mesh.identity.preview import preview

        authority = authority_of(state_dir)
        found = preview(authority, await _read(file or _default(authority), state_dir, broker, as_json))
        _print(found, as_json=as_json)
        return 0 if found.fits else 1

    execute(work, as_json=as_json)


def apply(
    file: PolicyFile = None,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    as_json: options.Json = False,
) -> None:
    """Let a policy count, here and at the running broker. Whose rights change reconnects by itself; no call is lost."""

    async def work() -> None:
        from mesh.cli.telling import authority_of, tell
        from mesh.identity.preview import preview

        authority = authority_of(state_dir)
        policy = await _read(file or _default(authority), state_dir, broker, as_json)
        found = preview(authority, policy)
        authority.apply_policy(policy)
        _print(found, as_json=as_json, told=await tell(authority, state_dir, broker, quiet=as_json))

    execute(work, as_json=as_json)


def verdict_dict(agent: str, action: str, roles: tuple[str, ...], verdict: "Verdict") -> dict[str, Any]:
    """One verdict for `--json`."""
    return {
        "agent": agent,
        "roles": list(roles),
        "action": action,
        "allowed": verdict.allowed,
        "role": verdict.role,
        "rule": verdict.rule,
        "subject": verdict.subject,
        "allowed_by": verdict.allowed_by,
        "why": verdict.why,
        "would_allow": list(verdict.roles),
    }


def preview_dict(found: "Preview") -> dict[str, Any]:
    """What a policy would change, for `--json`."""
    return {
        "roles": list(found.roles),
        "scopes": [
            {
                "scope": change.scope,
                "users": list(change.users),
                "publish": {"added": list(change.publish_added), "removed": list(change.publish_removed)},
                "subscribe": {"added": list(change.subscribe_added), "removed": list(change.subscribe_removed)},
            }
            for change in found.changes
        ],
        "renewed": list(found.renewed),
        "account_bytes": {"before": found.size_before, "after": found.size_after},
        "fits": found.fits,
    }


def add_to(group: typer.Typer) -> None:
    """`group` is `mesh auth`."""
    group.command("explain", epilog="Example: mesh auth explain qa-manager call git/git_log")(explain)
    group.command("diff", epilog="Example: mesh auth diff policy.toml")(diff)
    group.command("apply", epilog="Example: mesh auth apply policy.toml")(apply)


def _default(authority: "Authority") -> Path:
    from mesh.identity.policy_file import POLICY_FILE

    return authority.keyring.path / POLICY_FILE


async def _read(file: Path, state_dir: Path | None, broker: str | None, quiet: bool) -> "Policy":
    """The policy of a file. Its patterns stand for the tools that agents of the running mesh have; where none runs they are refused."""
    from mesh import admin
    from mesh.errors import BrokerUnavailable, ConfigError
    from mesh.identity.policy_file import read_policy

    policy = read_policy(file)
    if not policy.patterns:
        return policy
    tools: dict[str, list[str]] = {}
    try:
        async with joined(state_dir, broker, quiet=quiet) as mesh, mesh.directory() as directory:
            for tool in admin.tools(directory):
                tools.setdefault(tool.agent, []).append(tool.name)
    except BrokerUnavailable as error:
        role, rule = policy.patterns[0]
        raise ConfigError(
            f"{file}: role {role.name!r}: the rule {str(rule)!r} stands for tools that are known, and no mesh runs: {error.message}",
            hint="start the mesh first, or write the names of the tools",
        ) from None
    return policy.resolve(tools)


def _lines(verdict: "Verdict") -> list[str]:
    lines = [f"{'allowed' if verdict.allowed else 'denied'}: {verdict.why}", f"subject: {verdict.subject}"]
    return [*lines, f"allowed by: {verdict.allowed_by}"] if verdict.allowed else lines


def _print(found: "Preview", *, as_json: bool, told: Mapping[str, Any] | None = None) -> None:
    """`told`: what `mesh.cli.telling.tell` returned; None where nothing was applied."""
    from mesh.cli import render

    if as_json:
        render.print_json(preview_dict(found) | dict(told or {}))
        return
    render.print_text(f"roles that differ: {', '.join(found.roles) or 'none'}")
    for change in found.changes:
        render.print_text(f"{change.scope} ({', '.join(change.users)})")
        for line in _entries(change):
            render.print_text(f"  {line}")
    if not found.changes:
        render.print_text("nobody's rights change")
    if found.renewed:
        render.print_text(f"new credentials: {', '.join(found.renewed)}")
    render.print_text(f"account: {found.size_before} → {found.size_after} bytes{'' if found.fits else ', which is too large for a broker'}")
    if told is not None and "note" in told:
        render.print_text(told["note"], stderr=True)


def _entries(change: "ScopeChange") -> list[str]:
    parts = (
        ("+ publish", change.publish_added),
        ("- publish", change.publish_removed),
        ("+ subscribe", change.subscribe_added),
        ("- subscribe", change.subscribe_removed),
    )
    return [f"{what} {subject}" for what, subjects in parts for subject in subjects]
