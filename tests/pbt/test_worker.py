"""The process of a member, called without Ray."""

from types import SimpleNamespace

import pytest
import torch

from impala_mi.envs.suites import make_suite
from impala_mi.errors import UserError
from impala_mi.learner.update import Learner
from impala_mi.pbt import worker
from impala_mi.pbt.settings import PopulationConfig
from impala_mi.pbt.worker import MemberInit, _Member
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs.folder import RunFolder
from impala_mi.runs.history import read_run
from tests.tiny import tiny_config

KEY = "learner.learning_rate"


@pytest.fixture
def population():
    pbt = {"members": 2, "space": {KEY: {"log_uniform": [1e-4, 1e-2]}}}
    return PopulationConfig.model_validate(tiny_config().model_dump() | {"pbt": pbt})


def save(folder, config, frames, damaged=()):
    """Checkpoint of a member without the keys `damaged` of its state and statistics."""
    learner = Learner(config, make_suite(config.env).spaces, 1, torch.device("cpu")).state()
    scores = {"returns": [[1.0]] * 5, "lengths": [[3]] * 5, "episodes": [1] * 5}
    run = {"scores": scores, "time_s": 1.0, "discarded": 0, "starts": 0}
    run["member"] = {"generation": frames, "parameters": {KEY: 0.001}, "episodes": 0}
    learner, run = ({k: v for k, v in part.items() if k not in damaged} for part in (learner, run))
    checkpoints.save(folder.checkpoints, learner, run, {"env_frames": frames, "updates": 1, "score": None}, 9)


@pytest.mark.parametrize("missing", ["optimizer", "torch_rng", "member", "time_s"])
def test_a_member_continues_from_the_newest_checkpoint_that_has_all(tmp_path, population, monkeypatch, missing):
    folder, trained = RunFolder(tmp_path), []

    def trainer(config, suite, folder, resumed, *_, **__):
        trained.append((resumed.path.name, len(checkpoints.steps(folder.checkpoints))))
        recorder = SimpleNamespace(set_member=lambda *_: None)
        return SimpleNamespace(recorder=recorder, run=lambda: SimpleNamespace(status="done"), close=lambda: None)

    monkeypatch.setattr(worker, "Trainer", trainer)
    save(folder, population, 100)
    save(folder, population, 200, [missing])
    with pytest.warns(UserWarning, match=f"{200:015d}' is damaged.*going on with {100:015d}"):
        member = _Member(population, str(tmp_path), MemberInit(1, {KEY: 0.002}), None)
    assert (member._state["generation"], member._run_config.learner.learning_rate) == (100, 0.001)
    assert member.run() == "done"
    assert trained == [(f"{100:015d}", 1)]  # the damaged one no longer counts
    [event] = read_run(tmp_path).events
    assert (event["event"], event["abandoned"]) == ("resumed", [f"{200:015d}"])


def test_a_member_without_any_is_refused_in_one_line(tmp_path, population):
    save(RunFolder(tmp_path), population, 100, ["member"])
    with pytest.raises(UserError, match="no state as a member of a population"):
        _Member(population, str(tmp_path), MemberInit(1, {KEY: 0.002}), None)
