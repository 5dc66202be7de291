"""mesh.identity.policy_file: what is written is what counts, and what is wrong is said with its place and what to write instead."""

from pathlib import Path

import pytest

from bridge.config import read_file
from mesh.errors import ConfigError
from mesh.identity.policy_file import read_policy
from mesh.policy.rights import READY_MADE, Power, Rule, parse_rule

POLICY = """
[roles.reviewer]
about = "reads and comments"
call = ["time/now", "git", "notes/prompt:weekly"]
send = ["qa"]
publish = ["review.*", "*"]
subscribe = ["agent.health"]
extends = ["reader"]

[roles.reader]
call = ["time/now", "docs/resource:*"]
extends = ["auditor"]

[roles.librarian]
"""


def rules(*texts: str) -> tuple[Rule, ...]:
    return tuple(map(parse_rule, texts))


def written(tmp_path: Path, text: str, name: str = "policy.toml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_policy_is_read(tmp_path: Path) -> None:
    policy = read_policy(written(tmp_path, POLICY))
    assert set(policy.roles) == {"reviewer", "reader", "librarian", *(role.name for role in READY_MADE)}
    reviewer = policy.roles["reviewer"]
    assert reviewer.call == rules("time/now", "docs/resource:*", "git", "notes/prompt:weekly")
    assert reviewer.powers == {Power.BROWSE, Power.JOURNAL}
    assert reviewer.about == "reads and comments"
    assert (reviewer.send, reviewer.publish, reviewer.subscribe) == (("qa",), ("review.*", None), ("agent.health",))
    assert policy.roles["librarian"].call == ()


def test_the_roles_of_a_mesh_file_are_read_the_same(tmp_path: Path) -> None:
    path = written(tmp_path, POLICY + '[agents.time]\ncommand = "mcp-server-time"\nroles = ["librarian"]\n', "mesh.toml")
    assert {role.name: role for role in read_file(path).roles} == {role.name: role for role in read_policy(path).own}
    assert len(read_file(path).agents) == 1


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("[roles.reviewer]\ncall = ['ti*/now']", "role 'reviewer': the rule 'ti*/now'", "write each agent by itself"),
        ("[roles.reviewer]\ncall = ['time/']", "role 'reviewer': the rule 'time/' names no tool", "write time/TOOL"),
        ("[roles.reviewer]\ncall = 'time'", "role 'reviewer': call is a list", 'write call = ["time"]'),
        ("[roles.reviewer]\ncalls = ['time']", "role 'reviewer': a role has no 'calls'", "did you mean 'call'?"),
        ("[roles.reviewer]\nextends = ['hots']", "role 'reviewer': it extends 'hots', which is no role", "did you mean 'host'?"),
        ("[roles.reviewer]\nextends = ['plane']", "role 'reviewer': the role 'plane' cannot be extended", "control plane"),
        ("[roles.a]\nextends = ['b']\n[roles.b]\nextends = ['a']", "it extends itself, by a → b → a", "leave one"),
        ("[roles.host]\ncall = []", "role 'host': it is ready made", "extends = ['host']"),
        ("[roles.mesh]\ncall = []", "no role can be named 'mesh'", "another name"),
        ("[roles]\nreviewer = 1", "roles are tables", "[roles.NAME]"),
        ("[role.reviewer]\ncall = []", "a policy has no 'role'", "did you mean 'roles'?"),
        ("[roles.reviewer]\npublish = ['a..b']", "role 'reviewer': 'a..b' names no topics", "words with dots"),
        ("[roles.reviewer]\nabout = 1", "role 'reviewer': about is a text", "about ="),
        ("[roles.", "is not TOML", ""),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, problem: str, hint: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_policy(path)
    assert caught.value.message.startswith(str(path))
    assert problem in caught.value.message
    assert hint in caught.value.hint


def test_a_mesh_file_says_it_too(tmp_path: Path) -> None:
    path = written(tmp_path, "[roles.reviewer]\ncall = ['ti*/now']", "mesh.toml")
    with pytest.raises(ConfigError, match="role 'reviewer': the rule"):
        read_file(path)


def test_no_file_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_policy(tmp_path / "policy.toml")
    assert "[roles.reviewer]" in caught.value.hint
