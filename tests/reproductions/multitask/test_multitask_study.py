"""Runs that are compared, and configurations that are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from impala_mi.config import build
from impala_mi.reproductions.multitask import train_eval_runs
from impala_mi.reproductions.multitask.multitask_report import ALONE, HEADS
from impala_mi.reproductions.multitask.multitask_study import run_study
from impala_mi.reproductions.study import Study
from tests.commands import impala, refused
from tests.tiny import tiny_config

LEVELS = ["catch", "memory"]


def test_each_run_is_what_it_is_called(tmp_path, monkeypatch):
    """Every head, and every level alone for as many frames as it had among others, from every seed."""
    trained = {}

    def call(arguments, log, poll):
        if arguments[0] == "train":
            config = build("x", yaml.safe_load(Path(arguments[1]).read_text()))
            folder = Path(config.run.root) / config.run.name
            trained[config.run.name] = config
            (folder / "checkpoints" / "0").mkdir(parents=True)
            shares = {
                f"level/{level}/frames_share": share for level, share in zip(LEVELS, (0.25, 0.75), strict=True)
            }
            (folder / "metrics.jsonl").write_text(json.dumps({"env_frames": 1000} | shares))
            (folder / "config.yaml").touch()
            poll()
        else:
            folder = Path(arguments[1])
            (folder / "eval").mkdir()
            rows = [{"level": level, "score": 50.0} for level in trained[folder.name].env.levels]
            (folder / "eval" / "0.json").write_text(json.dumps({"levels": rows}))

    monkeypatch.setattr(train_eval_runs, "_call", call)
    config = tiny_config("env.levels=[catch, memory]", "train.env_frames=1000")
    settings = {"quick": True, "seed": 4, "seeds": 2, "episodes": 3, "levels": LEVELS}
    shares = []
    study = Study("multitask", tmp_path / "a #b", settings | {"config": config.model_dump(mode="json")})
    study.progress = lambda share, description: shares.append(share)
    report = run_study(study)
    assert set(trained) == {
        f"{name}-{seed}" for seed in (4, 5) for name in (*HEADS, "alone-catch", "alone-memory")
    }  # fmt: skip
    for name, config_of_run in trained.items():
        assert config_of_run.seed == int(name[-1])
        alone = name.startswith("alone")
        assert config_of_run.agent.head == ("shared" if alone else name[:-2])
        assert config_of_run.env.levels == ([name.split("-")[1]] if alone else LEVELS)
        assert config_of_run.train.env_frames == (1000 if not alone else 250 if "catch" in name else 750)
    assert np.shape(report.data["scores"][ALONE]) == (2, 2)
    assert shares == sorted(shares)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["smoke", "agent.head=shared"], "use --seed"),
        (["run.name=x"], "--out"),
        (["cartpole", "env.levels=[Acrobot-v1]"], "'Acrobot-v1' has no random and reference scores"),
        (["cartpole"], "name two levels or more"),
        (["smoke", "actors.envs=1", "actors.count=2"], "5 levels but only"),
        (["smoke", "run.mirror=file:///x"], "run.mirror"),
        (["smoke", "actors.count=null", "actors.per_level=1", "actors.min=4"], "actors.min=4"),
    ],
)
def test_configurations_that_cannot_be_compared_are_refused_first(tmp_path, args, says):
    refused(impala("reproduce", "multitask", *args, cwd=tmp_path), says)
    assert list(tmp_path.iterdir()) == []
