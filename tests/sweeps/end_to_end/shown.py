"""What MLflow shows of an experiment, asked of the store itself."""

from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run


class Shown:
    """What MLflow shows of an experiment, asked of the store itself."""

    def __init__(self, uri: str, experiment: str = "k_sweep") -> None:
        self.client = MlflowClient(uri)
        found = self.client.get_experiment_by_name(experiment)
        runs: list[Run] = self.client.search_runs([found.experiment_id]) if found else []
        self.parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        self.children = {run.data.tags["spt.trial_key"]: run for run in runs if run not in self.parents}
        assert len(runs) == len(self.parents) + len(self.children), "two children of one trial"

    @property
    def parent(self) -> Run:
        (parent,) = self.parents
        return parent

    def steps(self, key: str, metric: str) -> list[tuple[int, float]]:
        points = self.client.get_metric_history(self.children[key].info.run_id, metric)
        return [(point.step, point.value) for point in points]

    def files(self, run: Run, under: str | None = None) -> set[str]:
        return {file.path for file in self.client.list_artifacts(run.info.run_id, under)}

    def everything(self) -> dict[str, Any]:
        """All that a second delivery should leave as it is."""
        return {
            key: (run.info.run_id, run.data.to_dictionary(), {name: self.steps(key, name) for name in run.data.metrics})
            for key, run in self.children.items()
        }
