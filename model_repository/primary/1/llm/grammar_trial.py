"""Where a grammar is compiled for the first time: in a process that the kernel ends when it takes too long.

llguidance cannot be interrupted, and small grammars can cost it minutes: intersections of patterns, multiples. What
passes here is compiled again with the vocabulary that counts. Run as a program, this is that process.
"""

import json
import resource
import subprocess
import sys
import weakref

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

# A quarter of llguidance's own bound of work for one mask: a hostile schema shall not hold up the batch for long.
LIMITS = LLParserLimits(step_lexer_fuel=50_000, step_max_items=25_000, verbose_errors=False)

MAX_SECONDS = 3  # of a processor; the slowest schemas of any use take one
MAX_MEMORY = 1 << 30


class TrialError(Exception):
    """The grammar costs more than a request may."""


class GrammarTrial:
    """Processes that try grammars, one for each thread that asks at the same time; they start when needed.

    Args:
        vocabulary_size: ids below this may stand in grammars.
    """

    def __init__(self, vocabulary_size: int) -> None:
        self._size = vocabulary_size
        self._idle: list[subprocess.Popen[str]] = []
        weakref.finalize(self, _end, self._idle)

    def run(self, source: str) -> None:
        """Compile `source`, in llguidance's own form, and forget it. That it is wrong is not found here.

        Raises:
            TrialError: it takes too much time or memory.
        """
        process = self._idle.pop() if self._idle else self._start()
        assert process.stdin
        assert process.stdout
        try:
            process.stdin.write(json.dumps(source) + "\n")
            process.stdin.flush()
            is_done = process.stdout.readline() != ""
        except BrokenPipeError:
            is_done = False
        if not is_done:
            _end([process])
            raise TrialError(
                f"it takes more than {MAX_SECONDS} seconds, or more than {MAX_MEMORY >> 20} MiB, to compile"
            )
        self._idle.append(process)

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", __file__, str(self._size)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _end(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.kill()
        with process:  # closes its pipes and waits
            pass


def main() -> None:
    """Read grammars, a line of JSON each; answer each with an empty line."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    vocabulary = LLTokenizer("byte", n_vocab=int(sys.argv[1]))
    for line in sys.stdin:
        spent = resource.getrusage(resource.RUSAGE_SELF)
        resource.setrlimit(resource.RLIMIT_CPU, (int(spent.ru_utime + spent.ru_stime) + 1 + MAX_SECONDS, hard))
        LLMatcher(vocabulary, json.loads(line), log_level=0, limits=LIMITS)
        sys.stdout.write("\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
