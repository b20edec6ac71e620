"""The progress of a stage: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

LINE_EVERY_S = 10.0


class Progress:
    """Counts events up to `total`, with the rate and the time left.

    On a terminal it is a bar; in a log or a batch job it is a line every ten seconds and one at the
    end.
    """

    def __init__(self, stage: str, total: int, unit: str = "events") -> None:
        self._stage, self._unit, self._total = stage, unit, total
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            desc=stage,
            unit=f" {unit}",
            unit_scale=True,
            dynamic_ncols=True,
            disable=not self._terminal,
        )
        self._done = 0
        self._started = self._shown = time.monotonic()

    def add(self, events: int) -> None:
        """Count more events."""
        self._done += events
        self._bar.update(events)
        if not self._terminal and time.monotonic() - self._shown > LINE_EVERY_S:
            self._line()

    def _line(self) -> None:
        self._shown = time.monotonic()
        seconds = self._shown - self._started
        rate = self._done / seconds if seconds > 0 else 0.0
        text = f"{self._stage}: {self._done:,} of {self._total:,} {self._unit}, {rate:,.0f} /s"
        if 0 < self._done < self._total:
            text += f", {(self._total - self._done) / rate:.0f} s left"
        print(text, file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        if not self._terminal:
            self._line()
