"""`llm.cuda_kernels.CudaKernels` for tensors of a CPU: `kernels.cu` compiled by g++ behind `emulated_gpu.hpp`."""

import ctypes
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch
from llm import cuda_kernels

_HEADER = Path(__file__).with_name("emulated_gpu.hpp")
_PARAMETERS = {
    "normalise": "u16 *a, const u16 *b, const u16 *c, int d, float e",
    "gate_silu": "u16 *a, const u16 *b, int c, int d",
    "rotate": "u16 *a, const u16 *b, const u16 *c, int d, int e, int f, int g",
    "draw": "int *a, const u16 *b, const Row *c, int d, int e",
}


class EmulatedKernels:
    """For bfloat16; `folder` takes the compiled library."""

    dtype = torch.bfloat16

    def __init__(self, folder: Path) -> None:
        source, library = folder / "kernels.cpp", folder / "kernels.so"
        wrappers = [
            f'extern "C" void run_{name}(int blocks, int threads, {parameters}) '
            f"{{ run(blocks, threads, [&] {{ {name}({', '.join('abcdefg'[: parameters.count(',') + 1])}); }}); }}"
            for name, parameters in _PARAMETERS.items()
        ]
        parts = [f'#include "{_HEADER}"', f'#include "{cuda_kernels._SOURCE}"', *wrappers]
        source.write_text("\n".join(parts) + "\n")
        definitions = [option.replace("--define-macro=", "-D") for option in cuda_kernels._definitions(torch.bfloat16)]
        command = ["g++", "-std=c++17", "-O2", "-x", "c++", "-shared", "-fPIC", *definitions, source, "-o", library]
        subprocess.run(command, check=True, capture_output=True, text=True)
        self._library = ctypes.CDLL(str(library))

    def launch(self, name: str, blocks: int, threads: int, arguments: Sequence[torch.Tensor | int | float]) -> None:
        values = [part.data_ptr() if isinstance(part, torch.Tensor) else part for part in arguments]
        function = getattr(self._library, f"run_{name}")
        function.argtypes = [ctypes.c_int] * 2 + [cuda_kernels._TYPES[type(part)] for part in arguments]
        function(blocks, threads, *values)

    def wait(self) -> None:
        """Nothing is ever at work."""
