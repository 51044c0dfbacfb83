"""What a check of a machine or cluster is asked about, and what it finds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: its name, the same on every machine.
        level: `ok`, `warning` (a sweep runs, but not as well as it could), `error` (it will fail).
        what: what was seen.
        why: why it matters; empty where all is well.
        cure: the command or the change that cures it.
        node: where; empty for what is no node's own.
    """

    check: str
    level: Level
    what: str
    why: str = ""
    cure: str = ""
    node: str = ""


@dataclass(frozen=True)
class Needs:
    """What a sweep would use, as its options give it."""

    model: str
    train: str
    test: str
    output: Path
    storage: str | None
    tracking_uri: str
    num_trials: int

    @property
    def sources(self) -> tuple[str, str, str, str]:
        """The arguments of `look`."""
        return self.model, self.train, self.test, str(self.output)
