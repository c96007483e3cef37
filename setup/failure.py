"""Says in one line why a server ended, from what it wrote.

Usage: failure.py LOG EXIT_STATUS
"""

import re
import signal
import sys
from pathlib import Path

_LAST_WORDS = (
    re.compile(r"^error: (.+)$", re.M),  # Triton, giving up
    re.compile(r"^E\d{4} \S+ \d+ \S+\] \"?+((?!CudaDriverHelper).+?)\"?$", re.M),  # Triton; without a GPU it complains
    re.compile(r"^\s*(\S.*)$", re.M),
)


def reason(log: str, status: int) -> str:
    """What tells most: a signal, Triton's last error, the last line written.

    Args:
        log: everything the server has written.
        status: its exit status as the shell gives it; 128 and more is a signal.
    """
    if status > 128:
        return f"it was ended by {signal.Signals(status - 128).name} from outside"
    for pattern in _LAST_WORDS:
        if found := pattern.findall(log):
            return str(found[-1]).strip()
    return "it wrote nothing"


if __name__ == "__main__":
    print(reason(Path(sys.argv[1]).read_text(errors="replace"), int(sys.argv[2])))
