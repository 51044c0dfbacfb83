"""The truth about trials: who runs which, and how each ended. One SQL table, any number of drivers and processes.

A trial is run by whoever holds its claim. A claim is a row with an owner and a heartbeat; a heartbeat older than the
lease is that of a dead owner, and the trial is free again: sooner where the owner can be seen to be dead. Every change
is one conditional statement whose row count says whether it happened, so no answer depends on what was read before.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import sqlalchemy as sa

from sweeps.engine.store.states import State

LEDGER = "ledger.db"
"""The ledger's file in an output folder."""
LEASE_SECONDS = 60.0
"""How long a claim outlives its last heartbeat."""

_TABLE = sa.Table(
    "trials",
    sa.MetaData(),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("owner", sa.String(255), nullable=False),
    sa.Column("heartbeat", sa.Double, nullable=False),
    sa.Column("metrics", sa.Text),
    sa.Column("error", sa.Text),
)
_KEYS_A_QUERY = 500
_LOCK_WAIT_SECONDS = 60.0
_CLOCK_SECONDS = 10.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """What the ledger holds of one trial.

    Attributes:
        key: of the trial.
        state: `running` as long as nobody said otherwise, even when its owner is dead.
        owner: who holds it or held it last.
        heartbeat: when the owner last said anything, in seconds since the epoch.
        metrics: final metrics by name; empty unless finished.
        error: why it failed; None unless failed.
    """

    key: str
    state: State
    owner: str
    heartbeat: float
    metrics: Mapping[str, float]
    error: str | None


class Ledger:
    """The table of trials, made if it is not there.

    Args:
        url: of a database, as SQLAlchemy writes it: `sqlite:///folder/ledger.db`, `postgresql://host/name`. An SQLite
            file belongs on a local disk; drivers on several machines need a server.
        lease: seconds after which a silent owner has lost its claim; the same for all that share the table.
        clock: the time in seconds since the epoch. It is each machine's own, not the database's, so the clocks of
            several machines should agree to well within the lease.

    Raises:
        ValueError: the URL is none that SQLAlchemy can use.
    """

    def __init__(self, url: str, *, lease: float = LEASE_SECONDS, clock: Callable[[], float] = time.time) -> None:
        self.lease = lease
        self._clock = clock
        self._engine = _connect(url)
        try:
            _TABLE.create(self._engine, checkfirst=True)
        except sa.exc.DBAPIError:
            if not sa.inspect(self._engine).has_table(_TABLE.name):  # else another process was faster
                raise

    def claim(self, key: str, *, owner: str) -> bool:
        """Take a trial to run it.

        Args:
            key: of the trial.
            owner: any string that no other run of a driver uses; of `owner_here`, others can tell when it is dead.

        Returns:
            True if the owner now holds the trial: it was unknown, failed, interrupted, pruned, left by an owner whose
            lease ran out or who is seen to be dead, or already this owner's. False if it is finished, or somebody else
            is running it.
        """
        now = self._clock()
        held = {"state": "running", "owner": owner, "heartbeat": now, "metrics": None, "error": None}
        row = _TABLE.c
        silent = row.heartbeat < now - self.lease
        before = self.entries([key]).get(key)
        if before is not None and is_dead(before.owner):
            # What beats for a dead owner may outlive it by some seconds; it would have beaten by now.
            silent |= (row.owner == before.owner) & (row.heartbeat < now - self.lease / 3)
        running_elsewhere = (row.state == "running") & (row.owner != owner) & ~silent
        free = (row.key == key) & (row.state != "finished") & ~running_elsewhere
        if self._changes(_TABLE.update().where(free).values(held)):
            return True
        try:
            return self._changes(_TABLE.insert().values(key=key, **held)) == 1
        except sa.exc.IntegrityError:  # the portable ON CONFLICT DO NOTHING: the key is there, and it was not free
            return False

    def heartbeat(self, key: str, *, owner: str) -> bool:
        """Say that the owner is alive. False if the claim is no longer its own."""
        return self._update_claimed(key, owner, {})

    def finish(self, key: str, *, owner: str, metrics: Mapping[str, float]) -> bool:
        """Record a trial's final metrics; from now on nobody can claim it.

        NaN and infinities are kept: a metric can be undefined without the trial having failed.

        Returns:
            False, and nothing changes, if the owner lost its claim: the trial is another's to finish.
        """
        values = {name: float(value) for name, value in metrics.items()}
        return self._update_claimed(key, owner, {"state": "finished", "metrics": json.dumps(values)})

    def fail(self, key: str, *, owner: str, error: str) -> bool:
        """Record that a trial failed for good; a later run may claim it again. False as for `finish`."""
        return self._update_claimed(key, owner, {"state": "failed", "error": error})

    def release(self, key: str, *, owner: str) -> bool:
        """Record that a trial was interrupted: claimable at once. False as for `finish`."""
        return self._update_claimed(key, owner, {"state": "interrupted"})

    def prune(self, key: str, *, owner: str) -> bool:
        """Record that a search stopped a trial early; who wants it in full may claim it. False as for `finish`."""
        return self._update_claimed(key, owner, {"state": "pruned"})

    def entries(self, keys: Collection[str]) -> dict[str, Entry]:
        """What is known of some trials, by key; those never claimed are absent. Any number of keys."""
        found = {}
        with self._engine.connect() as connection:
            for chunk in _chunks(keys):
                for row in connection.execute(_TABLE.select().where(_TABLE.c.key.in_(chunk))).mappings():
                    found[row["key"]] = Entry(**{**row, "metrics": json.loads(row["metrics"] or "{}")})
        return found

    def forget(self, keys: Collection[str]) -> int:
        """Drop what is known of some trials, so that they run again; those that somebody is running now stay.

        Returns:
            How many were dropped.
        """
        row = _TABLE.c
        dropped = (row.state != "running") | (row.heartbeat < self._clock() - self.lease)
        return sum(self._changes(_TABLE.delete().where(row.key.in_(chunk), dropped)) for chunk in _chunks(keys))

    def is_silent(self, entry: Entry) -> bool:
        """Whether its owner has said nothing for longer than a lease."""
        return entry.heartbeat < self._clock() - self.lease

    def close(self) -> None:
        """Give the connections back. The ledger opens new ones if it is used again."""
        self._engine.dispose()

    def _update_claimed(self, key: str, owner: str, values: Mapping[str, Any]) -> bool:
        row = _TABLE.c
        own = (row.key == key) & (row.owner == owner) & (row.state == "running")
        return self._changes(_TABLE.update().where(own).values(heartbeat=self._clock(), **values)) == 1

    def _changes(self, statement: sa.Insert | sa.Update | sa.Delete) -> int:
        with self._engine.begin() as connection:
            return connection.execute(statement).rowcount


def owner_here() -> str:
    """A new owner's name, of which other processes on this machine can tell when this process is dead."""
    return f"{_machine()}:{os.getpid()}:{psutil.Process().create_time():.0f}:{uuid.uuid4().hex[:8]}"


def is_dead(owner: str) -> bool:
    """Whether an owner is known to be dead: it was a process of this machine that is no more."""
    try:
        machine, pid, started, _ = owner.rsplit(":", 3)
        if machine != _machine():
            return False
        process = psutil.Process(int(pid))
        # A process that started at another time was given the same number later. The clock may have been set since.
        another = abs(process.create_time() - float(started)) > _CLOCK_SECONDS
        return another or bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except (ValueError, psutil.AccessDenied):  # not named by `owner_here`, or not ours to look at
        return False


def _machine() -> str:
    """This machine; in containers, which may share a name, the space that process ids are unique in."""
    try:
        return f"{socket.gethostname()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # no Linux
        return socket.gethostname()


class Claim:
    """Keeps a claim alive while its block runs: a daemon thread that beats four times a lease.

    The block's end stops the beating and nothing else: `finish`, `fail` or `release` say how the trial ended.

    Args:
        ledger: where the claim is.
        key: of the trial, already claimed.
        owner: who claimed it.
    """

    def __init__(self, ledger: Ledger, key: str, *, owner: str) -> None:
        self._ledger, self._key, self._owner = ledger, key, owner
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"claim-{key}", daemon=True)

    @property
    def lost(self) -> bool:
        """Whether somebody took the trial over (this process slept longer than the lease): stop running it."""
        return self._lost.is_set()

    def __enter__(self) -> "Claim":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(self._ledger.lease / 4):
            try:
                if not self._ledger.heartbeat(self._key, owner=self._owner):
                    self._lost.set()
                    return
            except sa.exc.SQLAlchemyError as error:  # the claim outlives some beats: a later one may get through
                reason = getattr(error, "orig", error)
                logger.warning("ledger: no heartbeat for trial %s: %s", self._key, reason)


@contextmanager
def alone(ledger: Ledger, name: str, *, owner: str) -> Iterator[None]:
    """Run a block in one process at a time, of all that name it alike: the others wait.

    Args:
        ledger: whose claims keep the others out; nothing of it stays there.
        name: of what may not happen twice; never a trial's key.
        owner: any string that no other thread uses.
    """
    while not ledger.claim(name, owner=owner):
        time.sleep(0.1)
    try:
        with Claim(ledger, name, owner=owner):
            yield
    finally:
        ledger.release(name, owner=owner)
        ledger.forget([name])


def _connect(url: str) -> sa.Engine:
    try:
        address = sa.make_url(url)
        if address.get_backend_name() != "sqlite":
            return sa.create_engine(address, pool_pre_ping=True)
    except (sa.exc.ArgumentError, ImportError) as error:
        raise ValueError(
            f"the ledger's URL cannot be used ({type(error).__name__}): give sqlite:///folder/ledger.db, or the URL "
            "of a database whose driver is installed"
        ) from None
    if not address.database or address.database == ":memory:":
        raise ValueError(f"the ledger {address} would not outlive its process: give sqlite:///folder/ledger.db")
    Path(address.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(address, connect_args={"timeout": _LOCK_WAIT_SECONDS})
    with suppress(sa.exc.OperationalError), engine.connect() as connection:
        # The mode stays with the file. Locked: another process is just setting it.
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    return engine


def _chunks(keys: Collection[str]) -> Iterator[Sequence[str]]:
    ordered = list(keys)
    return (ordered[start : start + _KEYS_A_QUERY] for start in range(0, len(ordered), _KEYS_A_QUERY))
