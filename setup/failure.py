"""Says in one line why Triton or the proxy ended, from what it wrote.

Usage: failure.py LOG
"""

import re
import sys
from pathlib import Path

# What Triton writes when a model raises in `initialize`: an escaped traceback on one line.
_LOAD_ERROR = re.compile(r"failed to load '(?P<group>[^']+)' version \d+: \w+: (?P<error>.*?)\"?$", re.M)
# Our own errors are whole sentences; their class says nothing to a user.
_OWN_CLASSES = re.compile(r"^(?:ConfigError|ModelLoadError|TritonModelException): ")
_TRITON_ERROR = re.compile(r"^(?:error: |E\d{4} \S+ \d+ \S+\] \"?)(?P<error>.+?)\"?$", re.M)
_PYTHON_ERROR = re.compile(r"^(?:launch\.sh: |proxy: )?(?P<error>\S.*)$", re.M)


def reason(log: str) -> str:
    """The most telling line: a model's own error, else Triton's last, else the last line written."""
    if errors := list(_LOAD_ERROR.finditer(log)):
        return f"the model of group '{errors[0]['group']}' did not load: {model_error(errors[0]['error'])}"
    for pattern in (_TRITON_ERROR, _PYTHON_ERROR):
        if found := pattern.findall(log):
            return str(found[-1]).strip()
    return "it wrote nothing"


def model_error(error: str) -> str:
    """The model's message without the traceback that Triton appends."""
    if "is not healthy" in error:
        return "its process died while loading, most often for lack of memory"
    message = error.split("\\n\\nAt:")[0]
    return _OWN_CLASSES.sub("", " ".join(message.replace("\\n", " ").split()))


if __name__ == "__main__":
    print(reason(Path(sys.argv[1]).read_text(errors="replace")))
