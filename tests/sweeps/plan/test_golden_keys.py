"""Trial keys and sweep ids are what they were: a refactoring must not make finished trials run again.

`tests/golden/trial_keys.json` was written before the engine was laid out in packages. Write it again only where keys
have to change: when `spt_core.NUMERICS_VERSION` is raised, or a config field is added or gets another default.
"""

import importlib
import importlib.metadata
import json
import pkgutil
from pathlib import Path

import pytest

import sweeps
from spt_core import backbone, weights
from spt_core.fields import BackboneConfig
from sweeps.engine.design.scales import SCALES
from sweeps.engine.plan.plan import expand

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "trial_keys.json").read_text())
QUESTIONS = sorted(module.name for module in pkgutil.iter_modules(sweeps.__path__) if module.name != "engine")


@pytest.fixture(autouse=True)
def _the_same_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models, precision and versions that do not depend on what is installed here."""

    def resolve(config: BackboneConfig) -> weights.Source:
        return weights.Source(config.name, None, f"weights of {config.name}")

    monkeypatch.setattr(weights, "resolve", resolve)
    monkeypatch.setattr(backbone, "resolve_precision", lambda precision, device_type: "float32")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_has_the_keys_that_it_had(question: str, scale: str) -> None:
    sweep, golden = importlib.import_module(f"sweeps.{question}").SWEEP, GOLDEN[f"{question} {scale}"]
    if isinstance(golden, str):
        with pytest.raises(ValueError, match=golden):
            expand(sweep, scale=scale, device_type="cpu")
        return
    plan = expand(sweep, scale=scale, device_type="cpu")
    assert plan.sweep_id == golden["sweep_id"]
    assert [trial.key for trial in {**plan.known, **plan.distinct}.values()] == golden["keys"]


def test_every_golden_question_is_still_asked() -> None:
    assert {name.partition(" ")[0] for name in GOLDEN} == set(QUESTIONS)
