"""Progress without a terminal: plain lines, soon after the start, and few however long the run."""

import pytest

from isthmus.runs.progress import Log


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
