"""The Triton model: wiring between Triton, the responder and the engine. One instance of it per stub process."""

import json
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

# In front, so that no installed package called `llm` or `event` can take the place of ours.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import triton_python_backend_utils as pb_utils
from event import Event, error_event, text_event, tokens_event
from llm.config import EngineConfig
from llm.errors import ConfigError, EngineError, GenerationError, ModelLoadError
from llm.model_loader import load_model
from llm.request import GenerationRequest
from responder import Responder
from triton_io import ModelInput, ResponseWriter, read_request

log = logging.getLogger("slipstream")


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model named by the model configuration's parameters, or by the environment without them."""
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        parameters = json.loads(args["model_config"]).get("parameters", {})
        settings = {name: parameter["string_value"] for name, parameter in parameters.items()}
        try:
            config = EngineConfig.from_environment(os.environ, overrides=settings)
            # The engine's thread, and the only one that ever touches torch: why, says `Engine`.
            self._engine_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
            loaded = self._engine_thread.submit(load_model, config).result()
        except (ConfigError, ModelLoadError) as error:
            raise pb_utils.TritonModelException(str(error)) from error
        self._chat_prompt = loaded.chat_prompt
        self._description = Event("", {"model": asdict(loaded.description)})
        self._engine = loaded.engine
        self._decoder = loaded.tokenizer
        self._bytes_of = loaded.bytes_of
        self._responder = Responder(loaded.engine, loaded.tokenizer, loaded.bytes_of)
        self._responder.start()
        self._engine_thread.submit(self._engine.run)

    def execute(self, requests: list[Any]) -> None:
        """Hand the requests over and return at once; their answers go out on the responder thread."""
        for request in requests:
            writer = ResponseWriter(request)
            try:
                self._accept(read_request(request), writer)
            except GenerationError as error:
                self._responder.reply(error_event(error), writer)
            except Exception:
                log.exception("a request could not be read")
                self._responder.reply(error_event(EngineError("The request could not be read.")), writer)

    def finalize(self) -> None:
        """Fail what is left, tell its clients, end both threads."""
        self._engine.stop()
        self._engine_thread.shutdown()
        self._responder.stop()

    def _accept(self, model_input: ModelInput, writer: ResponseWriter) -> None:
        match model_input.task:
            case "describe":
                self._responder.reply(self._description, writer)
            case "tokenize":
                self._responder.reply(tokens_event(self._prompt(model_input), self._bytes_of), writer)
            case "detokenize":
                token_ids = self._prompt(model_input)
                self._engine.check_ids("input_ids", token_ids)
                self._responder.reply(text_event(self._decoder.decode(list(token_ids)), token_ids), writer)
            case "generate":
                request = GenerationRequest(self._prompt(model_input), model_input.sampling)
                self._responder.generate(request, writer, is_stream=model_input.is_stream)

    def _prompt(self, model_input: ModelInput) -> tuple[int, ...]:
        if model_input.messages is not None:
            return self._chat_prompt.from_messages(model_input.messages, model_input.options)
        if model_input.text is not None:
            return self._chat_prompt.from_text(model_input.text, model_input.options)
        assert model_input.input_ids is not None
        return model_input.input_ids
