"""From a model's name to a working engine: weights, tokenizer, limits, KV cache.

Runs once, before the engine thread starts.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from llm import ENGINE_VERSION
from llm.attention import IMPLEMENTATION
from llm.block_pool import BlockPool
from llm.cache_attention import find_cache_attention
from llm.chat_prompt import ChatPrompt
from llm.config import EngineConfig
from llm.cuda_drawing import CudaSampler
from llm.cuda_kernels import find_kernels
from llm.cuda_runner import CudaRunner
from llm.decoder import build_decoder, compile_decoder
from llm.dialect import Dialect
from llm.engine import Engine, Runner
from llm.errors import InvalidRequestError, ModelLoadError
from llm.grammar import Grammars
from llm.kv_cache import BLOCK_SIZE, KVCache
from llm.limits import ModelLimits
from llm.linear import choose_pack, has_avx2, has_bfloat16
from llm.load_progress import Listener, LoadProgress
from llm.malloc import give_back_freed_memory
from llm.memory import free_memory, is_out_of_memory
from llm.model_files import find_model
from llm.model_runner import ModelRunner
from llm.probe import probe_layers
from llm.request import SamplingParams
from llm.sampler import Sampler
from llm.scheduler import Scheduler
from llm.token_bytes import TokenBytes
from llm.varlen_batch import VARLEN_BLOCK_SIZE, find_varlen_attention

log = logging.getLogger(__name__)

_CACHE_DEFAULTS = {"cpu": "25%", "cuda": "85%"}
_CPU_CACHE_CEILING = 4 * 1024**3


@dataclass(frozen=True)
class ModelDescription:
    """What clients may know of a loaded model; `fingerprint` changes with the model or the engine's version.

    `aliases` are more names under which they may ask for it.
    """

    name: str
    max_model_len: int
    device: str
    dtype: str
    engine_version: str
    fingerprint: str
    max_num_sequences: int
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadedModel:
    """An engine that has not been started yet, and what goes with it."""

    engine: Engine
    tokenizer: "SkippingDecoder"
    bytes_of: TokenBytes
    chat_prompt: ChatPrompt
    grammars: Grammars
    dialect: Dialect
    description: ModelDescription


class SkippingDecoder:
    """A `text_stream.Decoder` on a transformers tokenizer.

    Args:
        tokenizer: whose special tokens have no text.
        shown: those that have it nevertheless.
    """

    def __init__(self, tokenizer: Any, shown: frozenset[int] = frozenset()) -> None:
        self._tokenizer = tokenizer
        self._shown = shown
        self._skipped = frozenset(
            token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
        )
        self._decode: Callable[..., str] = partial(tokenizer.decode, clean_up_tokenization_spaces=False)
        if _adds_nothing(tokenizer):
            self._decode = tokenizer.backend_tokenizer.decode

    def decode(self, token_ids: list[int]) -> str:
        """See `text_stream.Decoder`."""
        if self._shown:
            token_ids = [token_id for token_id in token_ids if token_id in self._shown or token_id not in self._skipped]
        return self._decode(token_ids, skip_special_tokens=not self._shown)

    def showing(self, token_ids: frozenset[int]) -> "SkippingDecoder":
        """A decoder that shows these special tokens."""
        return SkippingDecoder(self._tokenizer, token_ids) if token_ids else self


def _adds_nothing(tokenizer: Any) -> bool:
    """Whether transformers' decoding, without clean-up, is that of the library behind it, which takes half the time."""
    kind = type(tokenizer)
    return (
        isinstance(tokenizer, PreTrainedTokenizerFast)
        and kind.decode is PreTrainedTokenizerFast.decode
        and kind._decode is PreTrainedTokenizerFast._decode
    )


def load_model(config: EngineConfig, gpu: int = 0, listener: Listener | None = None) -> LoadedModel:
    """Load the model named by `config` and build its engine.

    Raises:
        ModelLoadError: it cannot be had, or not be served; the message says why in one line.
        ConfigError: a setting does not fit the model.
    """
    device = choose_device(config.device, gpu)
    try:
        return _load(config, device, listener)
    except Exception as error:
        if is_out_of_memory(error) or is_out_of_memory(error.__cause__):  # also where it was given other words already
            raise ModelLoadError(_no_memory(config, device)) from error
        raise


def _load(config: EngineConfig, device: torch.device, listener: Listener | None) -> LoadedModel:
    dtype = choose_dtype(config, device)
    model, tokenizer, generation = _fetch(config, device, dtype, LoadProgress(listener))
    rules = probe_layers(model)
    layers = {number: rule.shape for number, rule in rules.items()}
    kernels = find_kernels(dtype, device)
    decoder = build_decoder(model, rules, choose_pack(device, dtype, config.quant_type), kernels)
    attend = find_varlen_attention(rules.values(), dtype, device)
    block_size = VARLEN_BLOCK_SIZE if attend else BLOCK_SIZE
    # With weights in 8 bits, the cache is the larger part of what a pass over long sequences reads.
    kept = torch.bfloat16 if config.quant_type == "int8" else dtype
    num_blocks = _num_blocks(config, KVCache.block_bytes(layers, kept, block_size), device)
    max_model_len = _max_model_len(config, model, num_blocks * block_size)
    cache = KVCache(layers, num_blocks, block_size=block_size, dtype=kept, device=device)
    max_rows = max(config.max_batch_size, 1 + config.speculative_tokens)
    runner: Runner
    if attend is None:
        cache_attention = find_cache_attention(rules.values(), cache, dtype)
        decoder = compile_decoder(decoder, cache, cache_attention.decode, max_rows)
        runner = ModelRunner(decoder, cache, device, cache_attention)
    else:
        runner = CudaRunner(decoder, cache, attend)
        runner.record(max_rows=max_rows, longest=max_model_len)
    scheduler = Scheduler(
        BlockPool(num_blocks, block_size),
        max_batch_size=config.max_batch_size,
        max_batch_tokens=config.max_batch_tokens,
        max_pass_seconds=config.max_pass_ms / 1000,
    )
    limits = ModelLimits(
        max_model_len=max_model_len,
        vocabulary_size=model.config.get_text_config(decoder=True).vocab_size,
        end_token_ids=_end_token_ids(generation, tokenizer),
        defaults=_sampling_defaults(config.model_name, generation),
    )
    sampler = Sampler() if kernels is None else CudaSampler(kernels, device, max_rows)
    engine = Engine(
        runner,
        sampler,
        scheduler,
        limits,
        max_queue_size=config.max_queue_size,
        speculative_tokens=config.speculative_tokens,
    )
    description = _describe(config, model, device, dtype, max_model_len)
    give_back_freed_memory()
    log.info("%s; KV cache of %d tokens", description, num_blocks * block_size)
    return LoadedModel(
        engine,
        SkippingDecoder(tokenizer),
        TokenBytes(tokenizer),
        ChatPrompt(tokenizer, max_model_len),
        Grammars(tokenizer, limits.vocabulary_size, limits.end_token_ids),
        Dialect(tokenizer, limits.end_token_ids),
        description,
    )


def choose_device(name: str, gpu: int = 0) -> torch.device:
    """The device that `name` (`cpu`, `cuda`, `auto`) stands for on this machine; of several GPUs number `gpu`.

    Raises:
        ModelLoadError: there is no such device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError("TAKEOFF_DEVICE=cuda, but torch finds no CUDA device here: use TAKEOFF_DEVICE=cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    torch.cuda.set_device(gpu)  # of this thread, for whatever says no more than `cuda`
    return torch.device("cuda", gpu)


def choose_dtype(config: EngineConfig, device: torch.device) -> torch.dtype:
    """What the model is kept and computed in on this device.

    Raises:
        ModelLoadError: the device cannot compute what the settings ask for.
    """
    if config.quant_type == "int8" and device.type != "cpu":
        raise ModelLoadError(f"TAKEOFF_QUANT_TYPE=int8 is for a CPU, and the device is {device.type}: use none")
    if config.quant_type == "int8" and not has_avx2():
        raise ModelLoadError("TAKEOFF_QUANT_TYPE=int8 needs a CPU with AVX2, which this one has not: use none")
    if config.quant_type == "int8" and config.dtype not in ("auto", "float32"):
        raise ModelLoadError(f"TAKEOFF_QUANT_TYPE=int8 does not go with TAKEOFF_DTYPE={config.dtype}: use float32")
    if device.type == "cpu" and config.dtype == "float16":
        raise ModelLoadError("TAKEOFF_DTYPE=float16 is for a GPU; on a CPU use bfloat16 or float32")
    if config.dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if device.type == "cpu" and config.dtype == "bfloat16" and not has_bfloat16():
        log.warning("TAKEOFF_DTYPE=bfloat16, but this CPU has no instructions for it: float32 may be faster")
    dtype: torch.dtype = getattr(torch, config.dtype)
    return dtype


def _no_memory(config: EngineConfig, device: torch.device) -> str:
    left = free_memory(device) / 2**20
    return (
        f"the model {config.model_name} needs more memory than {device.type} has, with {left:.0f} MiB left: "
        "end what else uses it, lower TAKEOFF_PAGE_CACHE_SIZE, or use a smaller model"
    )


def _fetch(
    config: EngineConfig, device: torch.device, dtype: torch.dtype, progress: LoadProgress
) -> tuple[Any, Any, GenerationConfig]:
    name = config.model_name
    files = find_model(config, progress)
    source: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if files.gguf is not None:
        source["gguf_file"] = files.gguf
    part, architecture = files.gguf or "its config.json", ""
    try:
        with progress.of_transformers("reading the GGUF file" if files.gguf else "loading weights"):
            architecture = AutoConfig.from_pretrained(files.folder, **source).model_type
            part = files.gguf or "its tokenizer"
            tokenizer = AutoTokenizer.from_pretrained(files.folder, **source)
            part = files.gguf or "its weights"
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                files.folder, dtype=dtype, attn_implementation=IMPLEMENTATION, output_loading_info=True, **source
            )
    except Exception as error:
        raise ModelLoadError(f"the model {name} cannot be loaded: {_reason(error, part, architecture)}") from error
    model, loading = loaded
    _require_decoder(name, model, loading)
    progress("preparing the engine")
    return model.to(device).eval(), tokenizer, model.generation_config


def _reason(error: Exception, part: str, architecture: str) -> str:
    """Why transformers could not load `part` of the model, and what to do where that is known."""
    reason = " ".join(str(error).split())
    if IMPLEMENTATION in reason:  # transformers looks the name up in a table that old models bring themselves
        return f"{architecture} is not supported: it does not use transformers' attention interface"
    if "Unrecognized configuration class" in reason:  # followed by the two hundred that it knows
        return f"{architecture} is no decoder model, which continues a text by itself"
    if "trust_remote_code" in reason:
        return "it brings Python code of its own: set TAKEOFF_TRUST_REMOTE_CODE=true if you trust whoever wrote it"
    if "instantiate the backend tokenizer" in reason:
        return "it has no tokenizer: save one beside it, as the tokenizer's save_pretrained does"
    if "ignore_mismatched_sizes" in reason:  # which points at a table in the log
        return "its weights have other shapes than its config.json says: take both from the same model"
    if isinstance(error, OSError | ValueError | ImportError):
        return f"{part}: {reason}"
    return f"{part}: {type(error).__name__}: {reason}"


def _require_decoder(name: str, model: Any, loading: dict[str, Any]) -> None:
    """Refuse what transformers loads, with no more than a warning, although it cannot write a sensible word."""
    if missing := sorted(loading["missing_keys"]):
        raise ModelLoadError(
            f"the model {name} cannot be served: it has no weights for {missing[0]} and {len(missing) - 1} others of "
            f"{type(model).__name__}: is it a model of another kind, such as an embedding model?"
        )
    is_causal = [module.is_causal for module in model.modules() if hasattr(module, "is_causal")]
    if is_causal and not any(is_causal):
        raise ModelLoadError(
            f"the model {name} cannot be served: it is an encoder, whose tokens see those that follow them, and so "
            "cannot continue a text; use a decoder model"
        )


def _num_blocks(config: EngineConfig, block_bytes: int, device: torch.device) -> int:
    free = free_memory(device)
    budget = config.page_cache_bytes(free_bytes=free, default=_CACHE_DEFAULTS[device.type])
    if config.page_cache_size == "auto" and device.type == "cpu":
        budget = min(budget, _CPU_CACHE_CEILING)
    if budget < block_bytes or budget > free:
        raise ModelLoadError(
            f"TAKEOFF_PAGE_CACHE_SIZE={config.page_cache_size} gives a KV cache of {budget / 2**20:.0f} MiB: give at "
            f"least {block_bytes / 2**20:.1f} MiB, at most the {free / 2**20:.0f} MiB that {device.type} has left"
        )
    return budget // block_bytes


def _max_model_len(config: EngineConfig, model: Any, cache_tokens: int) -> int:
    own = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None) or cache_tokens
    wanted = config.max_sequence_length or own
    if wanted > own:
        log.warning("TAKEOFF_MAX_SEQUENCE_LENGTH=%d, but the model ends at %d tokens", wanted, own)
    if min(wanted, own) > cache_tokens:
        log.warning("requests end at %d tokens: TAKEOFF_PAGE_CACHE_SIZE holds no more", cache_tokens)
    return min(wanted, own, cache_tokens)


def _end_token_ids(generation: GenerationConfig, tokenizer: Any) -> frozenset[int]:
    named = generation.eos_token_id
    ids = named if isinstance(named, list) else [named]
    return frozenset(token for token in (*ids, tokenizer.eos_token_id) if token is not None)


def _sampling_defaults(name: str, generation: GenerationConfig) -> SamplingParams:
    try:
        return SamplingParams(
            temperature=generation.temperature, top_p=generation.top_p, top_k=generation.top_k or None
        )
    except (InvalidRequestError, TypeError) as error:
        raise ModelLoadError(
            f"the model {name} cannot be served: correct its generation_config.json, or remove it: {error}"
        ) from error


def _describe(
    config: EngineConfig, model: Any, device: torch.device, dtype: torch.dtype, max_model_len: int
) -> ModelDescription:
    answering = {name: value for name, value in asdict(config).items() if name != "served_model_name"}
    identity = repr((answering, model.config.to_json_string(), str(dtype), ENGINE_VERSION))
    return ModelDescription(
        name=config.served_name,
        max_model_len=max_model_len,
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        engine_version=ENGINE_VERSION,
        fingerprint="fp_" + blake2b(identity.encode(), digest_size=6).hexdigest(),
        max_num_sequences=config.max_batch_size,
        aliases=config.served_model_name,
    )
