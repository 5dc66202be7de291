"""The product manager: plans features over months, and counts what customers say."""

import asyncio
import re
from collections import Counter
from typing import Annotated, Final

from mcp.server.mcpserver import Context
from pydantic import BaseModel, Field

from examples.personas.persona import READS, make_persona

LONGEST: Final = 36
"""Months."""

STOP_WORDS: Final = frozenset({"and", "are", "but", "for", "from", "not", "our", "that", "the", "they", "this", "was", "with", "you"})

server = make_persona("product-manager")


class Feature(BaseModel):
    name: str = Field(min_length=1, max_length=200)
    effort: Annotated[float, Field(gt=0, le=1000, description="person-weeks")] = 4
    value: Annotated[float, Field(ge=0, le=10, description="to customers, from 0 to 10")] = 5
    after: Annotated[list[str], Field(description="features that have to be there first")] = []


class Month(BaseModel):
    month: int
    """From 1."""
    features: list[str] = []
    """That are finished in it."""
    weeks: float = 0
    """Person-weeks that are planned in it."""


class Roadmap(BaseModel):
    months: list[Month]
    left_out: list[str] = []
    """What there is no room for."""


class Theme(BaseModel):
    word: str
    count: int


async def generate_roadmap(
    features: Annotated[list[Feature | str], Field(min_length=1, max_length=500)],
    ctx: Context,
    timeline: Annotated[str, Field(description="as in 6months")] = "6months",
    capacity: Annotated[float, Field(gt=0, description="person-weeks of a month")] = 8,
    pause: Annotated[float, Field(ge=0, le=10, description="seconds to spend on each feature")] = 0.2,
) -> Roadmap:
    """Plan features over months: the most value for its effort first, and nothing before what it needs. Each is reported as progress."""
    found = re.fullmatch(r"\s*(\d{1,2})\s*months?\s*", timeline)
    if found is None or not 0 < int(found[1]) <= LONGEST:
        raise ValueError(f"a timeline is as in 6months, up to {LONGEST}")
    wanted = in_order([Feature(name=each) if isinstance(each, str) else each for each in features])
    months = [Month(month=number) for number in range(1, int(found[1]) + 1)]
    left_out: list[str] = []
    for done, feature in enumerate(wanted, start=1):
        await asyncio.sleep(pause)  # a cancelled job ends here
        if not placed(feature, months, capacity, left_out):
            left_out.append(feature.name)
        await ctx.report_progress(done, len(wanted), feature.name)
    return Roadmap(months=months, left_out=left_out)


for name in ("generate_roadmap", "roadmap_planner"):  # one tool; the second name is what older clients know
    server.tool(name=name, annotations=READS)(generate_roadmap)


def in_order(features: list[Feature]) -> list[Feature]:
    """The most value for its effort first, and nothing before what it needs. Raises ValueError where that cannot be."""
    waiting = sorted(features, key=lambda each: each.value / each.effort, reverse=True)
    names, ordered = {each.name for each in features}, list[Feature]()
    if len(names) < len(features):
        raise ValueError("two features have one name")
    if unknown := {name for each in features for name in each.after} - names:
        raise ValueError(f"no feature is called {', '.join(sorted(unknown))}")
    while waiting:
        done = {each.name for each in ordered}
        ready = next((each for each in waiting if done.issuperset(each.after)), None)
        if ready is None:
            raise ValueError(f"these wait for one another: {', '.join(each.name for each in waiting)}")
        waiting.remove(ready)
        ordered.append(ready)
    return ordered


def placed(feature: Feature, months: list[Month], capacity: float, left_out: list[str]) -> bool:
    """Whether there is room for it, after what it needs. Then it is planned, over as many months as it takes."""
    needed = [month.month for month in months if set(month.features) & set(feature.after)]
    room = [month for month in months if month.month >= max(needed, default=1)]
    if set(left_out) & set(feature.after) or sum(capacity - month.weeks for month in room) < feature.effort:
        return False
    left = feature.effort
    for month in room:
        spent = min(left, capacity - month.weeks)
        month.weeks += spent
        left -= spent
        if left <= 1e-9:
            month.features.append(feature.name)
            return True
    return False


@server.tool(annotations=READS)
async def user_story_generator(who: str, wants: str, so_that: str, criteria: Annotated[list[str], Field(max_length=50)] = []) -> str:  # noqa: B006
    """A user story with its acceptance criteria."""
    return "\n".join([f"As a {who}, I want {wants}, so that {so_that}.", *(f"- [ ] {each}" for each in criteria)])


@server.tool(annotations=READS)
async def customer_feedback_analyzer(
    feedback: Annotated[list[str], Field(max_length=10_000)], most: Annotated[int, Field(ge=1, le=100)] = 10
) -> list[Theme]:
    """What customers speak of: the words that most of them use."""
    words = Counter(word for each in feedback for word in set(re.findall(r"[^\W\d_]{3,}", each.casefold())) - STOP_WORDS)
    return [Theme(word=word, count=count) for word, count in words.most_common(most)]
