"""The one loop of every study: what is left is measured, recorded and told."""

import pytest

from pruning_jax.lab import jobs, results
from pruning_jax.lab.jobs import Lab, fill


def asked(count):
    return [{"phase": "p", "workload": "w", "number": number} for number in range(count)]


def squares(seen, size=1):
    """Measures so many jobs at a time."""

    def measure(left):
        for first in range(0, len(left), size):
            group = left[first : first + size]
            seen.extend(job["number"] for job in group)
            found = [{"square": float(job["number"] ** 2)} for job in group]
            yield found if size > 1 else found[0]

    return measure


def run_in(folder, measure, count=5, stopping=jobs.never, told=None):
    told = [] if told is None else told
    with results.open_run(folder, {}, study="s") as run:
        fill(Lab(run, lambda *of: told.append(of), stopping), asked(count), measure)
    return results.read(folder).results


@pytest.mark.parametrize("size", [1, 2, 9])
def test_every_job_has_its_row_and_is_told(tmp_path, size):
    seen, told = [], []
    rows = run_in(tmp_path, squares(seen, size), told=told)
    assert rows == [job | {"square": job["number"] ** 2} for job in asked(5)]
    assert seen == [0, 1, 2, 3, 4]
    assert told[-1] == ("p w number=4", 5, 5, {"square": 16.0}) and len(told) == -(-5 // size)


@pytest.mark.parametrize(("size", "done"), [(1, 2), (2, 4)])
def test_what_has_a_row_is_not_measured_again(tmp_path, size, done):
    seen, told = [], []
    with pytest.raises(jobs.Stopped, match=f"number={done - 1}: {done}/5"):
        run_in(tmp_path, squares(seen, size), stopping=lambda: len(told) == 2, told=told)
    assert len(results.read(tmp_path).results) == done
    rows = run_in(tmp_path, squares(seen, size), told=told)
    assert seen == [0, 1, 2, 3, 4] and len(rows) == 5
    before = (tmp_path / "results.jsonl").stat()
    assert run_in(tmp_path, squares(seen)) == rows and len(seen) == 5
    assert (tmp_path / "results.jsonl").stat() == before


@pytest.mark.parametrize(("measured", "message"), [(4, "number=4 and those after"), (6, "zip")])
def test_a_measure_of_fewer_or_more_jobs_is_refused(tmp_path, measured, message):
    def measure(left):
        yield [{"square": 0.0}] * measured

    with pytest.raises(ValueError, match=message):
        run_in(tmp_path, measure)


def test_a_lost_network_is_made_again_and_its_row_stays(tmp_path):
    def keeping(lab, seen):
        def measure(left):
            for job in left:
                seen.append(job["number"])
                lab.keep(job, {"w": [1.0 * job["number"]]})
                yield {"number_again": job["number"]}

        return measure

    for lost, expected in (([], [0, 1, 2]), ([1], [1])):
        for number in lost:
            (tmp_path / f"checkpoints/p/w/number={number}").rename(tmp_path / "away")
        seen = []
        with results.open_run(tmp_path, {}, study="s") as run:
            lab = Lab(run, lambda *_: None)
            fill(lab, asked(3), keeping(lab, seen), keeps=asked(3))
            assert seen == expected and len(run.rows()) == 3
            assert [float(lab.kept(job)["w"][0]) for job in asked(3)] == [0, 1, 2]
