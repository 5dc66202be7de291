"""FastStream's pull subscriber with an empty handler, as a participant: `{"count"}` → `{"rate"}`. Runs in an environment of its own, which
has FastStream and nothing of ours; it is not imported by anything here.

    python bench/faststream_consumer.py BROKER STREAM SUBJECT DURABLE BATCH
"""

import asyncio
import json
import sys
import time

import uvloop
from faststream import AckPolicy  # type: ignore[import-not-found]
from faststream.nats import JStream, NatsBroker, PullSub  # type: ignore[import-not-found]


async def consume(broker_url: str, stream: str, subject: str, durable: str, batch: int, count: int) -> float:
    broker = NatsBroker(broker_url, logger=None)
    left, first, last, done = count, 0.0, 0.0, asyncio.Event()

    @broker.subscriber(  # type: ignore[untyped-decorator, unused-ignore]
        subject,
        stream=JStream(stream, declare=False),
        durable=durable,
        pull_sub=PullSub(batch_size=batch, timeout=1.0),
        ack_policy=AckPolicy.ACK,
    )
    async def handle(body: dict) -> None:  # type: ignore[type-arg]
        nonlocal left, first, last
        if left == count:
            first = time.perf_counter()
        left -= 1
        if left == 0:
            last = time.perf_counter()
            done.set()

    async with broker:
        await broker.start()
        async with asyncio.timeout(60):
            await done.wait()
    return (count - 1) / (last - first)


async def main(broker: str, stream: str, subject: str, durable: str, batch: str) -> None:
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    print(json.dumps({"event": "ready"}), flush=True)
    async for order in orders:
        rate = await consume(broker, stream, subject, durable, int(batch), json.loads(order)["count"])
        print(json.dumps({"rate": rate}), flush=True)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
