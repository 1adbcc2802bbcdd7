"""What the command line says of itself."""

import subprocess
import sys
from pathlib import Path

import pytest

from configs import digits
from launch import usage

ROOT = Path(__file__).resolve().parents[1]


def said(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        usage.answer(["main", *arguments])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_help_lists_every_config_with_what_it_is(capsys):
    status, out, err = said(capsys, "--help")
    assert status == 0 and not err
    for path in (ROOT / "configs").glob("*.py"):
        assert (f"configs/{path.name}: " in out) == ("def get_config" in path.read_text())
    assert max(map(len, out.splitlines())) <= 100


def test_nothing_at_all_is_answered_by_the_same_without_importing_jax():
    watched = "import sys; sys.argv[1:] = []\nfrom launch import usage\n"
    watched += "try: usage.answer(sys.argv)\nexcept SystemExit as end: print(end.code)\n"
    watched += "assert 'jax' not in sys.modules and 'absl' not in sys.modules"
    ended = subprocess.run(
        [sys.executable, "-c", watched], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "2\n" and "usage: python -m launch.main" in ended.stderr


def test_help_of_a_config_gives_its_fields_and_their_values(capsys):
    status, out, _ = said(capsys, f"--config={ROOT}/configs/digits.py:smoke", "--help")
    workload = digits.get_config("smoke").workload
    assert status == 0 and digits.__doc__.strip() in out
    assert f"--config.workload.training.epochs={workload.training.epochs}\n" in out


def test_a_config_that_cannot_be_read_is_named(capsys, tmp_path):
    (tmp_path / "wrong.py").write_text("def get_config(:\n")
    status, *_ = said(capsys, f"--config={tmp_path}/wrong.py", "--help")
    assert "wrong.py: SyntaxError" in status


def test_anything_else_is_left_to_the_run():
    usage.answer(["main", "--config=configs/digits.py", "--workdir=run"])
