"""Soak test: 200 trials of one sweep while its workers and drivers are killed; no trial may be lost or duplicated.

The first trials run in Train workers, the rest in process, on a tiny random model. Workers are killed by SIGKILL at
random times, and the driver three times: in the middle of the first part, at its end, and in the middle of the second.
Each time the same command resumes the sweep. At the end the ledger, MLflow, the report and the trials' folders are
compared.

    python -m benchmarks.soak --json
"""

import json
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from benchmarks import options
from benchmarks.orchestration import random_model
from tests.family import TRAIN_WORKER, TUNE_FUNCTION, Family

SWEEP = '''"""Is anything lost?"""
from spt_core.config import TrialConfig
from sweeps.engine import Grid, Sweep

RATES = {{"optim.learning_rate": [0.001, 0.01, 0.1, 1.0]}}
SWEEP = Sweep(name="soak", base=TrialConfig(), design=Grid(RATES), baseline={{"optim.learning_rate": 0.001}})
'''
_CELLS = 4
_MIB = 2**20
_MOST_SECONDS = 3600.0
_GRACE_SECONDS = 120.0


@dataclass
class _Soak:
    """The command of one sweep, started again after each kill.

    Attributes:
        folder: working directory; the output is `runs` in it.
        arguments: command-line arguments.
        dice: random generator of the times of the kills and of the processes to kill.
        say: receives a line of progress.
        total: number of trials.
        kills: number of kills of each kind.
        orphans: processes that were alive too long after the end of their driver.
        memory: for each driver, pairs of the number of finished trials and the memory in MiB.
    """

    folder: Path
    arguments: list[str]
    dice: random.Random
    say: Callable[[str], None]
    total: int
    kills: Counter[str] = field(default_factory=Counter)
    orphans: list[str] = field(default_factory=list)
    memory: list[list[tuple[int, float]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._started = time.monotonic()

    def finished(self) -> int:
        """Number of trials with a metrics file, which are finished."""
        return sum(1 for _ in (self.folder / "runs" / "trials").glob("*/metrics.json"))

    def run(self, *, workers: int, until: int | None, every: int) -> int:
        """Run the command; kill workers at random times, and the driver after a number of finished trials.

        Args:
            workers: `--workers`.
            until: number of finished trials after which the driver is killed; None: it is not killed.
            every: mean number of trials between two kills of a worker; 0: no worker is killed.

        Returns:
            The exit status.
        """
        family = Family([*self.arguments, "--workers", str(workers)], folder=self.folder)
        driver, title = psutil.Process(family.driver.pid), TRAIN_WORKER if workers else TUNE_FUNCTION
        memory: list[tuple[int, float]] = []
        self.memory.append(memory)
        next_kill, deadline, said = self._after(self.finished(), every), time.monotonic() + _MOST_SECONDS, -1
        while family.driver.poll() is None:
            done = self.finished()
            if done != said:
                said = done
                memory.append((done, driver.memory_info().rss / _MIB))
                self.say(f"{done} of {self.total} finished, {dict(self.kills)} killed, {self._eta()}")
            if until is not None and done >= until:
                family.driver.send_signal(signal.SIGKILL)
                self.kills["driver"] += 1
                break
            if every and done >= next_kill and (victims := family.processes(title)):
                next_kill = self._after(done, every)
                self.dice.choice(victims).kill()
                self.kills["train worker" if workers else "tune function"] += 1
            if time.monotonic() > deadline:
                family.driver.kill()
                raise TimeoutError(f"the sweep hangs at {done} trials:\n{family.output[-2000:]}")
            time.sleep(0.2)
        self.orphans += [str(one) for one in family.wait(timeout=_GRACE_SECONDS, grace=_GRACE_SECONDS)]
        code = family.driver.returncode
        if code not in {0, -signal.SIGKILL}:
            self.say(family.output[-4000:])
        return code

    def _eta(self) -> str:
        done, spent = self.finished(), time.monotonic() - self._started
        return f"ETA {spent / done * (self.total - done) / 60:.0f} min" if done else "ETA unknown"

    def _after(self, done: int, every: int) -> int:
        return done + self.dice.randint(1, max(1, 2 * every - 1))


def measure(
    *, in_process: int, in_workers: int, every: int, seed: int, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Run the sweep with all its kills, and count what the ledger, MLflow and the report contain.

    Args:
        in_process: number of trials of the second part; its sum with `in_workers` is a multiple of 4.
        in_workers: number of trials of the first part.
        every: mean number of trials between two kills of a worker.
        seed: seed of the kills.
        say: receives a line of progress.

    Returns:
        Kills, trials by state in the ledger, MLflow and the report, faults found, orphans, and driver memory.
    """
    total, started = in_process + in_workers, time.monotonic()
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="spt-soak-") as work:
        folder = Path(work)
        (folder / "soak.py").write_text(SWEEP.format())
        model = random_model(folder / "model")
        command = ["-m", "sweeps.engine.cli.main", "run", "soak.py", "--scale", "tiny", "--model", str(model)]
        command += ["--seeds", str(total // _CELLS), "--concurrency", "2", "--cpus-per-worker", "1"]
        soak = _Soak(folder, [*command, "--output", "runs"], dice, say, total)
        soak.run(workers=1, until=dice.randint(1, max(1, in_workers - 1)), every=every)
        soak.run(workers=1, until=in_workers, every=every)
        soak.run(workers=0, until=in_workers + dice.randint(in_process // 4, in_process // 2), every=every)
        codes = [soak.run(workers=0, until=None, every=every)]
        codes.append(soak.run(workers=0, until=None, every=0))  # sends to MLflow what it lacks; no trial runs
        found = {"trials": total, "exit_codes": codes, "killed": dict(soak.kills), **_count(folder / "runs")}
        last = soak.memory[3]
    found["lost"] = total - found["ledger"].get("finished", 0)
    found["orphans"] = soak.orphans
    half = [mib for done, mib in last if done >= (last[0][0] + total) // 2]
    found["driver_mib"] = {"half way": round(half[0]), "end": round(half[-1]), "trials": total - last[0][0]}
    return {**found, "seconds": round(time.monotonic() - started)}


def _count(runs: Path) -> dict[str, Any]:
    """The contents of ledger, report and MLflow for the sweep, and their differences."""
    from mlflow import MlflowClient

    from sweeps.engine.store.ledger import Ledger

    (report,) = runs.glob("soak-*/results.json")
    table = json.loads(report.read_text())["trials"]
    entries = Ledger(f"sqlite:///{runs / 'ledger.db'}").entries([trial["key"] for trial in table])
    client = MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
    runs_shown = client.search_runs([client.get_experiment_by_name("soak").experiment_id], max_results=5000)
    children = [run for run in runs_shown if "mlflow.parentRunId" in run.data.tags]
    shown = Counter(run.data.tags["spt.trial_key"] for run in children)
    faults = []
    for run in children:
        entry = entries[run.data.tags["spt.trial_key"]]
        if any(run.data.metrics.get(name) != value for name, value in entry.metrics.items()):
            faults.append(f"{entry.key}: MLflow's final metrics are not the ledger's")
    for key in entries:
        rows = [json.loads(line) for line in (runs / "trials" / key / "history.jsonl").read_text().splitlines()]
        if [row["step"] for row in rows] != list(range(int(entries[key].metrics.get("train/steps", -1)) + 1)):
            faults.append(f"{key}: its history has not each step once")
    return {
        "ledger": dict(Counter(entry.state for entry in entries.values())),
        "table": dict(Counter(trial["state"] for trial in table)),
        "mlflow": dict(Counter(run.info.status for run in children)),
        "parents": len(runs_shown) - len(children),
        "duplicated": sum(number - 1 for number in shown.values()) + len(table) - len(entries),
        "retries": sum(int(run.data.tags.get("spt.retries", 0)) for run in children),
        "faults": faults,
    }


def sound(found: dict[str, Any]) -> bool:
    """Whether ledger, report and MLflow have every trial exactly once, with its final metrics."""
    places = [found[place] for place in ("ledger", "table")]
    whole = all(place == {"finished": found["trials"]} for place in places)
    clean = not (found["lost"] or found["duplicated"] or found["faults"] or found["orphans"])
    return whole and clean and found["mlflow"] == {"FINISHED": found["trials"]} and found["parents"] == 1


def main(
    *,
    in_process: Annotated[int, typer.Option(help="Trials in process.")] = 160,
    in_workers: Annotated[int, typer.Option(help="Trials in Train workers.")] = 40,
    every: Annotated[int, typer.Option(help="Mean number of trials between two killed workers.")] = 6,
    seed: Annotated[int, typer.Option(help="Of the moments and the victims.")] = 0,
    as_json: options.AsJson = False,
) -> None:
    """Kill workers and drivers of one sweep, again and again, and count what is left; status 1 if it is not all."""
    found = measure(
        in_process=in_process,
        in_workers=in_workers,
        every=every,
        seed=seed,
        say=lambda line: typer.echo(line, err=True),
    )
    if as_json:
        options.print_json(found)
    else:
        for name, value in found.items():
            typer.echo(f"{name.replace('_', ' '):>12}  {value}")
    raise typer.Exit(0 if sound(found) else 1)


if __name__ == "__main__":
    typer.run(main)
