"""Every key of the config is shown: by `iris-wm fit --help`, by `iris-wm options` and on the documentation's page."""

import pytest

from iris_wm import cli
from iris_wm.cli import options
from iris_wm.config import describe
from iris_wm.runs.config import RunConfig

OPTIONS = [option for section in describe(RunConfig()) for option in section.options]


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) if "--help" in words else pytest.MonkeyPatch.context():
        assert cli.main(list(words)) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("words", [("fit", "--help"), ("options",)], ids=" ".join)
def test_every_key_is_shown(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]):
    text = shown(capsys, *words)
    for option in OPTIONS:
        assert f"--{option.key} {option.type} (default: {option.default}) {option.help}" in text


def test_a_section_alone(capsys: pytest.CaptureFixture[str]):
    text = shown(capsys, "options", "world")
    assert "--world.num_layers a whole number of at least 1 (default: 10)" in text
    assert "--policy" not in text
    assert shown(capsys, "options", "seed").startswith("the run: ")


def test_the_page_of_the_documentation(capsys: pytest.CaptureFixture[str]):
    text = shown(capsys, "options", "--markdown")
    assert text == " ".join(options.markdown().split())
    for option in OPTIONS:
        assert f"| `{option.key}` | " in text


def test_the_other_commands_do_not_show_them(capsys: pytest.CaptureFixture[str]):
    assert "--world.num_layers" not in shown(capsys, "evaluate", "--help")
