"""What a launch prints once everything is ready."""

from pathlib import Path

import pytest

from setup import banner

PARAMETERS = ("model_name", "some/model"), ("device", "cpu")


@pytest.mark.parametrize(
    ("groups", "asked"),
    [(["embed", "primary", "zeta"], "primary"), (["zeta", "embed"], "embed"), ([], "primary")],
    ids=["who names none gets primary", "without primary the first", "no Triton here"],
)
def test_the_question_that_is_shown_asks_a_group_that_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], groups: list[str], asked: str
) -> None:
    for group in groups:
        (tmp_path / group).mkdir()
        settings = "".join(
            f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in PARAMETERS
        )
        (tmp_path / group / "config.pbtxt").write_text(f'name: "{group}"\n{settings}')
    banner.main(tmp_path, "127.0.0.1:3003", "127.0.0.1:8000", "127.0.0.1:8002", "", "triton", "proxy")
    printed = capsys.readouterr().out
    assert f'"model": "{asked}"' in printed
    assert all(f"  {group:<10} some/model on cpu" in printed for group in groups)
