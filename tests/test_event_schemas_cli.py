"""`mesh events schemas`, as a person runs it."""

import json
from pathlib import Path

from tests.cli_helpers import mesh
from tests.conftest import Broker

ONE = {"type": "object", "properties": {"pr": {"type": "integer"}}, "required": ["pr"], "additionalProperties": False}


async def test_a_schema_is_checked_registered_listed_shown_and_deleted(broker: Broker, plane: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    one.write_text(json.dumps(ONE))
    two.write_text(json.dumps({**ONE, "required": ["pr", "by"], "properties": {**ONE["properties"], "by": {"type": "string"}}}))  # type: ignore[dict-item]
    group = ("events", "schemas")

    async def ask(*words: object) -> object:
        said = await mesh(*group, *words, "--json", *broker.options, cwd=tmp_path)
        return said.json if said.code == 0 else said.error

    assert await ask("check", "cli.a", one) == {"topic": "cli.a", "version": 1, "fits": True}
    assert await ask("list", "cli.*") == []
    assert await ask("register", "cli.a", one) == {"topic": "cli.a", "version": 1}
    refused = await ask("register", "cli.a", two)
    assert isinstance(refused, dict)
    assert (refused["code"], refused["details"]["version"]) == ("incompatible_schema", 1)
    assert await ask("register", "cli.a", two, "--defaults", '{"by": "nobody"}') == {"topic": "cli.a", "version": 2}
    shown = await mesh(*group, "show", "cli.a", *broker.options, cwd=tmp_path)
    assert 'older events get: {"by": "nobody"}' in shown.out
    unfit = await mesh(*group, "check", "cli.a", "--data", '{"pr": "x", "by": "me"}', *broker.options, cwd=tmp_path)
    assert unfit.code == 1
    assert "at /pr" in unfit.err
    published = await mesh("publish", "cli.a", "pr=x", *broker.options, cwd=tmp_path)
    assert published.code == 1
    assert "does not fit version 2 of the schema of 'cli.a': at /" in published.err
    listed = await ask("list", "cli.*")
    assert isinstance(listed, list)
    assert [(each["topic"], each["version"], each["by"]) for each in listed] == [("cli.a", 1, "local"), ("cli.a", 2, "local")]
    assert await ask("delete", "cli.a") == {"topic": "cli.a", "deleted": 2}
    bad = await mesh(*group, "check", "cli.a", *broker.options, cwd=tmp_path)
    assert bad.code == 2
