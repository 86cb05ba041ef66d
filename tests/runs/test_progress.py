"""Progress without a terminal: plain lines, soon after the start, and few however long the run."""

import pytest

from isthmus.runs.progress import Gauge, Log, bar, gauge, gauged, shown


def lines_of(parts, seconds):
    """What a log writes for parts of work, (units, done before), each unit taking some seconds."""
    now, lines = [0.0], []
    log = Log(lines.append, clock=lambda: now[0])
    for i, (total, done) in enumerate(parts):
        with log.part(f"part {i}", total, done) as advance:
            for _ in range(total - done):
                now[0] += seconds
                advance("loss 0.1")
    return lines


def test_the_first_unit_of_work_is_told():
    first = lines_of([(200, 0)], seconds=1.0)[0]
    assert first == "isthmus: part 0: 1 of 200, about 3:19 min left, loss 0.1"


def test_work_that_goes_on_where_it_was_left_is_timed_without_what_was_done():
    first = lines_of([(200, 190)], seconds=2.0)[0]
    assert first == "isthmus: part 0: 191 of 200, about 0:18 min left, loss 0.1"


@pytest.mark.parametrize("parts", [[(200, 0)], [(300, 0)] * 22, [(7, 0)] * 300])
@pytest.mark.parametrize("seconds", [0.001, 0.1, 3.0, 60.0])
def test_a_run_writes_a_few_dozen_lines_at_the_most(parts, seconds):
    assert 1 <= len(lines_of(parts, seconds)) <= 100


def test_a_line_comes_for_each_tenth_of_a_run_of_a_minute():
    lines = lines_of([(60, 0)], seconds=1.0)
    assert 8 <= len(lines) <= 12


def test_a_slow_part_is_not_silent_for_more_than_half_a_minute():
    lines = lines_of([(10_000, 0)], seconds=0.02)
    assert len(lines) >= 200 // 30


def test_a_gauge_tells_of_samples_that_are_done_and_of_what_the_others_have_cost():
    told = []
    meter = Gauge(10, lambda note="", by=1: told.append(by))
    with meter.batch(100):
        meter.look(60, 0)  # 40 needed nothing
        with meter.batch(60):  # an attack that another one runs
            meter.look(60, 5)
        assert sum(told) == 70
        meter.look(10, 4)
        meter.look(20, 0)  # of a trial that has fewer in sight: what was told stays
        assert sum(told) == 99
        meter.look(10, 4)  # it costs more than it should
        assert sum(told) == 100
    with meter.batch(50):
        meter.look(50, 1)
    meter.reach(150)
    assert sum(told) == 150 and all(by > 0 for by in told)


def test_a_part_of_work_that_has_a_bar_shows_none(capsys):
    with shown(), bar("whole", 2) as advance:
        advance()
        with bar("part", 3) as inner:
            inner(by=3)
        with gauged("part", 3, 1):
            assert gauge() is None
    assert "whole: 1 of 2" in capsys.readouterr().err
    with shown(), gauged("samples", 3, 1) as meter:
        assert gauge() is meter
        meter.reach(3)
    assert "samples: 3 of 3" in capsys.readouterr().err
