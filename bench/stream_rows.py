"""What a stream between two agents carries: against nats-py with credits by hand, and by itself."""

from typing import Final, Literal

from bench.stage import stage
from bench.table import Measure, Measured, OnRound, Pace, Side

Figure = Literal["ratio", "rate", "memory"]

MESSAGES: Final = 60_000
"""Of 1 KiB, in a round of each side; fewer where rounds are short."""


def streaming(figure: Figure) -> Measure:
    """One of the figures of a stream, as a row's measurement."""
    return lambda pace, on_round: _stream(pace, on_round, figure)


async def _stream(pace: Pace, on_round: OnRound, figure: Figure) -> Measured:
    """One stream a round, read to its end. `memory`: how much source and sink together grew from the first round to the last."""
    async with stage() as it:
        await it.participant("stream-sink", it.broker, "sink")
        await it.participant("raw-sink", it.broker)
        this, that = await it.participant("stream-source", it.broker, "sink"), await it.participant("raw-source", it.broker)
        messages = int(MESSAGES * min(1.0, pace.seconds / 0.5))
        for source in (this, that):
            await source.ask(messages=messages)
        here, there, grown = list[float](), list[float](), list[float]()
        for number in range(pace.rounds):
            for source in (this, that) if number % 2 == 0 else (that, this):
                said = await source.ask(messages=messages)
                (here if source is this else there).append(said["rate"])
                if source is this:
                    grown.append(said["rss"] + said["sink"])
            on_round()
    sides = (Side("stream", "/s", tuple(here)), Side("nats-py", "/s", tuple(there)))
    if figure == "rate":
        return Measured(tuple(here), sides)
    if figure == "memory":
        return Measured((max(grown) - grown[0],), sides, {"rss": grown, "unit": "MB"})
    return Measured(tuple(a / b for a, b in zip(here, there, strict=True)), sides)
