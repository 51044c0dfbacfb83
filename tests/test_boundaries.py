"""The layout, held by the sources' own imports: who may import whom, lazy imports and type-checking ones included.

`python -m pytest tests/test_boundaries.py -s` prints the graph of the engine's packages.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
ENGINE = "sweeps.engine"
LAYERS = (
    {"design", "store", "cluster"},
    {"plan", "worker"},
    {"analysis", "tracking"},
    {"search", "verify", "doctor", "human_eval"},
    {"report"},
    {"paper"},
    {"driver"},
    {"cli"},
)
"""The engine's packages, lowest first: a package imports only packages of lower layers."""
IMPORTERS = {
    "ray.train": {"worker.train_run"},
    "ray.tune": {"driver.rounds", "driver.tune_callback", "driver.tune_patch", "search.searcher", "worker.supervisor"},
    "mlflow": {"tracking.mlflow_runs"},
    "optuna": {
        "report.search_figures",
        "report.search_results",
        "search.optuna_searcher",
        "search.searcher",
        "search.study",
    },
    "typer": None,  # any module of cli, and no other
    "jinja2": {"report.write"},
    "sqlalchemy": {"store.ledger", "tracking.uri"},
    "matplotlib": {"report.drawing"},
}
"""By library, the only modules of the engine that import it."""
RAY = {
    *("cluster.nodes", "cluster.ray_runtime", "driver.rounds", "driver.tune_callback", "driver.tune_patch"),
    *("doctor.cluster_yaml", "doctor.examine", "search.searcher", "worker.supervisor", "worker.train_run"),
}
FORBIDDEN = {
    "worker": {"mlflow", "optuna", "typer", "rich"},
    "analysis": {"ray", "torch", "optuna", "mlflow"},
}
"""By package, what none of its modules imports."""
MOST_LINES, MOST_MODULES = 350, 13
VAGUE = {"utils", "helpers", "common", "misc"}

Graph = Mapping[str, set[str]]


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere in it; of `from a import b` both `a` and `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(package: str) -> dict[str, Path]:
    """The modules of a package by dotted name, without the packages' own `__init__`."""
    root = PROJECT / package.replace(".", "/")
    return {
        ".".join(path.relative_to(PROJECT).with_suffix("").parts): path
        for path in sorted(root.rglob("*.py"))
        if path.name != "__init__.py"
    }


def graph_of(modules: Mapping[str, Path]) -> dict[str, set[str]]:
    """Which of some modules each of them imports."""
    return {name: {other for other in imported(path) if other in modules} for name, path in modules.items()}


def cycles(graph: Graph) -> list[list[str]]:
    """Groups of nodes that reach each other (Tarjan 1972), and nodes that import themselves."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1 or node in graph[node]:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def packages_of(graph: Graph) -> dict[str, set[str]]:
    """The same by the engine's packages."""
    found: dict[str, set[str]] = {}
    for name, others in graph.items():
        package = name.split(".")[2]
        found.setdefault(package, set()).update(other.split(".")[2] for other in others)
        found[package].discard(package)
    return found


def importers_of(library: str, modules: Mapping[str, Path]) -> set[str]:
    """The engine's modules that import a library or a part of it, without the engine's own prefix."""
    return {
        name.removeprefix(f"{ENGINE}.")
        for name, path in modules.items()
        if any(one == library or one.startswith(f"{library}.") for one in imported(path))
    }


ENGINE_MODULES = sources(ENGINE)
GRAPH = graph_of(ENGINE_MODULES)
PACKAGES = packages_of(GRAPH)


def test_the_checks_see_a_cycle() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}}) == [["b", "c"], ["d"]]


def test_the_packages_and_what_they_import() -> None:
    """The graph, printed; each package is in one layer."""
    for number, layer in enumerate(LAYERS, start=1):
        for package in sorted(layer):
            print(f"L{number}  {package:<10} -> {', '.join(sorted(PACKAGES[package])) or '-'}")
    assert sorted(PACKAGES) == sorted(package for layer in LAYERS for package in layer)


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_package_imports_lower_layers_alone(package: str) -> None:
    layer_of = {one: number for number, layer in enumerate(LAYERS) for one in layer}
    too_high = {other for other in PACKAGES[package] if layer_of[other] >= layer_of[package]}
    assert not too_high, f"{package} (layer {layer_of[package] + 1}) imports {sorted(too_high)}"


@pytest.mark.parametrize("root", [ENGINE, "spt_core"])
def test_no_module_reaches_itself(root: str) -> None:
    assert not cycles(graph_of(sources(root)))


def test_no_package_reaches_itself() -> None:
    assert not cycles(PACKAGES)


@pytest.mark.parametrize("library", IMPORTERS)
def test_a_library_has_its_importers(library: str) -> None:
    found = importers_of(library, ENGINE_MODULES)
    allowed = IMPORTERS[library]
    if allowed is None:
        assert all(name.startswith("cli.") for name in found), found
    else:
        assert found == allowed


def test_ray_has_its_importers() -> None:
    assert importers_of("ray", ENGINE_MODULES) == RAY


@pytest.mark.parametrize("package", FORBIDDEN)
def test_what_a_package_never_imports(package: str) -> None:
    modules = sources(f"{ENGINE}.{package}")
    assert modules
    for name, path in modules.items():
        assert not FORBIDDEN[package] & {one.split(".")[0] for one in imported(path)}, name


def test_the_core_imports_no_ray_no_optuna_no_mlflow_and_no_sweep() -> None:
    modules = sources("spt_core")
    assert len(modules) > 10
    for name, path in modules.items():
        assert not {one.split(".")[0] for one in imported(path)} & {"ray", "optuna", "mlflow", "sweeps"}, name


@pytest.mark.parametrize("path", sorted((PROJECT / "sweeps").glob("[a-z]*.py")), ids=lambda path: path.name)
def test_a_question_needs_the_front_door_alone(path: Path) -> None:
    assert {name for name in imported(path) if name.startswith("sweeps") and name.count(".") <= 1} <= {ENGINE}
    front_door = {name.rpartition(".")[0] for name in imported(path) if name.startswith(f"{ENGINE}.")}
    assert front_door <= {ENGINE}


def test_only_the_trial_folder_knows_the_names_of_a_trials_files() -> None:
    from sweeps.engine.store import trial_folder

    names = {name for name in trial_folder.FILES if "." in name}
    for module, path in ENGINE_MODULES.items():
        if module == f"{ENGINE}.store.trial_folder":
            continue
        texts = {
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not names & texts, module


OPENING = {"read_text", "write_text", "read_bytes", "write_bytes", "open", "read_parquet", "ParquetFile", "to_parquet"}


@pytest.mark.parametrize("module", [name for name in ENGINE_MODULES if not name.endswith("store.trial_folder")])
def test_only_the_trial_folder_opens_a_trials_files(module: str) -> None:
    """No other module hands one of its file names to a call that opens a file, or imports one by itself."""
    for node in ast.walk(ast.parse(ENGINE_MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in OPENING:
            assert "trial_folder." not in ast.unparse(node), f"{module}, line {node.lineno}"
        if isinstance(node, ast.ImportFrom) and node.module == f"{ENGINE}.store.trial_folder":
            assert not [alias.name for alias in node.names if alias.name.isupper()], module


OWN = ("sweeps", "spt_core", "benchmarks", "tools", "tests")


@pytest.mark.parametrize("folder", OWN)
def test_no_file_is_too_long(folder: str) -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (PROJECT / folder).rglob("*.py")}
    assert lengths
    assert not {str(path.relative_to(PROJECT)): n for path, n in lengths.items() if n > MOST_LINES}


def test_no_package_is_too_wide_and_no_name_is_vague() -> None:
    sizes: dict[str, int] = {}
    for name in ENGINE_MODULES:
        package, module = name.split(".")[2:]
        sizes[package] = sizes.get(package, 0) + 1
        assert module not in VAGUE, name
    assert max(sizes.values()) <= MOST_MODULES, sizes


def test_no_module_hides_one_of_the_standard_library() -> None:
    """A script's own folder is first on sys.path, so sweeps/statistics.py would break its own imports."""
    names = {path.stem for path in (PROJECT / "sweeps").glob("*.py")}
    assert not names & sys.stdlib_module_names
