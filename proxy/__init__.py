"""The OpenAI-compatible HTTP side: JSON and server-sent events in front, Triton's gRPC behind."""
