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
from event import Event, error_event
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
        self._responder = Responder(loaded.engine, loaded.tokenizer)
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
        if model_input.task == "describe":
            self._responder.reply(self._description, writer)
            return
        if model_input.messages is not None:
            prompt = self._chat_prompt.from_messages(model_input.messages)
        else:
            assert model_input.text is not None
            prompt = self._chat_prompt.from_text(model_input.text)
        request = GenerationRequest(prompt, model_input.sampling)
        self._responder.generate(request, writer, is_stream=model_input.is_stream)
