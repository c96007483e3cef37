import pytest

from setup.failure import reason


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
def test_the_most_telling_line_is_given(log: str, status: int, sentence: str) -> None:
    assert reason(log, status) == sentence
