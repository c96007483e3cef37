"""Whether the files of a model's folder are whole, asked before minutes are spent on loading them."""

import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from llm.errors import ModelLoadError

_READ_BY_TRANSFORMERS = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "*.index.json")
_GIT_LFS = b"version https://git-lfs"
_AGAIN = "copy or download it again, whole"


def require_whole(folder: Path, name: str) -> None:
    """See to it that the files of the model `name` in `folder` are what they seem, and that none is missing.

    Raises:
        ModelLoadError: one is not; the message says what to do.
    """
    for problem in _problems(folder):
        raise ModelLoadError(f"the model {name} cannot be loaded: {problem}")


def require_content(path: Path, name: str) -> None:
    """See to it that this file of the model `name` holds something of its own.

    Raises:
        ModelLoadError: it does not; the message says what to do.
    """
    if problem := _problem_of_content(path):
        raise ModelLoadError(f"the model {name} cannot be loaded: {problem}")


def _problems(folder: Path) -> Iterator[str]:
    for pattern in _READ_BY_TRANSFORMERS:
        yield from filter(None, map(_problem_of_content, sorted(folder.glob(pattern))))
    parts = ["model.safetensors"]
    for index in folder.glob("*.safetensors.index.json"):
        try:
            parts = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            yield f"{index.name} is no index of weights: {_AGAIN}"
        if missing := [part for part in parts if not (folder / part).exists()]:
            yield f"{len(missing)} of its {len(parts)} files of weights are missing, {missing[0]} for one: {_AGAIN}"
    yield from filter(None, (_problem_of_weights(folder / part) for part in parts if (folder / part).exists()))


def _problem_of_content(path: Path) -> str:
    """Empty when there is none."""
    try:
        with path.open("rb") as file:
            beginning = file.read(len(_GIT_LFS))
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    if not beginning:
        return f"{path.name} is empty: {_AGAIN}"
    if beginning == _GIT_LFS:
        return f"{path.name} is only Git LFS's pointer to the file: run 'git lfs pull' in {path.parent}"
    return ""


def _problem_of_weights(path: Path) -> str:
    """Of a safetensors file whose header does not fit it; empty when there is none."""
    if problem := _problem_of_content(path):
        return problem
    try:
        with safe_open(path, framework="pt"):
            return ""
    except (SafetensorError, OSError) as error:
        return f"{path.name} is cut short, or no file of weights ({error}): {_AGAIN}"
