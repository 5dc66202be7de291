"""NATS micro discovery: the ordinary `nats service ls` sees the agents. (Who may be made to answer through it: tests/test_forged.py.)"""

import asyncio
import json
from typing import Any

from mesh import Mesh
from mesh.link.connection import Message
from tests.helpers import (
    Recorder,
    Signals,
    live,
    serving,
    watching,
)


async def test_micro_discovery_sees_the_agents(plane: str) -> None:
    entry: dict[str, Any] = {"version": "2.0.1", "description": "It looks."}
    async with (
        asyncio.timeout(15),
        serving(plane, "micro.one", Recorder(), Recorder(), entry=entry),
        Mesh(name="operator", broker=plane) as mesh,
    ):
        async with watching(mesh) as (directory, signals):
            await signals.until(lambda: len(live(directory, "micro.one")) == 2)
        inbox, got, heard = mesh.connection.new_inbox(), [], Signals()

        def hear(message: Message) -> None:
            if message.body:
                got.append(json.loads(message.body))
            heard.tell()

        await mesh.connection.subscribe(inbox, hear)

        async def ask(subject: str, count: int) -> list[dict[str, Any]]:
            got.clear()
            await mesh.connection.publish(subject, b"", reply=inbox)
            await heard.until(lambda: len(got) >= count)
            return list(got)

        name = "micro_x2E_one"
        answers: list[dict[str, Any]] = []
        for verb in ("PING", "INFO", "STATS"):
            answers = [each for each in await ask(f"$SRV.{verb}.{name}", 2) if each["name"] == name]
            assert len({each["id"] for each in answers}) == 2
            assert {each["type"] for each in answers} == {f"io.nats.micro.v1.{verb.lower()}_response"}
            assert {each["version"] for each in answers} == {"2.0.1"}
        [one] = await ask(f"$SRV.INFO.{name}.{answers[0]['id']}", 1)
        assert one["description"] == "It looks."
        assert one["endpoints"][0]["subject"].startswith("mesh.v1.call.micro_x2E_one.any")
        assert {each["name"] for each in await ask("$SRV.PING", 3)} >= {name, "mesh"}
