"""What a pass frees is there for the next one, on whichever thread; what loading has freed goes back to the system."""

import subprocess
import sys

from tests.launch.launched import ROOT

PROGRAM = """
import resource, sys
from threading import Thread
sys.path.insert(0, sys.argv[1])
if sys.argv[2] == "ours":
    import llm
import torch

def faults(num_passes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(num_passes):
        kept = [torch.ones(2**20) for _ in range(5)]  # 4 MiB each
        del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def work():
    faults(5)
    print(faults(20))

torch.set_num_threads(1)
thread = Thread(target=work)
thread.start()
thread.join()
"""


def faults(allocator: str) -> int:
    """Page faults of twenty passes on a thread of their own."""
    folder = str(ROOT / "model_repository" / "primary" / "1")
    command = [sys.executable, "-c", PROGRAM, folder, allocator]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_a_pass_does_not_ask_the_system_for_the_memory_of_the_one_before():
    assert faults("ours") < 200 < 1000 < faults("glibc's")
