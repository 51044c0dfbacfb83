"""How a trial stands: the words of the ledger, the results, the reports and `spt status`."""

from typing import Literal

State = Literal["running", "finished", "failed", "interrupted", "pruned"]
"""What the ledger says. `finished` is at full budget, `interrupted` is resumed, `pruned` was stopped by a search."""
Shown = Literal["running", "finished", "failed", "interrupted", "pruned", "left", "not run"]
"""What people are shown: also `left`, by a driver that died, and `not run`, of which the ledger knows nothing."""
NOT_RUN: Shown = "not run"
ENDED = frozenset({"finished", "failed", "pruned"})
"""States that only a rerun leaves."""
