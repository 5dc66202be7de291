"""What the broker can be made to write, and where: it answers to the reply subject that a request names, whoever owns that subject.

Each of these publishes only what its sender may. Source: the facts of the broker; docs/security.md.
"""

import json
import secrets
from typing import Any

import pytest

from mesh.wire.jsonrpc import dumps
from tests.attacks.world import AGENT, HOST, SUBJECTS, Attacker


async def by_a_put(attacker: Attacker, subject: str) -> None:
    """JetStream's word that a key was stored."""
    await attacker.publish(f"$KV.health.{attacker.name}.x", b"{}", subject)


async def by_a_question(attacker: Attacker, subject: str) -> None:
    """What the broker says of a user's rights."""
    await attacker.publish("$SYS.REQ.USER.INFO", b"", subject)


async def by_an_empty_pull(attacker: Attacker, subject: str) -> None:
    """The status "no more messages", which has no body."""
    pull = f"$JS.API.CONSUMER.MSG.NEXT.KV_registry.{await reader_of(attacker)}"
    await attacker.publish(pull, b'{"batch":10000,"no_wait":true}', subject)


async def by_a_look_at_a_reader(attacker: Attacker, subject: str) -> None:
    await attacker.publish(f"$JS.API.CONSUMER.INFO.KV_registry.{await reader_of(attacker)}", b"", subject)


async def reader_of(attacker: Attacker, bucket: str = "registry") -> str:
    """A reader that the control plane makes for whoever may have one."""
    token = secrets.token_hex(4)
    prefix = SUBJECTS.reply_prefix(attacker.name, "mesh", token, quiet=True)
    await attacker.subscribe(f"mesh.v1.hush.{attacker.name}.mesh.{token}.*")
    attacker.readers += 1
    id = f"{attacker.name}.{token}.q{attacker.readers}"
    body = dumps({"jsonrpc": "2.0", "id": id, "method": "mesh/reader", "params": {"bucket": bucket}})
    await attacker.publish(SUBJECTS.call("mesh", "any", attacker.name, "mesh/reader", quiet=True), body, f"{prefix}q{attacker.readers}")

    def answers() -> list[dict[str, Any]]:
        said = [json.loads(each.data) for each in attacker.heard if each.subject == f"{prefix}q{attacker.readers}"]
        return [each["result"] for each in said if "result" in each]

    await attacker.signals.until(answers)
    return str(answers()[0]["consumer"])


WRITES = pytest.mark.parametrize(
    ("evil", "write"),
    [(AGENT, by_a_put), (AGENT, by_a_question), (HOST, by_an_empty_pull), (HOST, by_a_look_at_a_reader)],
    ids=lambda each: each if isinstance(each, str) else each.__name__,
)
