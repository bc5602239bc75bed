"""What the README shows runs as it stands."""

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_python_examples_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 4
    # Drawn in hundreds, not thousands: the test is of the code, not of what it learns.
    text = "\n".join(blocks).replace("12_000", "600").replace("2_000", "100")
    exec(compile(text, "README.md", "exec"), {})
    assert (tmp_path / "digits.safetensors").exists()
    assert "epoch   3" in capsys.readouterr().err


def test_the_set_up_commands_are_the_two_one_liners():
    commands = re.findall(r"^pip install .*$", README, re.MULTILINE)
    assert commands == ["pip install . && mlpkit train", 'pip install -e ".[test]" && pytest']
