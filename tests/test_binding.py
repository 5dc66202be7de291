"""docs/asyncapi.yaml and docs/binding.md say what the code does: the same families, the same tokens in the same order."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mesh import subjects
from mesh.errors import Refused
from mesh.subjects import (
    PARSERS,
    Call,
    Cast,
    Dead,
    Due,
    Event,
    Flow,
    Gone,
    HandledMark,
    Health,
    Job,
    JobState,
    Mark,
    Msg,
    Note,
    Part,
    Probe,
    Record,
    Registry,
    Reply,
    Schedule,
    SchemaVersion,
    StreamFrame,
    Subjects,
)
from mesh.wire import control
from mesh.wire.entries import Health as Beat
from mesh.wire.entries import InstanceEntry

DOCS = Path(__file__).resolve().parents[1] / "docs"
API: dict[str, Any] = yaml.safe_load((DOCS / "asyncapi.yaml").read_text())
BINDING = (DOCS / "binding.md").read_text()
CHANNELS: dict[str, dict[str, Any]] = API["channels"]

MADE = {
    "call": Call("{target}", "{instance}", "{caller}", "{method}"),
    "quiet": Call("{target}", "{instance}", "{caller}", "{method}", quiet=True),
    "probe": Probe("{target}", "{instance}", "{caller}"),
    "note": Note("{target}", "{caller}", "{method}"),
    "reply": Reply("{caller}", "{target}", "{connection}", "{exchange}"),
    "hush": Reply("{caller}", "{target}", "{connection}", "{exchange}", quiet=True),
    "part": Part("{to}", "{end}", "{from}", "{caller}", "{connection}", "{exchange}"),
    "record": Record("{target}", "{caller}"),
    "msg": Msg("{target}", "{sender}", "{priority}"),
    "event": Event("{publisher}", "{priority}", "{topic}"),
    "cast": Cast("{sender}", "{priority}", "{role}"),
    "job": Job("{target}", "{caller}", "{method}"),
    "jobs": JobState("{target}", "{caller}", "{id}"),
    "stream": StreamFrame("{to}", "{end}", "{from}", "{stream}"),
    "flow": Flow("{to}", "{from}", "{stream}"),
    "mark": Mark("{to}", "{from}", "{stream}"),
    "schedule": Schedule("{sender}", "{id}"),
    "due": Due("{sender}", "{id}"),
    "handled": HandledMark("{owner}", "{batch}"),
    "schemas": SchemaVersion("{topic}", "{version}"),
    "dead": Dead("{target}", "{stream}", "{number}"),
    "health": Health("{agent}", "{instance}"),
    "registry": Registry("{agent}", "{instance}"),
    "gone": Gone("{agent}", "{connection}"),
}
"""Each family with its parameters' names in their places."""


@pytest.mark.parametrize("family", sorted(CHANNELS))
def test_an_address_is_what_the_code_builds(family: str) -> None:
    built = Subjects().build(MADE[family])  # type: ignore[arg-type]
    assert ".".join(subjects.unescape(token) for token in built.split(".")) == CHANNELS[family]["address"]


@pytest.mark.parametrize("family", sorted(CHANNELS))
def test_every_parameter_is_described(family: str) -> None:
    assert re.findall(r"{(\w+)}", CHANNELS[family]["address"]) == list(CHANNELS[family]["parameters"])


def test_no_family_is_missing() -> None:
    assert set(PARSERS) == set(CHANNELS)
    with pytest.raises(Refused):
        Subjects().parse("mesh.v1.other.a.b")


def test_every_reference_leads_somewhere() -> None:
    for channel in CHANNELS.values():
        for message in channel["messages"].values():
            assert message["$ref"].removeprefix("#/components/messages/") in API["components"]["messages"]


def test_required_fields_are_fields() -> None:
    required = {name: set(message.get("payload", {}).get("required", ())) for name, message in API["components"]["messages"].items()}
    assert required["health"] <= set(Beat.model_fields)
    assert required["entry"] <= set(InstanceEntry.model_fields)


@pytest.mark.parametrize(
    "word", [control.WORKING, control.UNKNOWN, control.CLOSED, control.EXCHANGE_HEADER, str(control.MESH_ERROR), "mesh/parts"]
)
def test_the_binding_names_what_travels(word: str) -> None:
    assert word in BINDING


def test_the_binding_names_every_family_and_every_named_method() -> None:
    for word in (*CHANNELS, *subjects.NAME_KEYS):
        assert re.search(rf"`{re.escape(word)}\b", BINDING), word
