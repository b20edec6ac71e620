"""Policies of trying again, on a clock that stands still while nobody waits."""

import asyncio

import pytest

from looseleaf.retries import Retries


class Clock:
    """A time in seconds, moved by waiting alone."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


class Service:
    """Fails as it is told to, then answers; each question takes `seconds`."""

    def __init__(self, clock: Clock, failures: list[Exception], seconds: float = 0.0) -> None:
        self.clock, self.failures, self.seconds = clock, failures, seconds
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        self.clock.now += self.seconds
        if self.failures:
            raise self.failures.pop(0)
        return "answer"

    async def answer(self) -> str:
        return self()


def asked(policy: Retries, service: Service, waits: bool, say=None) -> str:
    clock = service.clock
    if waits:
        return asyncio.run(policy.await_call(service.answer, say, clock.sleep_async, clock))
    return policy.call(service, say, clock.sleep, clock)


@pytest.fixture(params=[False, True], ids=["call", "await_call"])
def waits(request):
    return request.param


def test_pauses_double_up_to_the_longest(waits):
    clock = Clock()
    service = Service(clock, [OSError()] * 5)
    policy = Retries(OSError, pause=0.5, longest=3)
    assert asked(policy, service, waits) == "answer"
    assert clock.pauses == [0.5, 1, 2, 3, 3]


def test_tries_are_counted_in_all_and_the_last_failure_is_raised(waits):
    clock = Clock()
    service = Service(clock, [OSError(str(number)) for number in range(9)])
    with pytest.raises(OSError, match=r"^2$"):
        asked(Retries(OSError, tries=3), service, waits)
    assert (service.asked, clock.pauses) == (3, [1, 2])


def test_no_try_begins_after_a_failure_that_comes_too_late(waits):
    clock = Clock()
    service = Service(clock, [OSError("busy")] * 9, seconds=4)
    with pytest.raises(OSError, match="busy"):
        asked(Retries(OSError, seconds=10, pause=1, longest=1), service, waits)
    # failures at 4, 9 and 14 s
    assert (service.asked, clock.now) == (3, 114)


def test_what_will_not_pass_is_raised_at_once(waits):
    clock = Clock()
    with pytest.raises(KeyError):
        asked(Retries((OSError, ValueError)), Service(clock, [KeyError()]), waits)
    busy = Retries(OSError, may_pass=lambda problem: problem.errno == 16)
    service = Service(clock, [OSError(16, "busy"), OSError(13, "denied")])
    with pytest.raises(OSError, match="denied"):
        asked(busy, service, waits)
    assert (service.asked, clock.pauses) == (2, [1])


def test_each_failure_that_is_tried_again_is_said_with_the_pause(waits):
    said = []
    service = Service(Clock(), [OSError("a"), OSError("b"), OSError("c")])
    with pytest.raises(OSError, match="c"):
        asked(
            Retries(OSError, tries=3),
            service,
            waits,
            lambda problem, pause: said.append((str(problem), pause)),
        )
    assert said == [("a", 1), ("b", 2)]


def test_a_cancellation_is_not_tried_again():
    clock = Clock()
    service = Service(clock, [asyncio.CancelledError()])
    with pytest.raises(asyncio.CancelledError):
        asked(Retries(Exception), service, waits=True)
    assert service.asked == 1


def test_a_schedule_asks_only_for_the_next_pause():
    policy = Retries(OSError, tries=3, pause=4)
    assert [policy.pause_after(OSError(), tries) for tries in (1, 2, 3)] == [4, 8, None]
    assert policy.pause_after(KeyError(), 1) is None
    assert Retries(OSError, longest=60).pause_after(OSError(), 5000) == 60
