"""Who may import whom."""

import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


def imported(path: Path) -> set[str]:
    """Top-level names of every import in a file, the lazy ones inside functions included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_the_core_imports_no_ray_no_optuna_no_mlflow_and_no_sweep() -> None:
    files = sorted((PROJECT / "spt_core").rglob("*.py"))
    assert len(files) > 10
    for path in files:
        roots = {name.split(".")[0] for name in imported(path)}
        assert not roots & {"ray", "optuna", "mlflow", "sweeps"}, path.name


def test_mlflow_has_one_importer() -> None:
    importers = {
        p.name for p in (PROJECT / "sweeps").rglob("*.py") if any(n.split(".")[0] == "mlflow" for n in imported(p))
    }
    assert importers == {"mlflow_runs.py"}


@pytest.mark.parametrize("path", sorted((PROJECT / "sweeps").glob("[a-z]*.py")), ids=lambda path: path.name)
def test_a_question_reaches_the_engine_by_its_front_door(path: Path) -> None:
    allowed = {"sweeps.engine.cli.main", "sweeps.engine.design.designs", "sweeps.engine.design.search_space"}
    assert {name for name in imported(path) if name.startswith("sweeps")} <= allowed


def test_no_module_hides_one_of_the_standard_library() -> None:
    """A script's own folder is first on sys.path, so sweeps/statistics.py would break its own imports."""
    import sys

    names = {path.stem for path in (PROJECT / "sweeps").glob("*.py")}
    assert not names & sys.stdlib_module_names
