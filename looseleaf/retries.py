"""Retries after failures that may pass: a policy, and the loops that follow it."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Retries:
    """Which failures are tried again, how long, and after which pauses.

    A failure of a type in `passing`, for which `may_pass` holds, is tried again until there were
    `tries` tries, or until `seconds` have passed since the first try began. The first pause lasts
    `pause` seconds; each is twice as long as the one before, and at most `longest`.
    """

    passing: type[Exception] | tuple[type[Exception], ...]
    may_pass: Callable[[Any], bool] = lambda _: True
    tries: float = math.inf
    seconds: float = math.inf
    pause: float = 1.0
    longest: float = math.inf

    def pause_after(self, problem: Any, tries: int, seconds: float = 0.0) -> float | None:
        """Seconds to wait before the next try, or None for no further try.

        `tries` have been made, the last of which failed with `problem`, `seconds` after the first
        began.
        """
        if not isinstance(problem, self.passing) or not self.may_pass(problem):
            return None
        if tries >= self.tries or seconds >= self.seconds:
            return None
        return min(math.ldexp(self.pause, min(tries - 1, 60)), self.longest)

    def call(
        self,
        function: Callable[[], T],
        say: Callable[[Exception, float], None] | None = None,
        sleep: Callable[[float], Any] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> T:
        """The result of `function` in the first try that succeeds; else the last failure is raised.

        `say` gets each failure that is tried again, and the pause in seconds.
        """
        after = self._failures(say, clock)
        while True:
            try:
                return function()
            except Exception as problem:
                pause = after(problem)
            sleep(pause)

    async def await_call(
        self,
        function: Callable[[], Awaitable[T]],
        say: Callable[[Exception, float], None] | None = None,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> T:
        """`call` for a coroutine function."""
        after = self._failures(say, clock)
        while True:
            try:
                return await function()
            except Exception as problem:
                pause = after(problem)
            await sleep(pause)

    def _failures(
        self, say: Callable[[Exception, float], None] | None, clock: Callable[[], float]
    ) -> Callable[[Exception], float]:
        """For one call: the pause after each failure; the last failure is raised."""
        started, tries = clock(), 0

        def after(problem: Exception) -> float:
            nonlocal tries
            tries += 1
            pause = self.pause_after(problem, tries, clock() - started)
            if pause is None:
                raise problem
            if say is not None:
                say(problem, pause)
            return pause

        return after
