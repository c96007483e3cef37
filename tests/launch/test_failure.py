import pytest

from setup.failure import reason

LOAD_ERROR = (
    'I1123 06:32:42.962783 11455 pb_stub.cc:366] "Failed to initialize Python stub: {error}"\n'
    "E1123 06:32:43.219676 11455 model_lifecycle.cc:642] \"failed to load 'small' version 1: Internal: {error}\"\n"
    "error: creating server: Invalid argument - load failed for model 'small': {error};\n"
)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (r"ConfigError: X='y' cannot be used: z\n\nAt:\n  /model.py(7): initialize\n", "X='y' cannot be used: z"),
        (r"KeyError: 'layers'\n\nAt:\n  /model.py(7): initialize\n", "KeyError: 'layers'"),
        (r"two\nlines   of words\n\nAt:\n  /model.py(7): initialize\n", "two lines of words"),
        ("Stub process 'small_0_0' is not healthy.", "its process died while loading, most often for lack of memory"),
    ],
)
def test_a_model_that_does_not_load_gives_its_own_sentence_without_the_traceback(error: str, sentence: str) -> None:
    log = LOAD_ERROR.format(error=error)
    assert reason(log, 1) == f"the model of group 'small' did not load: {sentence}"


@pytest.mark.parametrize(
    ("log", "status", "sentence"),
    [
        ("", 1, "it wrote nothing"),
        ("I1123 1 2 a.cc:1] fine\nE1123 1 2 b.cc:2] broken\n", 137, "it was ended by SIGKILL from outside"),
        ('E1123 06:1 99 b.cc:2] "Socket in use"\nI1123 06:2 99 c.cc:3] bye\n', 1, "Socket in use"),
        ('E1123 06:1 99 s.cc:241] "CudaDriverHelper has not been initialized."\nbye\n', 1, "bye"),
        ("Traceback (most recent call last):\n  File x\nOSError: no space left\n\n", 1, "OSError: no space left"),
    ],
)
def test_otherwise_the_most_telling_line_is_given(log: str, status: int, sentence: str) -> None:
    assert reason(log, status) == sentence
