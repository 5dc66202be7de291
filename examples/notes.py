"""A notebook as an MCP server: a small agent to copy.

Nothing here knows of the mesh. It is an ordinary server of the MCP SDK, so it runs three ways:

- on a mesh, inside the mesh's process: `[agents.notes]` with `python = "examples.notes:server"` in the file given to `mesh up`;
- on a mesh, as a child process: `mesh-bridge serve notes -- python examples/notes.py`;
- without a mesh, as a stdio server of any MCP host: `python examples/notes.py`.

What a model reads of a tool is its name, its docstring and the types of its parameters: write them for that reader. The type that
a tool returns becomes the schema of its result, and the result travels as text and as structured data.

All tools are `async def`: they run one after another on the event loop wherever they do not await, so the notebook needs no lock.
The SDK runs a plain `def` in a worker thread, several at once. Notes live in memory and end with the process.
"""

import asyncio
from typing import Annotated, Final

from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

MAX_NOTES: Final = 10_000
"""A tool that stores what it is given needs a bound: callers on a mesh are many, and not all of them mean well."""

MAX_TEXT: Final = 10_000
"""Characters of one note."""


class Note(BaseModel):
    """One note. Ids count from 1 and are never used again."""

    id: int
    text: str
    tags: list[str] = []


class Review(BaseModel):
    """What `review_notes` found."""

    notes: int
    words: int
    longest: Note | None = None


server = MCPServer("notes", version="1.0.0", instructions="A shared notebook. Look with find_notes before you add what may be there.")
notebook: list[Note] = []


@server.tool()
async def add_note(
    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT, description="what to remember")],
    tags: Annotated[tuple[str, ...], Field(max_length=20, description="words to find it by")] = (),
) -> Note:
    """Write a note. Returns it with its id."""
    if len(notebook) >= MAX_NOTES:
        # An exception becomes a result with isError: the model reads the text, so it says what can be done.
        raise ValueError(f"the notebook is full at {MAX_NOTES} notes; restart the agent to empty it")
    note = Note(id=len(notebook) + 1, text=text, tags=list(tags))
    notebook.append(note)
    return note


# The annotation is a promise that the mesh uses: a call that changes nothing may be tried again when its reply was lost.
@server.tool(annotations=ToolAnnotations(read_only_hint=True))
async def find_notes(
    query: Annotated[str, Field(description="part of the text, or a tag; without it the newest notes are listed")] = "",
    limit: Annotated[int, Field(ge=1, le=100)] = 20,
) -> list[Note]:
    """Find notes by their text or tags, newest first. Upper and lower case are the same."""
    wanted = query.casefold()
    found = (note for note in reversed(notebook) if any(wanted in part.casefold() for part in (note.text, *note.tags)))
    return [note for note, _ in zip(found, range(limit), strict=False)]


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
async def review_notes(
    ctx: Context,
    pause: Annotated[float, Field(ge=0, le=10, description="seconds to spend on each note")] = 0.2,
) -> Review:
    """Go through all notes and count their words. It takes its time and reports progress after each note."""
    notes = list(notebook)  # Others may add while this waits.
    words = 0
    for done, note in enumerate(notes, start=1):
        await asyncio.sleep(pause)  # A cancelled call ends here.
        words += len(note.text.split())
        await ctx.report_progress(done, len(notes), f"note {note.id}")
    return Review(notes=len(notes), words=words, longest=max(notes, key=lambda note: len(note.text), default=None))


if __name__ == "__main__":
    server.run()
