"""Runs in one process, gradients' cosines, and the whole study in miniature."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from impala_mi.envs.suites import make_suite
from impala_mi.errors import UserError
from impala_mi.learner.batching import stack, to_device
from impala_mi.learner.update import Learner
from impala_mi.reproductions.interference import interference_study
from impala_mi.reproductions.interference.gradient_cosines import gradient_cosines
from impala_mi.reproductions.interference.in_process import train_in_process
from impala_mi.reproductions.interference.interference_report import Gain, Run, compare, verdict
from impala_mi.reproductions.interference.interference_study import (
    BASE,
    InterferenceProtocol,
    run_config,
    run_study,
)
from impala_mi.reproductions.study import Study
from impala_mi.reproductions.study_report import write_study_report
from tests.tiny import started

SETTINGS = {"quick": True, "seed": 3, "seeds": 2, "device": "cpu"}


@pytest.mark.slow
def test_a_run_repeats_bit_for_bit():
    def train(seed):
        config = run_config("mi_task", 2, 1.0, seed, 8192)
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
    config = run_config("shared", 2, 1.0, 1, 10_000)
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


def test_gains_say_what_is_sure():
    rng = np.random.default_rng(0)
    worse, better = rng.normal(50, 1, 8), rng.normal(60, 1, 8)
    gain = compare(better, worse, 0.99)
    assert gain.mean == pytest.approx(better.mean() - worse.mean())
    assert gain.interval[0] < gain.mean < gain.interval[1]
    assert (gain.sign, gain.improvement) == (1, 1.0)
    assert compare(worse, better, 0.99).sign == -1
    assert (compare(worse, worse, 0.99).sign, compare(worse, worse, 0.99).improvement) == (0, 0.5)
    unsure = Gain(1.0, (-1.0, 3.0), 0.6)
    contested, agreed = (4, 0.5), (4, 0.0)
    gains = {(contested, "good"): gain, (contested, "bad"): compare(worse, better, 0.99), (agreed, "good"): unsure}
    text = verdict(gains)
    assert "4 tasks, 50% contradiction: better are good (+8.8); worse are bad (-8.8)" in text
    assert "4 tasks, 0% contradiction: no difference" in text


def test_the_final_score_is_the_mean_of_the_last_windows():
    run = Run("shared", 2, 0.0, 1, range(6), [[0.0, 0.0]] * 2 + [[10.0, 20.0]] * 4, [])
    assert run.final == 15.0
    assert run.curve.tolist() == [0.0, 0.0, 15.0, 15.0, 15.0, 15.0]


@pytest.mark.slow
def test_the_whole_in_miniature(tmp_path, monkeypatch):
    small = InterferenceProtocol((2,), (0.0, 1.0), ("shared", "mi_task"), 1024)
    monkeypatch.setattr(interference_study, "QUICK", small)
    monkeypatch.setattr(interference_study, "WINDOWS", 4)
    few = {"actors": {"count": 1, "envs": 4}, "learner": BASE["learner"] | {"batch_size": 4}}
    monkeypatch.setattr(interference_study, "BASE", BASE | few)
    shares = []
    own = Study("interference", tmp_path, SETTINGS, lambda share, description: shares.append(share))
    report = run_study(own)
    assert shares == sorted(shares)
    assert len(report.tables[0].rows) == 2
    files = write_study_report(own, report, "impala-mi reproduce interference")
    assert [f.name for f in files] == ["map.png", "curves.png", "cosines.png", "results.md", "results.json"]
    written = json.loads((tmp_path / "results.json").read_text())
    assert [row[:2] for row in written["data"]["final"]] == [[2, 0.0], [2, 1.0]]
    assert all(len(v) == 2 for row in written["data"]["final"] for v in row[2].values())
    own._lock.close()
    monkeypatch.setattr(interference_study, "train_part", None)  # nothing is trained again
    again = Study("interference", tmp_path, SETTINGS)
    assert run_study(again).verdict == report.verdict
    again._lock.close()
    monkeypatch.setattr(interference_study, "QUICK", replace(small, frames=999))
    with pytest.raises(UserError, match="frames=1024, not 999"):
        run_study(Study("interference", tmp_path, SETTINGS))
