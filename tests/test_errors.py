"""How commands print and fail."""

from __future__ import annotations

import pytest
from rich.table import Table

from search_space.errors import open_console, unknown
from studies import run
from trainers import data


def test_text_that_looks_like_markup_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a [/red] [bold]b"
    table = Table("name", title=f"title {name}")
    table.add_row(f"cell {name}")
    console = open_console()
    console.print(f"line {name}")
    console.print(table)
    said = capsys.readouterr().out
    assert all(f"{what} {name}" in said for what in ("line", "title", "cell"))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            "dssdn-smal",
            "unknown network 'dssdn-smal'; did you mean 'dssdn-small'? known: ['bc-resnet', 'dssdn-small'], or a notation",
        ),
        ("DSSDN-Small", "unknown network 'DSSDN-Small'; did you mean 'dssdn-small'? known: "),
        ("alexnet", "unknown network 'alexnet'; known: ['bc-resnet', 'dssdn-small'], or a notation"),
    ],
)
def test_an_unknown_name_is_asked_back_where_one_is_like_it(value: str, said: str) -> None:
    assert str(unknown("network", value, {"dssdn-small", "bc-resnet"}, "a notation")).startswith(said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--trial", "3"],
            "error: unrecognized arguments: --trial 3; did you mean '--trials'? python -m studies.run --help lists all options\n",
        ),
        (
            ["--trials", "x"],
            "error: argument --trials: invalid int value: 'x'; python -m studies.run --help lists all options\n",
        ),
    ],
)
def test_a_wrong_option_is_one_line_and_none_is_abbreviated(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err == said


def test_so_are_those_of_commands_within_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        data.main(["check", "synthetic", "--dee"])
    assert capsys.readouterr().err.startswith("error: unrecognized arguments: --dee; ")
