"""The kernels of `kernels.cu`, compiled for the GPU at hand when a model is loaded. Engine thread.

By NVRTC through NVIDIA's own bindings, which torch's CUDA build brings along: neither a CUDA toolkit nor a C compiler
has to be installed, and it takes a second.
"""

import ctypes
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from llm import drawing, noise

log = logging.getLogger(__name__)

# Draws hold the masses of so many segments of the vocabulary in a block's own memory.
MAX_SEGMENTS = 4096
# Instead of a token, where the logits are no numbers.
UNUSABLE = -2

_SOURCE = Path(__file__).with_name("kernels.cu")
Argument = torch.Tensor | int | float


class CudaKernels:
    """Kernels for one type of numbers on one GPU.

    Args:
        dtype: bfloat16 or float16.

    Raises:
        RuntimeError: they cannot be compiled, or loaded.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        from cuda.bindings import driver, nvrtc  # only there beside a torch for CUDA

        self.dtype = dtype
        self._driver: Any = driver
        self._nvrtc: Any = nvrtc
        major, minor = torch.cuda.get_device_capability(device)
        torch.cuda.current_stream(device).synchronize()  # so that there is a context
        code = self._compile([f"--gpu-architecture=sm_{major}{minor}", *_definitions(dtype)])
        module = self._checked(driver.cuModuleLoadData(code))
        names = ("normalise", "gate_silu", "rotate", "draw")
        self._functions = {name: self._checked(driver.cuModuleGetFunction(module, name.encode())) for name in names}

    def launch(self, name: str, blocks: int, threads: int, arguments: Sequence[Argument]) -> None:
        """Start a kernel on torch's current stream; tensors are given as the address of their first number."""
        if not blocks:  # CUDA refuses to start none
            return
        values = tuple(part.data_ptr() if isinstance(part, torch.Tensor) else part for part in arguments)
        types = tuple(_TYPES[type(part)] for part in arguments)
        stream = torch.cuda.current_stream().cuda_stream
        self._checked(
            self._driver.cuLaunchKernel(
                self._functions[name], blocks, 1, 1, threads, 1, 1, 0, stream, (values, types), 0
            )
        )

    def wait(self) -> None:
        """Until everything on torch's current stream has been done; other threads go on meanwhile."""
        torch.cuda.current_stream().synchronize()

    def _compile(self, options: list[str]) -> bytes:
        nvrtc = self._nvrtc
        program = self._checked(nvrtc.nvrtcCreateProgram(_SOURCE.read_bytes(), _SOURCE.name.encode(), 0, None, None))
        encoded = [option.encode() for option in options]
        (result,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
        if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            text = b" " * self._checked(nvrtc.nvrtcGetProgramLogSize(program))
            self._checked(nvrtc.nvrtcGetProgramLog(program, text))
            raise RuntimeError(f"{_SOURCE.name} cannot be compiled: {text.decode()}")
        code: bytes = b" " * self._checked(nvrtc.nvrtcGetCUBINSize(program))
        self._checked(nvrtc.nvrtcGetCUBIN(program, code))
        return code

    def _checked(self, answer: tuple[Any, ...]) -> Any:
        result, *values = answer
        if int(result) != 0:
            raise RuntimeError(f"CUDA: {result.name}")
        return values[0] if values else None


_TYPES: dict[type, Any] = {torch.Tensor: ctypes.c_void_p, int: ctypes.c_int, float: ctypes.c_float}


def find_kernels(dtype: torch.dtype, device: torch.device) -> CudaKernels | None:
    """The kernels for a model of this type, if this device can have them."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return None
    try:
        return CudaKernels(dtype, device)
    except (ImportError, RuntimeError) as error:
        log.warning("our own kernels cannot be used here, slower operations take their place: %s", error)
        return None


def _definitions(dtype: torch.dtype) -> list[str]:
    first, second = noise.MULTIPLIERS
    numbers: dict[str, Any] = {
        "IS_BFLOAT16": int(dtype == torch.bfloat16),
        "STEP": f"{noise.STEP % 2**64}ull",
        "MULTIPLIER_1": f"{first % 2**64}ull",
        "MULTIPLIER_2": f"{second % 2**64}ull",
        "NUM_UNIFORM": f"{float(noise.NUM_UNIFORM)}",
        "SEGMENT": drawing.SEGMENT,
        "MAX_SEGMENTS": MAX_SEGMENTS,
        "MAX_ATTEMPTS": drawing.MAX_ATTEMPTS,
        "ATTEMPT": f"{drawing.ATTEMPT}ll",
        "MIN_TEMPERATURE": f"{drawing.MIN_TEMPERATURE}f",
        "MISSED": f"({drawing.MISSED})",
        "UNUSABLE": f"({UNUSABLE})",
    }
    return [f"--define-macro={name}={number}" for name, number in numbers.items()]
