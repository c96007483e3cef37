"""From a model's name to files on this machine: a folder, or what a hub has, kept in its cache.

`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE` are Hugging Face's own variables and mean what they always do.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm import tqdm

from llm.config import EngineConfig
from llm.errors import ModelLoadError
from llm.model_folder import require_content, require_whole

# Told a phase and the share of it that is done.
Report = Callable[[str, float | None], None]

_DESCRIPTION = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
# Copies of the weights for other programs, and checkpoints of the training.
_IGNORED = ["*/*", "consolidated*", "*training_args*", "optimizer*"]
_NAMES_SHOWN = 4


@dataclass(frozen=True)
class ModelFiles:
    """Where transformers shall read the model from; `gguf` is the name of the file that holds it all, or None."""

    folder: Path
    gguf: str | None = None


def find_model(config: EngineConfig, report: Report) -> ModelFiles:
    """Have the model's files on this machine.

    Raises:
        ModelLoadError: they cannot be had; the message says what to do.
    """
    name = os.path.expanduser(config.model_name)
    if Path(name).is_dir():
        return _in_folder(Path(name), config.model_name)
    if name.endswith(".gguf") and Path(name).is_file():
        require_content(Path(name), config.model_name)
        return ModelFiles(Path(name).parent, Path(name).name)
    if name.startswith(("/", "./", "../")):
        raise ModelLoadError(f"TAKEOFF_MODEL_NAME={config.model_name}: there is no such folder")
    with _failures_told(config):
        return _from_hub(config, report)


def _in_folder(folder: Path, name: str, listed: list[str] | None = None) -> ModelFiles:
    if (folder / "config.json").exists():
        require_whole(folder, name)
        return ModelFiles(folder)
    gguf = sorted(path.name for path in folder.glob("*.gguf")) if listed is None else listed
    if not gguf and (folder / "adapter_config.json").exists():
        raise ModelLoadError(
            f"the model {name} cannot be loaded: it is an adapter for another model: merge both, and give the result"
        )
    if not gguf:
        raise ModelLoadError(
            f"the model {name} cannot be loaded: it has neither a config.json nor a GGUF file: give the folder that has"
        )
    if len(gguf) > 1:
        shown = ", ".join(gguf[:_NAMES_SHOWN]) + (", ..." if len(gguf) > _NAMES_SHOWN else "")
        raise ModelLoadError(
            f"the model {name} cannot be loaded: it has {len(gguf)} GGUF files ({shown}): "
            f"name one of them, as in TAKEOFF_MODEL_NAME={name}/{gguf[0]}"
        )
    if listed is None:
        require_content(folder / gguf[0], name)
    return ModelFiles(folder, gguf[0])


def _from_hub(config: EngineConfig, report: Report) -> ModelFiles:
    repository, gguf = _repository(config.model_name)
    report("looking for the model", None)
    bar = _reporting_bar(report)

    def download(*patterns: str) -> Path:
        revision = config.revision or None
        return Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=list(patterns), ignore_patterns=_IGNORED, tqdm_class=bar
            )
        )

    if gguf is not None:
        return ModelFiles(download(gguf), gguf)
    code = ["*.py"] if config.trust_remote_code else []
    folder = download(*_DESCRIPTION, *code)
    names = _names_in(repository, config.revision or None, folder)
    if "config.json" not in names:
        found = _in_folder(folder, repository, sorted(name for name in names if name.endswith(".gguf")))
        return ModelFiles(download(found.gguf or ""), found.gguf)
    has_safetensors = any(name.endswith(".safetensors") for name in names)
    return ModelFiles(download("*.safetensors" if has_safetensors else "pytorch_model*.bin"))


def _names_in(repository: str, revision: str | None, folder: Path) -> list[str]:
    """The files of a repository; of a cache that an older client has filled, which lists none, those that are there."""
    try:
        return [file.path for file in get_cached_repo_tree(repository, revision=revision)]
    except CachedRepoTreeNotFoundError:
        return [path.name for path in folder.iterdir()]


def _repository(name: str) -> tuple[str, str | None]:
    """A hub name, and the file in it that may be named behind it: `org/name/file.gguf`."""
    repository, _, file = name.rpartition("/")
    return (repository, file) if name.endswith(".gguf") and "/" in repository else (name, None)


def _reporting_bar(report: Report) -> type[Any]:
    """A progress bar of tqdm that shows nothing and reports bytes instead."""

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": False, "file": _Nowhere()})

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if self.unit == "B" and self.total and self.n:
                report(f"downloading {self.total / 1e6:.0f} MB", min(self.n / self.total, 1.0))
            return shown

    return Bar


class _Nowhere:
    """A file that takes what bars draw."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None: ...


@contextmanager
def _failures_told(config: EngineConfig) -> Iterator[None]:
    """Within the block, what the hub's client raises becomes one sentence that says what to do."""
    try:
        yield
    except ModelLoadError:
        raise
    except Exception as error:
        reason = _reason(config, error)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            reason = f"the disk of its cache {constants.HF_HUB_CACHE} is full"
        raise ModelLoadError(f"the model {config.model_name} cannot be had: {reason}") from error


def _reason(config: EngineConfig, error: Exception) -> str:
    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    match error:
        case GatedRepoError():
            return f"it is gated: accept its terms on {hub}, and set HF_TOKEN to a token of the account that did"
        case RepositoryNotFoundError():
            return f"{hub} has none of that name that it shows us: mind the spelling, or set HF_TOKEN if it is private"
        case RevisionNotFoundError():
            return f"it has no revision {config.revision!r}: set TAKEOFF_REVISION to a branch, tag or commit of it"
        case IncompleteSnapshotError():
            return f"only a part of it is in {cache}, and {_away(hub)}"
        case LocalEntryNotFoundError():
            return f"it is not in {cache}, and {_away(hub)}"
        case HFValidationError():
            return "it is neither a folder nor a hub name, which is made of organisation/name"
        case HfHubHTTPError():
            return f"{hub} answers {error.response.status_code}: try again later, or check HF_TOKEN and HF_ENDPOINT"
    return f"{' '.join(str(error).split()) or type(error).__name__}; start again to go on from here"


def _away(hub: str) -> str:
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set: start once without it, or give a local folder"
    return f"{hub} cannot be reached: check the network and HF_ENDPOINT, or give a local folder"
