import math
import multiprocessing
import threading
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from sweeps.engine.store.ledger import Claim, Entry, Ledger, alone, is_dead, owner_here

LEASE = 60.0
KEYS = [f"{number:016x}" for number in range(50)]


class Clock:
    """A clock that a test moves by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'deep' / 'ledger.db'}"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(url: str, clock: Clock) -> Iterator[Ledger]:
    ledger = Ledger(url, lease=LEASE, clock=clock)
    yield ledger
    ledger.close()


def _claim_and_finish_all(url: str, owner: str, folder: Path, barrier: Barrier) -> None:
    barrier.wait()
    ledger = Ledger(url)
    won = []
    for key in KEYS:
        if ledger.claim(key, owner=owner):
            won.append(key)
            assert ledger.finish(key, owner=owner, metrics={"test/nll": 1.0})
    (folder / owner).write_text("\n".join(won))


def _count_alone(url: str, owner: str, folder: Path, barrier: Barrier) -> None:
    ledger = Ledger(url)
    barrier.wait()
    counter = folder / "counter"
    for _ in range(5):
        with alone(ledger, "counting", owner=owner):
            counter.write_text(str(int(counter.read_text()) + 1))


def _race(target: object, url: str, folder: Path, *, processes: int) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    running = [
        context.Process(target=target, args=(url, f"owner{rank}", folder, barrier))  # type: ignore[arg-type]
        for rank in range(processes)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join(120)
    assert [process.exitcode for process in running] == [0] * processes


def test_processes_that_race_from_an_absent_table_claim_every_key_exactly_once(url: str, tmp_path: Path) -> None:
    _race(_claim_and_finish_all, url, tmp_path, processes=4)
    won = [key for path in tmp_path.glob("owner*") for key in path.read_text().split()]
    assert sorted(won) == KEYS
    entries = Ledger(url).entries(KEYS)
    assert {entry.state for entry in entries.values()} == {"finished"}
    for path in tmp_path.glob("owner*"):
        assert all(entries[key].owner == path.name for key in path.read_text().split())


def test_alone_lets_one_process_at_a_time_read_and_write(url: str, tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0")
    _race(_count_alone, url, tmp_path, processes=3)
    assert (tmp_path / "counter").read_text() == "15"
    assert Ledger(url).entries(["counting"]) == {}


def test_a_live_claim_belongs_to_one_owner(ledger: Ledger) -> None:
    assert ledger.claim("a", owner="ann")
    assert not ledger.claim("a", owner="bob")
    assert ledger.claim("a", owner="ann")  # asking again for what one holds is no conflict
    assert ledger.claim("b", owner="bob")


@pytest.mark.parametrize(("silence", "taken"), [(LEASE - 1, False), (LEASE, False), (LEASE + 1, True)])
def test_a_claim_can_be_taken_over_once_its_lease_ran_out(
    ledger: Ledger, clock: Clock, silence: float, taken: bool
) -> None:
    ledger.claim("a", owner="ann")
    clock.now += silence
    assert ledger.claim("a", owner="bob") == taken
    assert ledger.heartbeat("a", owner="ann") != taken
    assert ledger.entries(["a"])["a"].owner == ("bob" if taken else "ann")


def _claim_and_die(url: str, key: str, when: float) -> None:
    assert Ledger(url, lease=LEASE, clock=lambda: when).claim(key, owner=owner_here())


@pytest.mark.parametrize(("silence", "taken"), [(LEASE / 3 - 1, False), (LEASE / 3 + 1, True)])
def test_a_claim_of_a_process_seen_to_be_dead_is_free_after_a_missed_beat(
    ledger: Ledger, clock: Clock, url: str, silence: float, taken: bool
) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_claim_and_die, args=(url, "a", clock.now))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    clock.now += silence
    assert ledger.claim("a", owner="bob") == taken


def test_an_owner_is_dead_only_if_that_can_be_known() -> None:
    alive = owner_here()
    machine, pid, started, mark = alive.rsplit(":", 3)
    assert not is_dead(alive)
    assert alive != owner_here()
    assert is_dead(f"{machine}:{pid}:{float(started) - 3600:.0f}:{mark}")  # its number was given to this process later
    assert not is_dead(f"{machine}:{pid}:{float(started) - 2:.0f}:{mark}")  # the clock was set
    assert not is_dead(f"another-machine:{pid}:{float(started) - 3600:.0f}:{mark}")
    assert not is_dead("ann")


def test_a_living_owner_keeps_its_claim_for_the_whole_lease(ledger: Ledger, clock: Clock) -> None:
    assert ledger.claim("a", owner=owner_here())
    clock.now += LEASE - 1
    assert not ledger.claim("a", owner="bob")
    clock.now += 2
    assert ledger.claim("a", owner="bob")


def test_a_heartbeat_renews_the_lease(ledger: Ledger, clock: Clock) -> None:
    ledger.claim("a", owner="ann")
    for _ in range(3):
        clock.now += LEASE - 1
        assert ledger.heartbeat("a", owner="ann")
    assert not ledger.claim("a", owner="bob")


def test_who_lost_the_claim_changes_nothing(ledger: Ledger, clock: Clock) -> None:
    ledger.claim("a", owner="ann")
    clock.now += LEASE + 1
    ledger.claim("a", owner="bob")
    before = ledger.entries(["a"])
    assert not ledger.finish("a", owner="ann", metrics={"test/f1": 1.0})
    assert not ledger.fail("a", owner="ann", error="too late")
    assert not ledger.release("a", owner="ann")
    assert ledger.entries(["a"]) == before
    assert ledger.finish("a", owner="bob", metrics={"test/f1": 2.0})
    assert ledger.entries(["a"])["a"].metrics == {"test/f1": 2.0}


def test_nobody_can_change_a_trial_that_was_never_claimed(ledger: Ledger) -> None:
    assert not ledger.heartbeat("a", owner="ann")
    assert not ledger.finish("a", owner="ann", metrics={})
    assert ledger.entries(["a"]) == {}


def test_a_finished_trial_is_never_claimed_again(ledger: Ledger, clock: Clock) -> None:
    ledger.claim("a", owner="ann")
    assert ledger.finish("a", owner="ann", metrics={})
    clock.now += 100 * LEASE
    assert not ledger.claim("a", owner="bob")
    assert not ledger.claim("a", owner="ann")
    assert not ledger.heartbeat("a", owner="ann")


def test_failed_and_interrupted_trials_are_claimable_at_once(ledger: Ledger, clock: Clock) -> None:
    ledger.claim("a", owner="ann")
    assert ledger.fail("a", owner="ann", error="loss is nan at step 3")
    assert ledger.entries(["a"])["a"] == Entry("a", "failed", "ann", clock.now, {}, "loss is nan at step 3")
    ledger.claim("b", owner="ann")
    assert ledger.release("b", owner="ann")
    assert ledger.entries(["b"])["b"].state == "interrupted"
    for key in "ab":
        assert ledger.claim(key, owner="bob")
        assert ledger.entries([key])[key] == Entry(key, "running", "bob", clock.now, {}, None)


def test_metrics_come_back_as_they_went_in(ledger: Ledger) -> None:
    metrics = {"test/f1": 0.1 + 0.2, "test/nll": 1e-300, "agreement": math.nan, "worst": math.inf}
    ledger.claim("a", owner="ann")
    ledger.finish("a", owner="ann", metrics=metrics)
    kept = ledger.entries(["a"])["a"].metrics
    assert kept.keys() == metrics.keys()
    assert math.isnan(kept["agreement"])
    assert {name: kept[name] for name in metrics if name != "agreement"} == {
        "test/f1": 0.1 + 0.2,
        "test/nll": 1e-300,
        "worst": math.inf,
    }


def test_thousands_of_keys_are_read_and_forgotten(ledger: Ledger) -> None:
    for key in ("first", "last"):
        ledger.claim(key, owner="ann")
        ledger.finish(key, owner="ann", metrics={})
    keys = ["first", *(f"absent{number}" for number in range(40_000)), "last"]
    assert ledger.entries(keys).keys() == {"first", "last"}
    assert ledger.forget(keys) == 2
    assert ledger.entries(keys) == {}


def test_forget_frees_what_ended_and_spares_what_runs(ledger: Ledger, clock: Clock) -> None:
    ledger.claim("dead", owner="ann")
    clock.now += LEASE + 1
    for key in ("done", "broken", "alive"):
        ledger.claim(key, owner="ann")
    ledger.finish("done", owner="ann", metrics={})
    ledger.fail("broken", owner="ann", error="out of memory")
    assert ledger.forget(["dead", "done", "broken", "alive", "unknown"]) == 3
    assert ledger.entries(["dead", "done", "broken", "alive"]).keys() == {"alive"}
    assert ledger.claim("done", owner="bob")


class Watched(Ledger):
    """A ledger that tells a test when a heartbeat was answered."""

    def __init__(self, url: str) -> None:
        super().__init__(url, lease=0.2)
        self.beats = threading.Semaphore(0)

    def heartbeat(self, key: str, *, owner: str) -> bool:
        kept = super().heartbeat(key, owner=owner)
        self.beats.release()
        return kept


def test_a_claim_beats_while_its_block_runs_and_stops_after_it(url: str) -> None:
    ledger = Watched(url)
    ledger.claim("a", owner="ann")
    claimed = ledger.entries(["a"])["a"].heartbeat
    with Claim(ledger, "a", owner="ann") as claim:
        assert all(ledger.beats.acquire(timeout=30) for _ in range(3))
        assert not claim.lost
    assert ledger.entries(["a"])["a"].heartbeat > claimed
    assert "claim-a" not in {thread.name for thread in threading.enumerate()}
    assert ledger.entries(["a"])["a"].state == "running"


def test_a_claim_says_that_it_was_lost(url: str) -> None:
    ledger = Watched(url)
    ledger.claim("a", owner="ann")
    assert ledger.release("a", owner="ann")
    with Claim(ledger, "a", owner="ann") as claim:
        claim._thread.join(30)
        assert claim.lost


@pytest.mark.parametrize("bad", ["no url", "nosuchdatabase://host/name", "sqlite://", "sqlite:///:memory:"])
def test_a_url_that_cannot_hold_a_ledger_is_refused_with_the_cure(bad: str) -> None:
    with pytest.raises(ValueError, match=r"sqlite:///folder/ledger\.db"):
        Ledger(bad)


def test_a_refusal_does_not_show_the_password() -> None:
    with pytest.raises(ValueError, match="ledger") as refusal:
        Ledger("nosuchdatabase://ann:hunter2@host/name")
    assert "hunter2" not in str(refusal.value)
