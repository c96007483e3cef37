"""Says in one line why Triton or the proxy ended, from what it wrote.

Usage: failure.py LOG EXIT_STATUS
"""

import re
import signal
import sys
from pathlib import Path

# What Triton writes when a model raises in `initialize`: an escaped traceback on one line.
_LOAD_ERROR = re.compile(r"failed to load '(?P<group>[^']+)' version \d+: \w+: (?P<error>.*?)\"?$", re.M)
# Our own errors are whole sentences; their class says nothing to a user.
_OWN_CLASSES = re.compile(r"^(?:ConfigError|ModelLoadError|TritonModelException): ")
_LAST_WORDS = (
    re.compile(r"^error: (.+)$", re.M),  # Triton, giving up
    re.compile(r"^E\d{4} \S+ \d+ \S+\] \"?+((?!CudaDriverHelper).+?)\"?$", re.M),  # Triton; without a GPU it complains
    re.compile(r"^\s*(\S.*)$", re.M),
)


def reason(log: str, status: int) -> str:
    """What tells most: a model's own error, a signal, Triton's last error, the last line written.

    Args:
        log: everything the server has written.
        status: its exit status as the shell gives it; 128 and more is a signal.
    """
    if errors := list(_LOAD_ERROR.finditer(log)):
        return f"the model of group '{errors[0]['group']}' did not load: {model_error(errors[0]['error'])}"
    if status > 128:
        return f"it was ended by {signal.Signals(status - 128).name} from outside"
    for pattern in _LAST_WORDS:
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
    print(reason(Path(sys.argv[1]).read_text(errors="replace"), int(sys.argv[2])))
