"""The engine without Triton and HTTP, as a process of its own that is told over standard input what to run.

Usage: engine_alone.py MODEL [SETTING=VALUE ...], with the settings' names as in a config.yaml.
Each line of input is a JSON list of chat completion bodies; each line of output says how it went.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "model_repository" / "primary" / "1"))

from llm.config import EngineConfig
from llm.errors import GenerationError
from llm.grammar import Grammar, GrammarConstraint
from llm.model_loader import LoadedModel, load_model
from llm.request import FinishReason, GenerationRequest, SamplingParams, Submission, TokenLogprobs


class TimingSink:
    """Counts tokens and notes when the first came."""

    def __init__(self) -> None:
        self.first = 0.0
        self.num_tokens = 0
        self.ended = Event()

    def prompt_reused(self, num_tokens: int) -> None:
        """See `llm.request.Sink`."""

    def tokens(
        self,
        index: int,
        token_ids: list[int],
        finish_reason: FinishReason | None,
        logprobs: list[TokenLogprobs] | None = None,
    ) -> None:
        """See `llm.request.Sink`."""
        del index, logprobs
        self.first = self.first or perf_counter()
        self.num_tokens += len(token_ids)
        if finish_reason:
            self.ended.set()

    def failed(self, error: GenerationError) -> None:
        """See `llm.request.Sink`."""
        raise error

    def cancelled(self) -> None:
        """See `llm.request.Sink`."""
        self.ended.set()


def run(loaded: LoadedModel, bodies: list[dict[str, Any]]) -> dict[str, float]:
    """Answer all bodies at once."""
    started = perf_counter()
    sinks = []
    for body in bodies:
        names = ("temperature", "max_tokens", "seed", "ignore_eos")
        sampling = SamplingParams(**{name: body[name] for name in names if name in body})
        prompt = loaded.chat_prompt.from_messages(body["messages"])
        constraints: tuple[GrammarConstraint, ...] = ()
        if schema := body.get("json_schema"):
            constraints = loaded.grammars.constraints(Grammar("json_schema", json.dumps(schema)), 1)
        sinks.append(TimingSink())
        loaded.engine.submit(Submission(GenerationRequest(prompt, sampling, constraints), sinks[-1]))
    for sink in sinks:
        sink.ended.wait()
    seconds = perf_counter() - started
    first = sorted(sink.first - started for sink in sinks)[len(sinks) // 2]
    return {"num_tokens": sum(sink.num_tokens for sink in sinks), "seconds": seconds, "first_token": first}


def main() -> None:
    """Load the model named on the command line with the settings behind it, then serve standard input."""
    with ThreadPoolExecutor(max_workers=1) as engine_thread:
        settings = dict(argument.split("=", 1) for argument in sys.argv[2:])
        config = EngineConfig.from_settings({"model_name": sys.argv[1], **settings})
        loaded = engine_thread.submit(load_model, config).result()
        engine_thread.submit(loaded.engine.run)
        print("ready", flush=True)
        for line in sys.stdin:
            print(json.dumps(run(loaded, json.loads(line))), flush=True)
        loaded.engine.stop()


if __name__ == "__main__":
    main()
