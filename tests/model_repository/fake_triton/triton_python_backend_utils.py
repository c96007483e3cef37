"""A stand-in for the module that exists only inside Triton's Python backend: what our model uses of it, no more."""

from typing import Any, ClassVar

import numpy as np

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class TritonModelException(Exception):
    """Raised by a model that cannot load."""


class Tensor:
    """A named numpy array."""

    def __init__(self, name: str, array: "np.ndarray[Any, Any]") -> None:
        self._name = name
        self._array = array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> "np.ndarray[Any, Any]":
        return self._array


class InferenceResponse:
    """What a sender sends."""

    def __init__(self, output_tensors: list[Tensor]) -> None:
        self.output_tensors = output_tensors


def get_input_tensor_by_name(request: Any, name: str) -> Tensor | None:
    return next((tensor for tensor in request.inputs if tensor.name() == name), None)


class Metric:
    """One label set of a family; remembers what it was told."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.value = 0.0
        self.observations: list[float] = []

    def increment(self, value: float) -> None:
        assert self._kind == "counter"
        assert value >= 0
        self.value += value

    def set(self, value: float) -> None:
        assert self._kind == "gauge"
        self.value = value

    def observe(self, value: float) -> None:
        assert self._kind == "histogram"
        self.observations.append(value)


class MetricFamily:
    """Metrics of one name. `shown` holds those of the whole process, by name and labels, as Triton does."""

    COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
    shown: ClassVar[dict[tuple[str, frozenset[tuple[str, str]]], Metric]] = {}

    def __init__(self, name: str, description: str, kind: str) -> None:
        self._name = name
        self._kind = kind

    def Metric(self, labels: dict[str, str], buckets: list[float] | None = None) -> Metric:  # noqa: N802
        assert (buckets is not None) == (self._kind == "histogram")
        assert buckets is None or buckets == sorted(set(buckets))
        return self.shown.setdefault((self._name, frozenset(labels.items())), Metric(self._kind))
