"""All that the public conformance suite asks a server for: `python -m tests.servers.conformant stdio`, or `… http PORT`.

Names, texts and schemas are the suite's; its scenarios say what each must be. The SDK's server carries it, in both eras.
"""

import asyncio
import json
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import mcp_types as types
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server

PNG: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg=="
WAV: Final = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA="
PAUSE: Final = 0.05
"""Seconds between two notifications, as the suite has it."""

Request: TypeAlias = Any
"""`ServerRequestContext`: what a handler knows of its request."""


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def resource(uri: str, said: str, kind: str = "text/plain") -> dict[str, Any]:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": kind, "text": said}}


IMAGE: Final = {"type": "image", "data": PNG, "mimeType": "image/png"}

CONTENT: Final[Mapping[str, list[dict[str, Any]]]] = {
    "test_simple_text": [text("This is a simple text response for testing.")],
    "test_image_content": [IMAGE],
    "test_audio_content": [{"type": "audio", "data": WAV, "mimeType": "audio/wav"}],
    "test_embedded_resource": [resource("test://embedded-resource", "This is an embedded resource content.")],
    "test_multiple_content_types": [
        text("Multiple content types test:"),
        IMAGE,
        resource("test://mixed-content-resource", '{"test":"data","value":123}', "application/json"),
    ],
    "json_schema_2020_12_tool": [text("valid")],
}
"""Tools that always say the same."""

ADDRESS: Final = {"type": "object", "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}
SCHEMAS: Final[Mapping[str, dict[str, Any]]] = {
    "json_schema_2020_12_tool": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"address": ADDRESS},
        "properties": {"name": {"type": "string"}, "address": {"$ref": "#/$defs/address"}},
        "additionalProperties": False,
    },
    "test_sampling": {"type": "object", "properties": {"prompt": {"type": "string"}}, "required": ["prompt"]},
    "test_elicitation": {"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]},
}
"""Of tools that take arguments."""


def titled(*names: str) -> list[dict[str, str]]:
    return [{"const": f"value{at}", "title": name} for at, name in enumerate(names, 1)]


OPTIONS: Final = ["option1", "option2", "option3"]
FORMS: Final[Mapping[str, dict[str, Any]]] = {
    "test_elicitation": {"username": {"type": "string"}, "email": {"type": "string"}},
    "test_elicitation_sep1034_defaults": {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    },
    "test_elicitation_sep1330_enums": {
        "untitledSingle": {"type": "string", "enum": OPTIONS},
        "titledSingle": {"type": "string", "oneOf": titled("First Option", "Second Option", "Third Option")},
        "legacyEnum": {"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": OPTIONS}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled("First Choice", "Second Choice", "Third Choice")}},
    },
}
"""Tools that ask the client's user, and what for."""

PROMPTS: Final[Mapping[str, list[str]]] = {
    "test_simple_prompt": [],
    "test_prompt_with_arguments": ["arg1", "arg2"],
    "test_prompt_with_embedded_resource": ["resourceUri"],
    "test_prompt_with_image": [],
}
"""Each prompt with its arguments."""

RESOURCES: Final[Mapping[str, dict[str, Any]]] = {
    "test://static-text": {"mimeType": "text/plain", "text": "This is the content of the static text resource."},
    "test://static-binary": {"mimeType": "image/png", "blob": PNG},
    "test://watched-resource": {"mimeType": "text/plain", "text": "Watched resource content."},
}
TEMPLATE: Final = "test://template/{id}/data"


async def log(request: Request) -> list[dict[str, Any]]:
    for said in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await request.session.send_log_message(level="info", data=said, related_request_id=request.request_id)
        await asyncio.sleep(PAUSE)
    return [text("logged")]


async def progress(request: Request) -> list[dict[str, Any]]:
    for done in (0, 50, 100):
        await request.session.report_progress(done, 100)
        await asyncio.sleep(PAUSE)
    return [text("done")]


async def reconnect(request: Request) -> list[dict[str, Any]]:
    """Leaves the client to come back for the answer, over a transport that can."""
    if request.close_sse_stream is not None:
        await request.close_sse_stream()
    await asyncio.sleep(PAUSE)
    return [text("reconnected")]


BEHAVIOURS: Final[Mapping[str, Callable[[Request], Awaitable[list[dict[str, Any]]]]]] = {
    "test_tool_with_logging": log,
    "test_tool_with_progress": progress,
    "test_reconnection": reconnect,
}


async def call_tool(request: Request, params: types.CallToolRequestParams) -> types.CallToolResult:
    name, arguments = params.name, params.arguments or {}
    if name in CONTENT:
        return result(CONTENT[name])
    if name in BEHAVIOURS:
        return result(await BEHAVIOURS[name](request))
    if name in FORMS:
        schema = {"type": "object", "properties": FORMS[name], "required": []}
        said = await request.session.elicit_form(str(arguments.get("message", name)), schema, related_request_id=request.request_id)
        return result([text(f"Elicitation completed: action={said.action}, content={json.dumps(said.content)}")])
    if name == "test_sampling":
        asked = types.SamplingMessage(role="user", content=types.TextContent(type="text", text=str(arguments["prompt"])))
        answer = await request.session.create_message([asked], max_tokens=100, related_request_id=request.request_id)
        return result([text(f"LLM response: {answer.content.text}")])
    return result([text("This tool intentionally returns an error for testing")], is_error=True)


def result(content: list[dict[str, Any]], *, is_error: bool | None = None) -> types.CallToolResult:
    return types.CallToolResult.model_validate({"content": content} | ({} if is_error is None else {"isError": is_error}))


async def list_tools(_: Request, __: Any) -> types.ListToolsResult:
    names = [*CONTENT, *BEHAVIOURS, *FORMS, "test_sampling", "test_error_handling"]
    tools = [{"name": each, "description": each, "inputSchema": SCHEMAS.get(each, {"type": "object"})} for each in names]
    return types.ListToolsResult.model_validate({"tools": tools})


async def list_prompts(_: Request, __: Any) -> types.ListPromptsResult:
    prompts = [
        {"name": name, "description": name, "arguments": [{"name": each, "required": True} for each in arguments]}
        for name, arguments in PROMPTS.items()
    ]
    return types.ListPromptsResult.model_validate({"prompts": prompts})


async def get_prompt(_: Request, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    given = params.arguments or {}
    content = {
        "test_simple_prompt": [text("This is a simple prompt for testing.")],
        "test_prompt_with_arguments": [text(f"Prompt with arguments: arg1='{given.get('arg1')}', arg2='{given.get('arg2')}'")],
        "test_prompt_with_embedded_resource": [
            resource(given.get("resourceUri", ""), "Embedded resource content for testing."),
            text("Please process the embedded resource above."),
        ],
        "test_prompt_with_image": [IMAGE, text("Please analyze the image above.")],
    }
    return types.GetPromptResult.model_validate({"messages": [{"role": "user", "content": each} for each in content[params.name]]})


async def list_resources(_: Request, __: Any) -> types.ListResourcesResult:
    resources = [{"uri": uri, "name": uri, "description": uri, "mimeType": each["mimeType"]} for uri, each in RESOURCES.items()]
    return types.ListResourcesResult.model_validate({"resources": resources})


async def list_templates(_: Request, __: Any) -> types.ListResourceTemplatesResult:
    return types.ListResourceTemplatesResult.model_validate({"resourceTemplates": [{"uriTemplate": TEMPLATE, "name": "template"}]})


async def read_resource(_: Request, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    uri = str(params.uri)
    found = RESOURCES.get(uri)
    if found is None:
        id = uri.removeprefix("test://template/").removesuffix("/data")
        found = {"mimeType": "application/json", "text": json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})}
    return types.ReadResourceResult.model_validate({"contents": [{"uri": uri, **found}]})


async def complete(_: Request, __: types.CompleteRequestParams) -> types.CompleteResult:
    return types.CompleteResult.model_validate({"completion": {"values": ["paris", "park", "party"], "total": 150, "hasMore": False}})


async def nothing(_: Request, __: Any) -> types.EmptyResult:
    return types.EmptyResult()


def make() -> Server[Any]:
    return Server(
        "conformant",
        version="1",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
        on_subscribe_resource=nothing,
        on_unsubscribe_resource=nothing,
        on_completion=complete,
        on_set_logging_level=nothing,
    )


async def over_stdio() -> None:
    server = make()
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


async def over_http(port: int) -> None:
    import uvicorn  # each session over stdio is a process: it imports what it needs

    from tests.http_tools import Store

    listener = socket.create_server(("127.0.0.1", port))
    print(listener.getsockname()[1], flush=True)  # noqa: T201 - what the test reads
    app = make().streamable_http_app(event_store=Store(), retry_interval=100)
    await uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none")).serve([listener])


if __name__ == "__main__":
    asyncio.run(over_stdio() if sys.argv[1] == "stdio" else over_http(int(sys.argv[2])))
