"""Synchronous request and response: the answer is needed now. It is kept until somebody handles it, or until the time is over."""

import asyncio
from pathlib import Path

from mesh import Mesh


async def main() -> None:
    async with Mesh() as mesh:
        review = await mesh.messages.send_message(
            to="engineering-manager",
            type="code_review",
            content={"code": Path(__file__).read_text(), "language": "python"},
            timeout=30,
        )
        print("approved:", review["approved"])
        for finding in review["findings"]:
            print(f"line {finding['line']}, {finding['severity']}: {finding['text']}")


asyncio.run(main())
