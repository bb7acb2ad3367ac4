"""Runs in one process, gradients' cosines, and the whole study in miniature."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from impala_mi.envs.interference import right_actions
from impala_mi.envs.suites import make_suite
from impala_mi.errors import UserError
from impala_mi.learner.batching import stack, to_device
from impala_mi.learner.data_parallel import split
from impala_mi.learner.update import Learner
from impala_mi.nn.agent import Agent
from impala_mi.reproductions.interference import interference_study
from impala_mi.reproductions.interference.gradient_cosines import gradient_cosines
from impala_mi.reproductions.interference.in_process import train_in_process
from impala_mi.reproductions.interference.interference_report import (
    interference_data,
    line_style,
    report_from_data,
)
from impala_mi.reproductions.interference.interference_study import (
    ARMS,
    FULL,
    QUICK,
    InterferenceProtocol,
    part_name,
    run_config,
    run_study,
)
from impala_mi.reproductions.interference.results import Point, Run, Transfer, compare
from impala_mi.reproductions.interference.transfer import grow
from impala_mi.reproductions.study import Study
from impala_mi.reproductions.study_report import as_stored, write_study_report
from tests.tiny import started

SETTINGS = {"quick": True, "seed": 3, "repetitions": 2, "device": "cpu"}


@pytest.mark.slow
def test_a_run_repeats_bit_for_bit():
    def train(seed):
        config = run_config("mi_task", Point(2, 1.0), seed, 8192)
        weights = []
        curve = train_in_process(
            config, make_suite(config.env), 4, lambda learner, batch: weights.append(learner.weights())
        )
        assert curve.frames == [2048, 4096, 6144, 8192]
        assert np.shape(curve.scores) == (4, 2)
        return weights

    first, again, other = train(1), train(1), train(2)
    assert len(first) == 4
    assert all(np.array_equal(w[k], v[k]) for w, v in zip(first, again, strict=True) for k in w)
    assert any(not np.array_equal(first[0][k], other[0][k]) for k in first[0])


@pytest.mark.slow
def test_gradients_of_levels_that_agree_point_the_same_way():
    """Rewards of a whole batch that one action earns are right for all levels or contradict each other."""
    config = run_config("shared", Point(2, 1.0), 1, 10_000)
    suite = make_suite(config.env)
    learner = Learner(config, suite.spaces, 1, torch.device("cpu"))
    worker = started(config, suite, 0, (0, 0, 0))
    worker.load(learner.weights(), 0)
    batch = to_device(stack([worker.collect().data]), learner.device)
    before = learner.weights()
    level = batch.inputs.level[:-1]

    def policy_cosines(liked):
        """Cosines within and between levels if level k is rewarded for the action `liked[k]`."""
        rewarded = batch._replace(reward=(batch.action == torch.tensor(liked)[level]).float())
        return gradient_cosines(learner, rewarded)["policy"]

    (within, agreeing), (_, contradicting) = policy_cosines([3, 3]), policy_cosines([3, 5])
    assert agreeing == pytest.approx(within, abs=0.05), "levels that agree are one level"
    assert agreeing > contradicting + 0.2
    assert all(np.array_equal(before[k], v) for k, v in learner.weights().items()), "nothing is learnt"


def test_columns_without_pairs_are_refused():
    config = run_config("shared", Point(2, 1.0), 1, 10_000)
    learner = Learner(config, make_suite(config.env).spaces, 1, torch.device("cpu"))
    worker = started(config, make_suite(config.env), 0, (0, 0, 0))
    worker.load(learner.weights(), 0)
    batch = to_device(stack([worker.collect().data]), learner.device)
    with pytest.raises(ValueError, match="two levels are needed"):
        gradient_cosines(learner, split(batch, 64)[0])


@pytest.mark.parametrize("tasks", [4, 16, 64])
def test_every_task_has_pairs_of_environments(tasks):
    config = run_config("shared", Point(tasks, 1.0), 1, 10_000)
    assert config.actors.envs == config.learner.batch_size >= 2 * tasks


def test_arms_of_a_seed_play_the_same_rules_and_seeds_different_ones():
    def rules(arm, seed):
        return right_actions(run_config(arm, Point(16, 0.5), seed, 10_000).env.interference)

    assert all(np.array_equal(rules(arm, 1), rules("shared", 1)) for arm in ARMS)
    assert not np.array_equal(rules("shared", 1), rules("shared", 2))


@pytest.mark.parametrize("protocol", [QUICK, FULL])
def test_protocols_have_a_baseline_for_every_arm_and_a_part_for_every_run(protocol):
    plan = list(protocol.plan())
    assert len({part_name(arm, point, 1) for point, arm in plan}) == len(plan)
    for point, arms in protocol.points:
        assert arms[0] == "shared"
        assert all(arm.removesuffix(" + PopArt") in arms for arm in arms)
        assert all(run_config(arm, point, 1, 10_000).env.interference.tasks == point.tasks for arm in arms)
    assert set(protocol.separation) <= set(plan)


def test_lines_of_the_figures_are_told_apart():
    styles = [tuple(line_style(arm).items()) for arm in ARMS]
    assert len(set(styles)) == len(styles)


def test_gains_say_what_is_sure():
    """Student's factor of a mean of 4 is 3.182 at 95 % and 5.841 at 99 %."""
    baseline, difference = np.array([10.0, 20.0, 30.0, 40.0]), np.array([1, 2, 3, 4])
    gain = compare(baseline + difference, baseline, 0.95)
    deviation = np.std([1, 2, 3, 4], ddof=1)
    assert (gain.mean, gain.half) == (2.5, pytest.approx(3.182 * deviation / 2, abs=1e-3))
    assert (gain.sign, gain.improvement) == (1, 1.0)
    assert compare(baseline - difference, baseline, 0.95).sign == -1
    wider = compare(baseline + difference, baseline, 0.99)
    assert (wider.half, wider.sign) == (pytest.approx(5.841 * deviation / 2, abs=1e-3), 0)
    same = compare(baseline, baseline, 0.99)
    assert (same.mean, same.sign, same.improvement) == (0.0, 0, 0.5)


def synthetic(arm, contradiction, seed, score):
    curve = [[score, score + 2.0]] * 5
    return Run(arm, Point(2, contradiction), seed, list(range(5)), curve, [{"policy": (0.5, 0.1)}] * 5, [], 7)


def interference_report(*results):
    """Report as of a study, whose data has been through a file."""
    data = as_stored(interference_data(*results))
    report = report_from_data(data)
    assert report_from_data(json.loads(json.dumps(data))).tables == report.tables
    return report


def test_a_report_corrects_for_all_its_comparisons():
    """Two arms at two points are four comparisons: 98.75 % each. Gains of 1 to 4 are sure at 95 %, not so."""
    runs = [
        synthetic(arm, contradiction, seed, 10.0 * seed + slope * seed + gain)
        for contradiction in (0.0, 1.0)
        for arm, slope, gain in (("shared", 0, 0), ("mi_task", 1, 0), ("per_task", 0, 100))
        for seed in (1, 2, 3, 4)
    ]
    report = interference_report(runs, [(Point(2, c), ("shared", "mi_task", "per_task")) for c in (0.0, 1.0)])
    factor = stats.t.ppf(1 - 0.0125 / 2, 3)
    scores, gains, sizes = report.tables
    assert gains.rows[0][1] == f"+2.5 ± {factor * np.std([1, 2, 3, 4], ddof=1) / 2:.1f}, 100%"
    assert scores.rows[0][1] == f"26.0 ± {stats.t.ppf(0.975, 3) * np.std([10, 20, 30, 40], ddof=1) / 2:.1f}"
    assert sizes.rows == [["shared", 7], ["mi_task", 7], ["per_task", 7]]
    better = "better than the shared head: per_task (+100.0)"
    assert report.verdict == f"2 tasks, 0% contradiction: {better}. 2 tasks, 100% contradiction: {better}."
    assert len(report.data["runs"]) == 24
    eight = [synthetic(arm, 0.0, seed, 10.0) for arm in ("shared", "mi_task") for seed in range(8)]
    assert "interquartile" in interference_report(eight, [(Point(2, 0.0), ("shared", "mi_task"))]).tables[0].title


def test_popart_is_compared_with_the_same_head_and_arms_that_were_not_run_are_left_out():
    own = {"shared": 10.0, "mi_task": 50.0, "mi_task + PopArt": 80.0}
    runs = [synthetic(arm, 0.0, seed, score + seed) for arm, score in own.items() for seed in (1, 2)]
    runs += [synthetic(arm, 1.0, seed, seed) for arm in ("shared", "mi_task") for seed in (1, 2)]
    report = interference_report(runs, [(Point(2, 0.0), tuple(own)), (Point(2, 1.0), ("shared", "mi_task"))])
    scores, gains, _ = report.tables
    assert [row[0] for row in gains.rows] == ["mi_task", "mi_task + PopArt"]
    assert gains.rows[1][1].startswith("+30.0")
    assert gains.rows[1][2] is None
    assert scores.rows[2][2] is None
    assert report.verdict == (
        "2 tasks, 0% contradiction: better than the shared head: mi_task (+40.0); better than mi_task: "
        "mi_task + PopArt (+30.0). 2 tasks, 100% contradiction: no difference to a baseline is shown."
    )


@pytest.mark.parametrize("head", ["shared", "per_task", "mi_task", "film_task", "mi_context"])
def test_a_grown_agent_acts_as_before_on_the_tasks_that_it_knows(head):
    """Policies and values of all levels but the new one are equal to rounding, as the trained weights are kept."""
    small, large = (run_config(head, Point(tasks, 0.5), 1, 10_000) for tasks in (3, 4))
    agents = [Agent(c.agent, make_suite(c.env).spaces).eval() for c in (small, large)]
    before = [p.clone() for p in agents[1].parameters()]
    grow(agents[0].state_dict(), agents[1])
    h, level = torch.randn(64, small.agent.core_width), torch.arange(64) % 3
    outputs = [agent.head(h, level) for agent in agents]
    for known, grown in zip(*outputs, strict=True):
        torch.testing.assert_close(known, grown)
    new = [agents[1].head(h[:1], torch.tensor([k])).logits for k in (0, 3)]
    assert head in ("shared", "mi_context") or not torch.allclose(*new), "the new level has weights of its own"
    assert any(not torch.equal(p, q) for p, q in zip(before, agents[1].parameters(), strict=True))


def test_weights_that_do_not_fit_are_refused():
    agents = [
        Agent(c.agent, make_suite(c.env).spaces)
        for c in (run_config("per_task", Point(k, 0.5), 1, 10_000) for k in (3, 4))
    ]
    with pytest.raises(RuntimeError):
        grow(agents[1].state_dict(), agents[0])


def test_a_transfer_is_compared_by_seed_and_with_an_untrained_agent():
    runs = [synthetic(arm, 0.0, seed, 10.0 * seed) for arm in ("shared", "mi_task") for seed in (1, 2)]
    transfers = [
        Transfer(arm, Point(2, 0.0), seed, (1, 2), (0.0, score), (50.0, 10.0 * seed + loss))
        for arm, score, loss in (("shared", 20.0, -4.0), ("mi_task", 60.0, 3.0))
        for seed in (1, 2)
    ]
    plan = [(Point(2, 0.0), ("shared", "mi_task"))]
    table = interference_report(runs, plan, transfers).tables[-1]
    assert table.rows[0][:3] == ["shared", "2 tasks, 0% contradiction", "20.0 ± 0.0"]
    untrained = f"16.0 ± {stats.t.ppf(0.975, 1) * 5:.1f}"
    assert "all 1 intervals" in table.header[5]
    assert table.rows[1][2:] == ["60.0 ± 0.0", untrained, "+2.0 ± 0.0", "+40.0 ± 0.0"]
    assert table.rows[0][5] is None
    assert interference_report(runs, plan).data["transfers"] == []


def test_the_final_score_is_the_mean_of_the_last_windows():
    run = Run("shared", Point(2, 0.0), 1, range(6), [[0.0, 0.0]] * 2 + [[10.0, 20.0]] * 4, [], [], 7)
    assert run.final == 15.0
    assert run.curve.tolist() == [0.0, 0.0, 15.0, 15.0, 15.0, 15.0]


@pytest.mark.slow
def test_the_whole_in_miniature(tmp_path, monkeypatch):
    points = tuple((Point(2, c), ("shared", "mi_task")) for c in (0.0, 1.0))
    small = InterferenceProtocol(points, ((points[1][0], "mi_task"),), points[:1], 1024, 1024)
    monkeypatch.setattr(interference_study, "QUICK", small)
    monkeypatch.setattr(interference_study, "WINDOWS", 4)
    monkeypatch.setattr(interference_study, "ENVS", 4)
    shares = []
    own = Study("interference", tmp_path, SETTINGS, lambda share, description: shares.append(share))
    report = run_study(own)
    assert shares == sorted(shares)
    assert [row[0] for row in report.tables[0].rows] == ["shared", "mi_task"]
    files = write_study_report(own, report, "impala-mi reproduce interference")
    assert [f.name for f in files] == [
        *("map.png", "curves.png", "cosines.png", "separation.png", "results.md", "results.json")
    ]
    written = json.loads((tmp_path / "results.json").read_text())
    keys = [(run["seed"], run["point"]["contradiction"], run["arm"]) for run in written["data"]["runs"]]
    assert keys == [(seed, c, arm) for seed in (3, 4) for c in (0.0, 1.0) for arm in ("shared", "mi_task")]
    assert [len(run["cosines"]) for run in written["data"]["runs"]] == [4, 0] * 4
    assert [(t["arm"], t["seed"], len(t["new"])) for t in written["data"]["transfers"]] == [
        (arm, seed, 5) for seed in (3, 4) for arm in ("shared", "mi_task")
    ]
    kinds = [{row["kind"] for row in run["separation"]} for run in written["data"]["runs"]]
    assert kinds == [set(), set(), set(), {"core", "context", "policy"}] * 2
    own._lock.close()
    for name in ("train_part", "train_and_transfer"):
        monkeypatch.setattr(interference_study, name, lambda *_: pytest.fail("nothing is trained again"))
    again = Study("interference", tmp_path, SETTINGS)
    assert run_study(again).verdict == report.verdict
    again._lock.close()
    monkeypatch.setattr(interference_study, "QUICK", replace(small, frames=999))
    with pytest.raises(UserError, match="frames=1024, not 999"):
        run_study(Study("interference", tmp_path, SETTINGS))
