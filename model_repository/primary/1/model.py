"""The Triton model: wiring between Triton, the responder and the engine. One instance of it per stub process."""

import json
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

# In front, so that no installed package called `llm` or `event` can take the place of ours.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import triton_python_backend_utils as pb_utils
from engine_metrics import EngineMetrics
from engine_traces import EngineTraces, is_asked_for
from event import Event, error_event, load_event, text_event, tokens_event
from grammar_threads import GrammarThreads
from llm.chat_output import Output
from llm.config import EngineConfig
from llm.errors import ConfigError, EngineError, GenerationError, InvalidRequestError, ModelLoadError
from llm.grammar import Grammar
from llm.model_loader import load_model
from llm.observer import Timeline
from llm.request import GenerationRequest, TokenConstraint
from load_note import LoadNote
from orphan import end_with_parent
from request_log import RequestLog, configure_logging
from responder import Responder
from triton_io import ModelInput, ResponseWriter, read_request, read_trace

log = logging.getLogger("slipstream")

# The engine's thread asks for Python's lock at each of a pass's small operations. Where the responder's thread has it,
# it would wait 5 ms by default.
_SWITCH_SECONDS = 0.0005


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model named by the model configuration's parameters, or by the environment without them."""
        parameters = json.loads(args["model_config"]).get("parameters", {})
        settings = {name: parameter["string_value"] for name, parameter in parameters.items()}
        sys.setswitchinterval(_SWITCH_SECONDS)
        end_with_parent()
        try:
            self._log_listener = configure_logging(os.environ)
            config = EngineConfig.from_environment(os.environ, overrides=settings)
            # The engine's thread, and the only one that ever touches torch: why, says `Engine`.
            self._engine_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
            note = LoadNote(args["model_name"], os.environ)
            with note.kept():
                loaded = self._engine_thread.submit(load_model, config, _gpu_of(args), note.write).result()
        except (ConfigError, ModelLoadError) as error:
            raise pb_utils.TritonModelException(str(error)) from error
        self._chat_prompt = loaded.chat_prompt
        self._description = Event("", {"model": asdict(loaded.description)})
        self._engine = loaded.engine
        self._decoder = loaded.tokenizer
        self._bytes_of = loaded.bytes_of
        self._responder = Responder(loaded.engine, loaded.tokenizer, loaded.bytes_of)
        self._responder.start()
        self._metrics = EngineMetrics(args["model_name"], loaded.description, loaded.engine, self._responder)
        self._metrics.start()
        self._request_log = RequestLog(args["model_name"])
        self._engine.observers += [self._metrics, self._request_log]
        self._traces: EngineTraces | None = None
        if is_asked_for(os.environ):
            self._traces = EngineTraces(args["model_name"], os.environ)
            self._engine.observers.append(self._traces)
        self._grammars = loaded.grammars
        self._dialect = loaded.dialect
        self._grammar_threads = GrammarThreads()
        self._engine_thread.submit(self._engine.run)

    def execute(self, requests: list[Any]) -> None:
        """Hand the requests over and return at once; their answers go out on the responder thread."""
        for request in requests:
            writer, timeline = ResponseWriter(request), Timeline(request_id=request.request_id())
            if self._traces is not None:
                timeline.trace = read_trace(request)
            self._answer_failures(writer, timeline, partial(self._accept, request, writer, timeline))

    def finalize(self) -> None:
        """Fail what is left, tell its clients, end both threads."""
        self._engine.stop()
        self._engine_thread.shutdown()
        self._grammar_threads.stop()  # what still waits there is refused by the engine
        self._responder.stop()
        self._metrics.stop()
        if self._traces is not None:
            self._traces.stop()
        self._log_listener.stop()

    def _accept(self, request: Any, writer: ResponseWriter, timeline: Timeline) -> None:
        model_input = read_request(request)
        match model_input.task:
            case "bundle":
                self._responder.open_bundle(model_input.bundle, writer)
            case "describe":
                self._responder.reply(self._description, writer)
            case "pulse":
                # by way of the responder, so that the answer says of both threads that they live
                self._responder.reply(Event("", {"pulse": asdict(self._engine.pulse())}), writer)
            case "load":
                self._responder.reply(load_event(self._engine.load), writer)
            case "tokenize":
                self._responder.reply(tokens_event(self._prompt(model_input), self._bytes_of), writer)
            case "detokenize":
                token_ids = self._prompt(model_input)
                self._engine.limits.check_ids("input_ids", token_ids)
                self._responder.reply(text_event(self._decoder.decode(list(token_ids)), token_ids), writer)
            case "generate":
                self._generate(self._grammar(model_input), model_input, writer, timeline)

    def _generate(
        self, grammar: Grammar | None, model_input: ModelInput, writer: ResponseWriter, timeline: Timeline
    ) -> None:
        submit = partial(self._submit, grammar, model_input, writer, timeline)
        if grammar is None or self._grammars.is_known(grammar):
            submit()
        else:
            self._grammar_threads.submit(partial(self._answer_failures, writer, timeline, submit))

    def _grammar(self, model_input: ModelInput) -> Grammar | None:
        grammar = model_input.grammar
        if not model_input.tools:
            return grammar
        if grammar is not None and not grammar.kind.startswith("json"):
            raise InvalidRequestError("tools can be combined with grammars of JSON only.", param="grammar")
        return self._dialect.grammar(model_input.tools, model_input.tool_choice, grammar)

    def _submit(
        self, grammar: Grammar | None, model_input: ModelInput, writer: ResponseWriter, timeline: Timeline
    ) -> None:
        sampling, dialect = model_input.sampling, self._dialect
        prompt = self._prompt(model_input)
        self._engine.check(GenerationRequest(prompt, sampling))  # before anything is made for each of its choices
        constraints: tuple[TokenConstraint, ...] = ()
        if grammar is not None:
            constraints = self._grammars.constraints(grammar, sampling.n)
        decoder = self._decoder
        outputs: tuple[Output, ...] = ()
        if model_input.messages is not None and not dialect.is_plain(model_input.tools):
            calling = model_input.tools, model_input.tool_choice
            constraints = tuple(dialect.constrain(constraint, prompt) for constraint in constraints)
            decoder = decoder.showing(dialect.marks(*calling))
            outputs = tuple(dialect.output(prompt, *calling) for _ in range(sampling.n))
        self._responder.generate(
            GenerationRequest(prompt, sampling, constraints),
            writer,
            is_stream=model_input.is_stream,
            decoder=decoder,
            outputs=outputs,
            timeline=timeline,
            address=model_input.address,
        )

    def _answer_failures(self, writer: ResponseWriter, timeline: Timeline, work: Callable[[], None]) -> None:
        try:
            work()
        except GenerationError as error:
            self._refuse(error, writer, timeline)
        except Exception:
            log.exception("a request could not be read")
            self._refuse(EngineError("The request could not be read."), writer, timeline)

    def _refuse(self, error: GenerationError, writer: ResponseWriter, timeline: Timeline) -> None:
        self._metrics.refused(error)
        self._request_log.refused(timeline, error)
        if self._traces is not None:
            self._traces.refused(timeline, error)
        self._responder.reply(error_event(error), writer)

    def _prompt(self, model_input: ModelInput) -> tuple[int, ...]:
        if model_input.messages is not None:
            return self._chat_prompt.from_messages(model_input.messages, model_input.options)
        if model_input.text is not None:
            return self._chat_prompt.from_text(model_input.text, model_input.options)
        assert model_input.input_ids is not None
        return model_input.input_ids


def _gpu_of(args: dict[str, str]) -> int:
    """The GPU that Triton put this instance on; 0 for one that Triton knows to be on a CPU."""
    return int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else 0
