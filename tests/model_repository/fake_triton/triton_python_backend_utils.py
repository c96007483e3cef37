"""A stand-in for the module that exists only inside Triton's Python backend: what our model uses of it, no more."""

from typing import Any

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
