import logging
import threading
import time

import pytest

from sweeps.engine.tracking import outbox
from sweeps.engine.tracking.outbox import Outbox


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(outbox, "_LONGEST_PAUSE", 0.01)


class OtherSide:
    """Somebody who can go away, and who refuses some things."""

    def __init__(self) -> None:
        self.here = threading.Event()
        self.here.set()
        self.got: list[int] = []
        self.refuses: set[int] = set()
        self.attempts: list[int] = []
        self.attempted = threading.Semaphore(0)

    def receive(self, letter: int) -> None:
        self.attempts.append(letter)
        self.attempted.release()
        if not self.here.is_set():
            raise ConnectionError("nobody is there")
        if letter in self.refuses:
            raise ValueError(f"no {letter}, secret")
        self.got.append(letter)

    def send(self, box: Outbox, *letters: int) -> None:
        for letter in letters:
            box.add(f"letter {letter}", lambda letter=letter: self.receive(letter))  # type: ignore[misc]


@pytest.fixture
def other() -> OtherSide:
    return OtherSide()


@pytest.fixture
def box(other: OtherSide) -> Outbox:
    return Outbox("the other side", is_there=other.here.is_set, explain=lambda error: type(error).__name__)


def test_letters_arrive_once_and_in_order(other: OtherSide, box: Outbox) -> None:
    other.send(box, *range(100))
    assert box.close(30) == ()
    assert other.got == list(range(100))
    assert other.attempts == other.got


def test_an_absence_of_any_length_loses_nothing(
    other: OtherSide, box: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    other.here.clear()
    other.send(box, *range(5))
    assert all(other.attempted.acquire(timeout=30) for _ in range(20))  # many more than a refusal would be given
    assert set(other.attempts) == {0}  # what comes later waits
    other.here.set()
    assert box.close(30) == ()
    assert other.got == list(range(5))
    assert sum("is away" in message for message in caplog.messages) == 1


def test_what_is_refused_is_put_aside_and_the_rest_arrives(
    other: OtherSide, box: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    other.refuses = {1}
    with caplog.at_level(logging.WARNING):
        other.send(box, 0, 1, 2)
        assert box.close(30) == ("letter 1",)
    assert other.got == [0, 2]
    assert other.attempts.count(1) == 5
    assert caplog.messages == ["the other side refuses letter 1: ValueError"]


def test_closing_is_bounded_and_says_what_is_missing(other: OtherSide, box: Outbox) -> None:
    other.here.clear()
    other.send(box, 0, 1, 1)
    started = time.monotonic()
    assert box.close(0.2) == ("letter 0", "letter 1")
    assert time.monotonic() - started < 5
    box._thread.join(5)
    assert not box._thread.is_alive()


def test_the_end_waits_for_as_long_as_letters_get_through(other: OtherSide, box: Outbox) -> None:
    slowly = threading.Event()
    for letter in range(12):
        box.add(f"letter {letter}", lambda letter=letter: (slowly.wait(0.15), other.receive(letter)))  # type: ignore[misc]
    assert box.close(1.0) == (), "all of them take longer than that, and each does not"
    assert other.got == list(range(12))
