"""The engine: continuous batching, KV cache, sampling and text. Knows nothing of Triton or HTTP."""

ENGINE_VERSION = "0.1.0"
