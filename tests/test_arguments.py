"""The words behind `mesh call AGENT TOOL`: what is read as text, what as the schema says, what as JSON."""

from typing import Any

import pytest

from mesh.cli.arguments import build, read_object, split, unknown
from mesh.errors import ConfigError

SCHEMA: dict[str, Any] = {
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "share": {"type": "number"},
        "deep": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "filter": {"$ref": "#/$defs/Filter"},
        "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "either": {"type": ["string", "integer"]},
        "colour": {"enum": ["red", "7"]},
        "level": {"enum": [1, 2]},
        "loop": {"$ref": "#/$defs/Loop"},
        "any": {},
        "odd": True,
    },
    "$defs": {"Filter": {"type": "object"}, "Loop": {"anyOf": [{"$ref": "#/$defs/Loop"}, {"type": "boolean"}]}},
}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("text=5", "5"),
        ("text=a=b", "a=b"),
        ("text=", ""),
        ("count=5", 5),
        ("count=123456789012345678901234567890", 123456789012345678901234567890),
        ("share=0.5", 0.5),
        ("share=2", 2),
        ("deep=true", True),
        ("deep=False", False),
        ('tags=["a"]', ["a"]),
        ('filter={"a": 1}', {"a": 1}),
        ("maybe=null", None),
        ("maybe=3", 3),
        ("either=3", 3),
        ("either=three", "three"),
        ('either="3"', '"3"'),
        ("colour=7", "7"),
        ("level=2", 2),
        ("loop=true", True),
        ("any=5", "5"),
        ("odd=5", "5"),
        ("unknown=5", "5"),
        ("text:=5", 5),
        ("unknown:=[1]", [1]),
    ],
)
def test_a_word_becomes_the_value_that_was_meant(word: str, value: Any) -> None:
    ((key, read),) = build(split([word]), SCHEMA, {}).items()
    assert key == word.partition("=")[0].removesuffix(":")
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("word", ["count=five", "count=1.5", "deep=maybe", "tags=a", "maybe=x"])
def test_a_value_of_another_type_is_refused_with_what_is_wanted(word: str) -> None:
    with pytest.raises(ConfigError, match=f"the argument {word.partition('=')[0]} wants"):
        build(split([word]), SCHEMA, {})


def test_without_a_schema_all_is_text() -> None:
    assert build(split(["a=1", "b:=1"]), None, {}) == {"a": "1", "b": 1}


def test_words_go_on_top_of_args() -> None:
    assert build(split(["a=1"]), None, read_object('{"a": 0, "b": 2}')) == {"a": "1", "b": 2}


@pytest.mark.parametrize("words", [["a"], ["=1"], [":=1"], ["a=1", "a=2"]])
def test_what_is_no_argument_is_a_mistake_of_usage(words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"is not key=value|given twice"):
        split(words)


def test_bad_json_says_how_text_is_written() -> None:
    with pytest.raises(ConfigError, match="the argument a is no JSON") as caught:
        build(split(["a:=x"]), None, {})
    assert "a=TEXT" in caught.value.hint


@pytest.mark.parametrize("text", ["[1]", "x", "null"])
def test_args_is_an_object(text: str) -> None:
    with pytest.raises(ValueError, match="JSON"):
        read_object(text)


def test_what_a_tool_does_not_know_comes_with_what_was_meant() -> None:
    assert unknown(["text", "cuont", "zzz"], SCHEMA) == [("cuont", "count"), ("zzz", None)]


@pytest.mark.parametrize("more", [{"additionalProperties": True}, {"additionalProperties": {"type": "string"}}, {"$ref": "#/$defs/Loop"}])
def test_a_tool_that_takes_more_than_it_names_knows_everything(more: dict[str, Any]) -> None:
    assert unknown(["cuont"], {**SCHEMA, **more}) == []
    assert unknown(["cuont"], {}) == unknown(["cuont"], None) == []
    assert unknown(["cuont"], {**SCHEMA, "additionalProperties": False}) == [("cuont", "count")]
