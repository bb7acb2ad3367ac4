"""Groups, curves and aggregates of several runs."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from impala_mi.analysis.compare import aggregate, curve, differing, groups, interquartile_mean, scores
from impala_mi.analysis.history import History


def run(name="a", settings=None, values=(), evaluations=(), frames=None, last=None):
    frames = frames or [100 * (i + 1) for i in range(len(values))]
    records = [{"env_frames": f, "x": v} for f, v in zip(frames, values, strict=True)]
    if last is not None:
        records.append({"env_frames": 1000, **{f"level/{k}/score": v for k, v in last.items()}})
    return History(f"runs/{name}", name, settings or {}, records, Counter(), [], list(evaluations))


def settings(head="shared", seed=1, **more):
    return {"agent.head": head, "seed": seed, "run.name": f"{head}-{seed}", "learner.discount": 0.99, **more}


def test_runs_that_differ_in_their_seed_are_a_group():
    runs = [run(f"{head}{seed}", settings(head, seed)) for seed in (1, 2) for head in ("shared", "mi_task")]
    found = groups(runs)
    assert [(group.name, [r.name for r in group.runs]) for group in found] == [
        ("head=shared", ["shared1", "shared2"]), ("head=mi_task", ["mi_task1", "mi_task2"])
    ]  # fmt: skip
    assert differing([group.runs[0] for group in found]) == ["agent.head"]


def test_names_of_groups():
    assert [g.name for g in groups([run("one", settings())])] == ["one"]
    both = [run("a", settings(**{"learner.discount": d, "agent.head": h})) for d, h in ((0.9, "x"), (0.99, "y"))]
    assert [g.name for g in groups(both)] == ["head=x, discount=0.9", "head=y, discount=0.99"]
    unknown = [run("a"), run("b"), run("c", settings())]
    assert [g.name for g in groups(unknown)] == ["a (settings unknown)", "b (settings unknown)", "c"]


def test_a_curve_is_the_mean_with_students_interval():
    found = curve([run(values=v) for v in ([0.0, 1, 2], [2.0, 3, 4], [4.0, 5, 6])], "x")
    assert found.mean.tolist() == [2, 3, 4]
    half = 4.302653 * 2 / 3**0.5  # t of two degrees of freedom, a deviation of 2
    assert found.high - found.mean == pytest.approx(half)
    assert found.mean - found.low == pytest.approx(half)


def test_a_curve_of_runs_of_several_lengths():
    found = curve([run(values=[1.0] * 5), run(values=[3.0] * 10), run(values=[])], "x")
    assert found.frames[0] == 100
    assert found.frames[-1] == 1000
    assert found.mean[0] == 2
    assert found.mean[-1] == 3
    assert np.isnan(found.low[-1])  # of a single run
    assert curve([run(values=[1.0])], "x") is None
    one = curve([run(values=[1.0, 2.0])], "x")
    assert (one.low, one.high) == (None, None)


def test_frames_that_come_twice_are_counted_once():
    found = curve([run(values=[0.0, 1.0, 1.0, 2.0], frames=[100, 200, 200, 300])], "x")
    assert (np.diff(found.mean) > 0).all()


def test_scores_of_the_newest_evaluation_come_first():
    newest = {"levels": [{"level": "a", "score": 5.0}, {"level": "b", "score": None}]}
    assert scores(run(evaluations=[newest, {"levels": [{"level": "a", "score": 9.0}]}])) == {"a": 5.0}
    assert scores(run(last={"a": 7.0})) == {"a": 7.0}
    assert scores(run(evaluations=[{"levels": [{"level": "a", "score": None}]}], last={"a": 7.0})) == {"a": 7.0}
    assert scores(run()) == {}


@given(st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=40))
def test_the_interquartile_mean_is_of_the_middle_half(values):
    cut = len(values) // 4
    assert interquartile_mean(np.array(values)) == pytest.approx(np.mean(sorted(values)[cut : len(values) - cut]))


def test_aggregates_are_over_levels_that_all_have():
    [group] = groups([run(f"r{i}", settings(seed=i), last={"a": 50.0, "b": 150.0} | more)
                      for i, more in enumerate(({}, {"c": 7.0}))])  # fmt: skip
    found = aggregate(group)
    assert (found["mean"].value, found["mean capped"].value, found["median"].value) == (100, 75, 100)
    assert found["mean"].interval == (100, 100)
    [alone] = groups([run("r", settings(), last={"a": 1.0})])
    assert aggregate(alone)["mean"].interval is None
    assert aggregate(groups([run("r", settings())])[0]) == {}


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Runs are drawn within levels: what levels differ by is no uncertainty."""
    rng, inside, width = np.random.default_rng(0), 0, []
    for _ in range(60):
        runs = [
            run(f"{i}", settings(seed=i), last={f"l{k}": 100 * k + rng.normal(0, 5) for k in range(4)})
            for i in range(8)
        ]
        [group] = groups(runs)
        low, high = aggregate(group)["mean"].interval
        inside += low <= 150 <= high
        width.append(high - low)
    assert 0.8 < inside / 60 < 1
    assert np.mean(width) < 10
