"""What a `listen` command shows: so many, or until nobody reads what it prints (`| head -1`)."""

import asyncio
from collections.abc import Callable
from typing import Final

LEAVE_SECONDS: Final = 1.0
"""After this comes again what came when enough was shown: to others, and not to us as we leave."""


class Showing:
    """Made within the loop. `most`: None is without end."""

    def __init__(self, most: int | None) -> None:
        self._left = most
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def until_over(self) -> None:
        """Raises BrokenPipeError where nobody reads it any more."""
        await self._over

    def show(self, print_it: Callable[[], None]) -> bool:
        """False where it is over, and this one was not shown."""
        if self._over.done():
            return False
        try:
            print_it()
        except BrokenPipeError as problem:
            self._over.set_exception(problem)
            return False
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self._over.set_result(None)
        return True
