"""The benchmarks' own machinery still works: the engine that computes nothing, and the load that reads its answers."""

from pathlib import Path

import pytest

from benchmarks.bench_serving import run_http
from benchmarks.bench_serving_path import body, service


def test_the_load_counts_every_token_of_the_engine_that_computes_nothing(tmp_path: Path, default_model: Path) -> None:
    """It could not be loaded for a day, and nobody noticed; answers in one part came as an error."""
    with service(tmp_path, 1.0, 8) as url:
        result = run_http(url, [body(number, 64) for number in range(8)])
        assert result["num_tokens"] == 8 * 64
        assert result["num_chunks"] > 8
        assert run_http(url, [body(0, 1)])["num_tokens"] == 1
        with pytest.raises(RuntimeError, match="404"):
            run_http(url, [{**body(0, 1), "model": "none"}])
