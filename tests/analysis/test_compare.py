"""Groups, curves and aggregates of runs."""

from collections import Counter

import numpy as np
import pytest

from impala_mi.analysis.compare import (
    aggregate,
    common_levels,
    curve,
    differing,
    group_runs,
    same_seed,
    scores,
)
from impala_mi.runs.history import History


def run(name="a", settings=None, values=(), evaluations=(), frames=None, last=None):
    frames = frames or [100 * (i + 1) for i in range(len(values))]
    records = [{"env_frames": f, "x": v} for f, v in zip(frames, values, strict=True)]
    if last is not None:
        both = ((f"level/{k}/{what}", v) for k, v in last.items() for what in ("episodes", "score"))
        records.append({"env_frames": 1000, **dict(both)})
    return History(f"runs/{name}", name, settings or {}, records, Counter(), [], list(evaluations))


def settings(head="shared", seed=1, **extra):
    return {"agent.head": head, "seed": seed, "run.name": f"{head}-{seed}", "learner.discount": 0.99, **extra}


def test_runs_that_differ_in_their_seed_are_a_group():
    runs = [run(f"{head}{seed}", settings(head, seed)) for seed in (1, 2) for head in ("shared", "mi_task")]
    groups = group_runs(runs)
    assert [(group.name, [r.name for r in group.runs]) for group in groups] == [
        ("head=shared", ["shared1", "shared2"]), ("head=mi_task", ["mi_task1", "mi_task2"])
    ]  # fmt: skip
    assert differing([group.runs[0] for group in groups]) == ["agent.head"]


def test_names_of_group_runs():
    assert [g.name for g in group_runs([run("one", settings())])] == ["one"]
    both = [run("a", settings(**{"learner.discount": d, "agent.head": h})) for d, h in ((0.9, "x"), (0.99, "y"))]
    assert [g.name for g in group_runs(both)] == ["head=x, discount=0.9", "head=y, discount=0.99"]
    four = [
        run("a", settings(**dict.fromkeys(("agent.a", "agent.b", "agent.c"), x) | {"learner.z": z}))
        for x, z in ((1, 1), (2, 2), (2, 3))
    ]
    assert [g.name for g in group_runs(four)] == ["a=1, b=1, c=1, z=1", "a=2, b=2, c=2, z=2", "a=2, b=2, c=2, z=3"]
    unknown = [run("a"), run("b"), run("c", settings())]
    assert [g.name for g in group_runs(unknown)] == ["a (settings unknown)", "b (settings unknown)", "c"]


def test_run_time_and_logging_do_not_separate_groups():
    runs = [run(f"{s}", settings(**{"train.max_time_s": s, "train.log_every_s": s})) for s in (10, 20)]
    assert len(group_runs(runs)) == 1


def test_runs_of_one_seed_in_a_group():
    runs = [run(name, settings(seed=seed)) for name, seed in (("a", 1), ("b", 2), ("copy", 1))]
    assert same_seed(group_runs(runs)[0]) == [("a", "copy")]
    assert same_seed(group_runs(runs[:2])[0]) == []


def test_a_curve_is_the_mean_with_students_interval():
    line = curve([run(values=v) for v in ([0.0, 1, 2], [2.0, 3, 4], [4.0, 5, 6])], "x")
    assert line.mean.tolist() == [2, 3, 4]
    half = 4.302653 * 2 / 3**0.5  # t of two degrees of freedom, a deviation of 2
    assert line.high - line.mean == pytest.approx(half)
    assert line.mean - line.low == pytest.approx(half)


def test_a_curve_of_runs_of_several_lengths():
    line = curve([run(values=[1.0] * 5), run(values=[3.0] * 10), run(values=[])], "x")
    assert line.frames[0] == 100
    assert line.frames[-1] == 1000
    assert line.mean[0] == 2
    assert line.mean[-1] == 3
    assert np.isnan(line.low[-1])  # of a single run
    assert curve([run(values=[1.0])], "x") is None
    one = curve([run(values=[1.0, 2.0])], "x")
    assert (one.low, one.high) == (None, None)


def test_frames_that_come_twice_are_counted_once():
    line = curve([run(values=[0.0, 1.0, 1.0, 2.0], frames=[100, 200, 200, 300])], "x")
    assert (np.diff(line.mean) > 0).all()


def evaluation(score, **extra):
    return {"levels": [{"level": "a/x", "score": score}, {"level": "b", "score": None}]} | extra


def test_scores_are_of_evaluations_only_where_all_have_the_same_kind():
    one, two = run("1", evaluations=[evaluation(5.0), evaluation(9.0)]), run("2", evaluations=[evaluation(6.0)])
    assert scores([one, two]) == ("evaluations", {"runs/1": {"a/x": 5.0}, "runs/2": {"a/x": 6.0}})
    trained = {"a/x": 7.0}
    for other in (
        run("3", last=trained),
        run("3", last=trained, evaluations=[evaluation(5.0, task_ids=False)]),
        run("3", last=trained, evaluations=[evaluation(5.0, variant="training levels")]),
        run("3", last=trained, evaluations=[evaluation(5.0, limited=True)]),
        run("3", last=trained, evaluations=[evaluation(None)]),
    ):
        assert scores([one, other]) == ("training", {"runs/3": trained})
    blind = run("3", evaluations=[evaluation(1.0, task_ids=False), evaluation(2.0, task_ids=True)])
    assert scores([blind]) == ("evaluations", {"runs/3": {"a/x": 2.0}})
    assert scores([run()]) == ("training", {})


def test_levels_that_all_have():
    assert common_levels({"1": {"a": 1.0, "b": 2.0}, "2": {"b": 1.0, "c": 3.0}}) == ["b"]
    assert common_levels({}) == []


def test_aggregates_are_of_levels_first_and_runs_second():
    aggregates = aggregate(np.array([[50.0, 150.0, 10.0], [70.0, 150.0, 30.0]]))
    assert aggregates["mean"].value == pytest.approx(230 / 3)
    assert aggregates["mean capped"].value == pytest.approx(60)
    assert aggregates["median"].value == 60
    low, high = aggregates["median"].interval
    assert (low + high) / 2 == pytest.approx(60)
    assert high - 60 == pytest.approx(12.706205 * 10)  # t of one degree of freedom, a standard error of 10
    assert aggregate(np.array([[1.0, 2.0]]))["mean"].interval is None


@pytest.mark.slow
@pytest.mark.parametrize("runs", [2, 3, 8])
def test_intervals_hold_the_truth_as_often_as_they_say(runs):
    """Levels of a run share its luck; differences between levels are no uncertainty."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(300):
        luck = rng.normal(0, 5, (runs, 1))
        low, high = aggregate(100 * np.arange(30) + luck + rng.normal(0, 2, (runs, 30)))["mean"].interval
        inside += low <= 1450 <= high
    assert 0.91 < inside / 300 < 0.99
