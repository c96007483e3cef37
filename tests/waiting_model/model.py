"""The real Triton model, except that a pass waits, as for a device, and hardly computes: a version folder for tests.

PASS_SECONDS in the environment says how long a pass waits.
"""

import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Any

_REAL = Path(__file__).resolve().parents[2] / "model_repository" / "primary" / "1" / "model.py"

# Under a name of its own: Triton has given ours to this file.
_spec = importlib.util.spec_from_file_location("real_model", _REAL)
assert _spec
assert _spec.loader
_module = importlib.util.module_from_spec(_spec)
sys.modules["real_model"] = _module
_spec.loader.exec_module(_module)

from llm import model_loader  # noqa: E402 (the real model has put its folder on the path)
from llm.model_runner import ModelRunner  # noqa: E402


class WaitingRunner(ModelRunner):
    def forward(self, chunks: Any) -> Any:
        time.sleep(float(os.environ["PASS_SECONDS"]))
        return super().forward(chunks)


model_loader.ModelRunner = WaitingRunner  # type: ignore[misc]
TritonPythonModel = _module.TritonPythonModel
