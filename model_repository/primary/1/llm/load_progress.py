"""What a load is doing: told to the log now and then, and to whoever else listens each time. On the loading thread."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging as transformers_logging

log = logging.getLogger(__name__)

Listener = Callable[[str, float | None], None]
_LOG_SECONDS = 5.0
_LISTEN_SECONDS = 0.5


class LoadProgress:
    """Call it with a phase and how much of it is done, from 0 to 1, or None when nobody knows."""

    def __init__(self, listener: Listener | None = None) -> None:
        self._listener = listener
        self._phase = ""
        self._logged_at = self._told_at = 0.0

    def __call__(self, phase: str, share: float | None = None) -> None:
        """Report. Cheap enough for every step."""
        now, is_new = time.monotonic(), phase != self._phase
        self._phase = phase
        if is_new or now - self._logged_at > _LOG_SECONDS:
            self._logged_at = now
            log.info("%s", phase if share is None else f"{phase}: {share:.0%}")
        if self._listener is not None and (is_new or now - self._told_at > _LISTEN_SECONDS):
            self._told_at = now
            self._listener(phase, share)

    @contextmanager
    def of_transformers(self, phase: str) -> Iterator[None]:
        """Within the block, transformers' progress bars are reports of this phase."""

        def bar(_factory: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
            return _Reported(self, phase, *arguments, **named)

        before = transformers_logging.set_tqdm_hook(bar)
        self(phase)
        try:
            yield
        finally:
            transformers_logging.set_tqdm_hook(before)


class _Reported:
    """As much of tqdm as transformers uses while it loads."""

    def __init__(self, progress: LoadProgress, phase: str, items: Any = None, **named: Any) -> None:
        self._progress, self._phase, self._items = progress, phase, items
        self._total = named.get("total") or (len(items) if hasattr(items, "__len__") else 0)
        self._done = 0

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            yield item
            self.update()

    def update(self, count: int = 1) -> None:
        self._done += count
        self._progress(self._phase, self._done / self._total if self._total else None)

    def __enter__(self) -> "_Reported":
        return self

    def __exit__(self, *_: object) -> None: ...

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_arguments, **_named: None
