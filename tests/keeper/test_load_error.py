import pytest

from keeper.load_error import LoadError


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("ConfigError: X='y' cannot be used: z\n\nAt:\n  /model.py(7): initialize\n", "X='y' cannot be used: z"),
        ("KeyError: 'layers'\n\nAt:\n  /model.py(7): initialize\n", "KeyError: 'layers'"),
        ("two\nlines   of words\n\nAt:\n  /model.py(7): initialize\n", "two lines of words"),
        ("Stub process 'small_0_0' is not healthy.", "its process died while loading, most often for lack of memory"),
    ],
)
def test_a_model_that_does_not_load_gives_its_own_sentence_without_the_traceback(error: str, sentence: str) -> None:
    message = (
        f"load failed for model 'small': version 1 is at UNAVAILABLE state: Internal: TritonModelException: {error};"
    )
    assert LoadError.of("small", RuntimeError(message)).reason.removesuffix(";") == sentence
