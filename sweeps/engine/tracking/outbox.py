"""Write-behind: what another machine should hear is delivered later, in order, and nobody waits for it."""

import logging
import threading
from collections import deque
from collections.abc import Callable

_MAX_REFUSALS = 5
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0

logger = logging.getLogger(__name__)


class Outbox:
    """Delivers letters one after the other, in the order they were added, on a thread of its own.

    A letter whose delivery raises is tried again after growing pauses: for as long as it takes while the other side
    is away, and five times when it is there and refuses. Then it is put aside, so that the rest gets through. A
    delivery may therefore happen twice, and should not mind.

    Args:
        place: the other side's name in the log.
        is_there: whether the other side answers at all.
        explain: makes an error presentable; it should leave out what is secret.
    """

    def __init__(self, place: str, *, is_there: Callable[[], bool], explain: Callable[[Exception], str] = str) -> None:
        self._place, self._is_there, self._explain = place, is_there, explain
        self._letters: deque[tuple[str, Callable[[], None]]] = deque()
        self._put_aside: list[str] = []
        self._delivered = 0
        self._changed = threading.Condition()
        self._closing = False
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"outbox-{place}", daemon=True)
        self._thread.start()

    def add(self, what: str, deliver: Callable[[], None]) -> None:
        """Deliver something, after all that was added before it.

        Args:
            what: it is, for the log and for `close`.
            deliver: raises if it could not be delivered.
        """
        with self._changed:
            self._letters.append((what, deliver))
            self._changed.notify()

    def close(self, timeout: float) -> tuple[str, ...]:
        """Deliver the rest, however much it is, as long as it gets through.

        Args:
            timeout: seconds without a delivery after which the rest is given up.

        Returns:
            What was not delivered, each said once, in order.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        before = -1
        while self._thread.is_alive() and self._delivered > before:
            before = self._delivered
            self._thread.join(timeout)
        self._given_up.set()
        with self._changed:
            return tuple(dict.fromkeys([*self._put_aside, *(what for what, _ in self._letters)]))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._letters or self._closing)
                if not self._letters:
                    return
                what, deliver = self._letters[0]
            delivered = self._deliver(what, deliver)
            with self._changed:
                if self._given_up.is_set():
                    return
                self._letters.popleft()
                self._delivered += delivered
                if not delivered:
                    self._put_aside.append(what)

    def _deliver(self, what: str, deliver: Callable[[], None]) -> bool:
        refusals, pause, away = 0, _FIRST_PAUSE, False
        while not self._given_up.is_set():
            try:
                deliver()
                return True
            except Exception as error:  # whatever it is, it must not become the sender's
                reason = self._explain(error)
            if self._is_there():
                refusals += 1
            elif not away:
                away = True
                logger.warning("%s is away (%s): what it should hear is kept until it is back", self._place, reason)
            if refusals == _MAX_REFUSALS:
                logger.warning("%s refuses %s: %s", self._place, what, reason)
                return False
            self._given_up.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return False
