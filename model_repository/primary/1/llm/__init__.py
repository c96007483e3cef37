"""The engine: continuous batching, KV cache, sampling and text. Knows nothing of Triton or HTTP."""

import os

from llm import cgroup
from llm.malloc import keep_freed_memory

ENGINE_VERSION = "0.1.0"

# How long torch's OpenMP workers spin at a barrier before they sleep; libgomp reads it when torch is imported, which
# every module of this package does later than this. Its own default spins thirty times longer. That is up to 12 %
# faster on idle cores, but as soon as something else wants a core, each barrier waits for a worker that the system has
# put to sleep while another burns its time spinning: two engines at once on two cores had not finished in 100 s what
# takes one of them 15 s; with this, a pass takes them 5 times as long as one alone. See docs/decisions/0005-openmp.md.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# A container sees all cores of its machine, also where it has the time of a few. With a thread on each, all would be
# stopped together once that time is spent, in the middle of a pass, for most of each tenth of a second.
if (num_cpus := cgroup.num_cpus()) is not None and num_cpus < len(os.sched_getaffinity(0)):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, round(num_cpus))))

keep_freed_memory()
