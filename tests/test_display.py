"""What a run tells its user, on a terminal and elsewhere."""

import io

import pytest

from launch import display


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_there_are_plain_lines_and_the_last_of_each_part():
    stream = io.StringIO()
    report = display.reporter(stream)
    for done in range(1, 101):
        report("pretrained", done, 100, {"loss": 1 / done})
    lines = stream.getvalue().splitlines()
    assert lines[0] == "pretrained: 1/100 loss=1"
    assert lines[-1] == "pretrained: 100/100 loss=0.01"
    assert len(lines) < 10 and "\r" not in stream.getvalue()


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_stream_that_takes_nothing_ends_the_telling_alone(kind):
    stream = kind()
    report = display.reporter(stream)
    stream.close()
    report("pretrained", 1, 2, {"loss": 0.5})


def test_a_clock_shares_out_the_time_between_reports(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    clock, told = display.Clock(), []
    report = clock.timed(lambda *of: told.append(of))
    for label, seconds in (("pretrained a", 2.0), ("pruned a", 1.0), ("pretrained b", 3.0)):
        now[0] += seconds
        report(label, 1, 2, {})
    now[0] += 0.5
    clock.part("figures")
    lines = [line.split() for line in clock.table().splitlines()]
    assert [line[-2] for line in lines] == ["5.0", "1.0", "0.5", "6.5"] and len(told) == 3


def test_on_a_terminal_there_is_a_bar_that_is_cleared_at_the_end():
    stream = Terminal()
    report = display.reporter(stream)
    for part in ("pretrained", "pruned"):
        for done in range(1, 4):
            report(part, done, 3, {"loss": 0.5})
    written = stream.getvalue()
    assert "\r" in written and "\n" not in written
    assert written.rstrip("\r").rsplit("\r", 1)[-1].strip() == ""
