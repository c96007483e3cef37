import gc
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from llm.huge_pages import HugePages

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MIB = 1024**2


def test_a_copy_is_the_same_numbers_side_by_side():
    pages = HugePages()
    sources = [
        torch.randn(7, 5).t(),
        torch.arange(-9, 9, dtype=torch.int8).view(3, 6),
        torch.randn(0, 4),
        torch.ones(()),
    ]
    copies = [pages.copy(source) for source in sources]
    for source, copy in zip(sources, copies, strict=True):
        assert torch.equal(copy, source)
        assert copy.is_contiguous()
    copies[0].zero_()
    assert torch.equal(copies[1], sources[1])


@pytest.mark.skipif(not THP.exists() or "[never]" in THP.read_text(), reason="this kernel gives no huge pages")
def test_it_lies_in_huge_pages():
    before = _rollup("AnonHugePages")
    copy = HugePages().copy(torch.ones(48 * MIB // 4))
    assert _rollup("AnonHugePages") - before >= 40 * MIB // 1024
    assert copy[-1] == 1


def test_many_threads_get_room_of_their_own():
    pages = HugePages()
    with ThreadPoolExecutor(4) as threads:
        copies = list(threads.map(lambda number: pages.copy(torch.full((3000,), number)), range(400)))
    assert all(bool((copy == number).all()) for number, copy in enumerate(copies))


def test_room_is_given_back_with_the_tensors():
    pages = HugePages()
    before = _rollup("Rss")
    for _ in range(4):
        copy = pages.copy(torch.ones(100 * MIB // 4))
        del copy
    gc.collect()
    assert _rollup("Rss") - before < 250 * MIB // 1024


def test_too_little_memory_is_called_so():
    said = """
import resource, torch
from llm.huge_pages import HugePages
from llm.memory import is_out_of_memory
source = torch.ones(100 * 1024**2 // 4)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 20 * 1024**2, -1))
try:
    HugePages().copy(source)
except Exception as error:
    print(is_out_of_memory(error), error)
"""
    asked = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, env=_environment(), check=True)
    assert asked.stdout.strip() == f"True {100 * MIB} bytes for weights"


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(sys.path)}


def _rollup(name: str) -> int:
    """KiB of this process."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise AssertionError(name)
