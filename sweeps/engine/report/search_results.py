"""What a search found, for the report: its trials ranked, its Pareto front, and which parameters mattered."""

import math
from collections import Counter
from collections.abc import Sequence

import optuna
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from sweeps.engine.design import metrics
from sweeps.engine.design.search import Search
from sweeps.engine.plan.search_space import SearchSpace
from sweeps.engine.report import search_figures
from sweeps.engine.report.drawing import Drawn
from sweeps.engine.report.figures import short, text_of
from sweeps.engine.report.table import ABSENT, Table, TableEntry, TableRow, number
from sweeps.engine.search.study import ABANDONED, ERROR, KEY, pareto_front, ranked

LEAST_TRIALS = 8
"""Full-budget trials below which an importance would say nothing."""
_MOST_ROWS = 20


class SearchResults:
    """A search that has run, or ran in part.

    Args:
        study: of the search.
        space: what it explored.
    """

    def __init__(self, study: optuna.Study, space: SearchSpace) -> None:
        self._design: Search = space.design
        self._trials = [one for one in study.get_trials(deepcopy=False) if KEY in one.user_attrs]
        self._ranked = ranked(study, space)

    @property
    def summary(self) -> str:
        """How many trials ended in which way, in a sentence."""
        states: dict[str, TrialState] = {}
        for one in self._trials:
            states.setdefault(one.user_attrs[KEY], one.state)
        counts = Counter(states.values())
        answered = len(self._trials) - len(states)
        most = search_figures.MOST_TRIALS
        return (
            f"{len(states)} distinct trials were explored on dev: {counts[TrialState.COMPLETE]} at full budget, which "
            f"alone are ranked, {counts[TrialState.PRUNED]} stopped early, {counts[TrialState.FAIL]} failed"
            f"{f'; {answered} equivalent proposals were answered without running' if answered else ''}."
            f"{f' The figures show the best {most}.' if len(self._ranked) > most else ''}"
        )

    def tables(self) -> dict[str, Table]:
        """The trials of the search, best first, and the importances, by heading."""
        found = {"The search: trials at full budget, best first": self._trial_table()}
        importances = self._importance_table()
        if importances.rows:
            found["The search: which parameters mattered"] = importances
        failed = [one for one in self._trials if one.state == TrialState.FAIL]
        if failed:
            reasons = [(one.user_attrs[KEY][:8], str(one.user_attrs.get(ERROR, ABANDONED))) for one in failed]
            rows = tuple(TableRow(key, (TableEntry(why),)) for key, why in reasons)
            found["The search: trials that failed"] = Table("trial", ("why",), rows)
        return found

    def _trial_table(self) -> Table:
        front = pareto_front(self._ranked, self._design.directions)
        rows = []
        for one in self._ranked[:_MOST_ROWS]:
            values = [_entry(value, name) for value, name in zip(one.values, self._design.objectives, strict=True)]
            levels = [_level(one, path) for path in self._design.space]
            notes = ("Pareto front",) if one in front and len(self._design.objectives) > 1 else ()
            rows.append(TableRow(one.user_attrs[KEY][:8], (*values, *levels), notes))
        return Table("trial", (*self._design.objectives, *map(short, self._design.space)), tuple(rows))

    def _importance_table(self) -> Table:
        """Shares of the variance over full-budget trials; a conditional parameter over the trials that have it."""
        rows, titles = [], []
        for name in self._design.objectives:
            titles += [f"fANOVA, {name}", f"PED-ANOVA, {name}"]
        for path in self._design.space:
            having = [one for one in self._ranked if path in one.params]
            if len(having) < LEAST_TRIALS or len({one.params[path] for one in having}) < 2:
                continue
            entries: list[TableEntry] = []
            for index in range(len(self._design.objectives)):
                entries += [
                    TableEntry(number(share, 2), value=share) for share in self._importance(having, path, index)
                ]
            rows.append(TableRow(short(path), (*entries, TableEntry(str(len(having)), value=len(having)))))
        return Table("parameter", (*titles, "trials"), tuple(rows))

    def _importance(self, having: Sequence[FrozenTrial], path: str, objective: int) -> list[float | None]:
        sign = -1.0 if self._design.directions[objective] == "maximize" else 1.0  # PED-ANOVA takes lower for better
        study = optuna.create_study()
        with_it = [shared for shared in self._design.space if all(shared in one.params for one in having)]
        varied = [shared for shared in with_it if len({one.params[shared] for one in having}) > 1]
        for one in having:
            study.add_trial(
                optuna.trial.create_trial(
                    params={name: one.params[name] for name in varied},
                    distributions={name: one.distributions[name] for name in varied},
                    value=sign * one.values[objective],
                )
            )
        shares: list[float | None] = []
        for evaluator in (FanovaImportanceEvaluator(seed=0), PedAnovaImportanceEvaluator()):
            try:
                share = get_param_importances(study, evaluator=evaluator, params=varied)[path]
            except (ValueError, RuntimeError):  # no variance to share out
                share = math.nan
            shares.append(share if math.isfinite(share) else None)
        return shares

    def figures(self) -> list[Drawn]:
        """The first two objectives, if there are two, and parallel coordinates.

        The Pareto front, or of one objective what is confirmed, is marked.
        """
        best = self._ranked[: self._design.confirm]
        if len(self._design.objectives) > 1:
            best = pareto_front(self._ranked, self._design.directions)
        both = (search_figures.scatter, search_figures.coordinates)
        return [drawn for draw in both if (drawn := draw(self._ranked, self._design, best)) is not None]


def _entry(value: float, metric: str) -> TableEntry:
    return TableEntry(number(value, metrics.of(metric).decimals), value=value)


def _level(one: FrozenTrial, path: str) -> TableEntry:
    level = one.params.get(path)
    if level is None:
        return TableEntry(ABSENT)
    return TableEntry(text_of(level), value=float(level))
