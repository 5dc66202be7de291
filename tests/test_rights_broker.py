"""mesh.policy.rights against the broker's own word: what it refuses is what the permissions do not cover."""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from mesh.link.server_program import find_binary
from mesh.policy.rights import Permissions, Policy, Role, compile_scope, expand, memberships_of, parse_rule
from mesh.subjects import Subjects

SUBJECTS = Subjects()


@asynccontextmanager
async def server(directory: Path, users: dict[str, Permissions]) -> AsyncIterator[int]:
    """A nats-server that holds these users to these permissions. Yields its port."""
    said = {
        "listen": "127.0.0.1:-1",
        "authorization": {
            "users": [
                {"user": name, "password": "p", "permissions": {"publish": list(rights.publish), "subscribe": list(rights.subscribe)}}
                for name, rights in users.items()
            ]
        },
    }
    conf = directory / "server.conf"
    conf.write_text(json.dumps(said))
    process = await asyncio.create_subprocess_exec(str(find_binary()), "-c", str(conf), stderr=asyncio.subprocess.PIPE)
    try:
        assert process.stderr is not None
        async with asyncio.timeout(10):
            while (found := re.search(rb"client connections on 127.0.0.1:(\d+)", line := await process.stderr.readline())) is None:
                assert line, "the server ended"
        reading = asyncio.create_task(process.stderr.read())  # it says each refusal, and stops when nobody reads that
        yield int(found.group(1))
    finally:
        process.terminate()
        await process.wait()
    await reading


async def refused(port: int, user: str, lines: list[str]) -> set[str]:
    """Which of these subjects of PUB or SUB lines the server refuses."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(20):
            hello = json.dumps({"user": user, "pass": "p", "verbose": False, "pedantic": False})
            writer.write(f"CONNECT {hello}\r\n{''.join(lines)}PING\r\n".encode())
            found: set[str] = set()
            while (line := (await reader.readline()).decode()) != "PONG\r\n":
                assert line, "the server closed the connection"
                if line.startswith("-ERR"):
                    match = re.search(r'Permissions Violation for (?:Publish|Subscription) to "([^"]*)"', line)
                    assert match, line
                    found.add(match.group(1))
            return found
    finally:
        writer.close()
        await writer.wait_closed()


def some_subjects(chance: random.Random, known: Iterable[str], count: int) -> list[str]:
    """Entries themselves, with wildcards filled in or not, and with a token more, less or other."""
    pool = ["me", "time", "git", "mesh", "any", "i1", "*", "r", "now", "tools", "call", "_x2A_"]
    entries, found = sorted(known), set[str]()
    while len(found) < count:
        tokens = chance.choice(entries).split(".")
        tokens = [chance.choice(pool) if token in "*>" and chance.random() < 0.8 else token for token in tokens]
        where = chance.randrange(len(tokens))
        match chance.randrange(6):
            case 0:
                tokens[where] = chance.choice(pool)
            case 1:
                tokens.insert(where, chance.choice(pool))
            case 2 if len(tokens) > 1:
                del tokens[where]
            case 3:
                tokens = [*tokens[: where + 1], ">"]
        if ">" not in tokens[:-1]:
            found.add(".".join(tokens))
    return sorted(found)


async def test_the_broker_agrees(tmp_path: Path) -> None:
    policy = Policy.of([Role("r", tuple(map(parse_rule, ("time/now", "git", "*/ping", "notes/resource:*", ">/a.b >"))))])
    scopes = {"me": ["agent", "r"], "*": ["agent", "host"], "op": ["operator"], "mesh": ["plane"], "see": ["auditor"]}
    users = {name: expand(compile_scope(policy, roles, SUBJECTS), name, memberships_of(roles)) for name, roles in scopes.items()}
    every = {entry for rights in users.values() for entry in (*rights.publish, *rights.subscribe)}
    chance = random.Random(4)
    async with server(tmp_path, users) as port:
        for name, rights in users.items():
            asked = some_subjects(chance, every, 300)
            publish = await refused(port, name, [f"PUB {subject} 0\r\n\r\n" for subject in asked])
            assert publish == {subject for subject in asked if not rights.may_publish(subject)}
            subscribe = await refused(port, name, [f"SUB {subject} {sid}\r\n" for sid, subject in enumerate(asked, 1)])
            assert subscribe == {subject for subject in asked if not rights.may_subscribe(subject)}
            assert 0 < len(publish) < len(asked)
            assert 0 < len(subscribe) < len(asked)
