"""The runs that are compared, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from impala_mi.config import build
from impala_mi.reproductions.multitask import runs
from impala_mi.reproductions.multitask.comparison import ALONE, HEADS
from impala_mi.reproductions.multitask.experiment import run
from impala_mi.reproductions.study import Study
from tests.commands import impala, refused
from tests.conftest import tiny_config

LEVELS = ["catch", "memory"]


def test_each_run_is_what_it_is_called(tmp_path, monkeypatch):
    """Every head and every level alone, from every seed; a level alone for the frames that it had among others."""
    trained = {}

    def call(arguments, log, tell):
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
            tell()
        else:
            folder = Path(arguments[1])
            (folder / "eval").mkdir()
            rows = [{"level": level, "score": 50.0} for level in trained[folder.name].env.levels]
            (folder / "eval" / "0.json").write_text(json.dumps({"levels": rows}))

    monkeypatch.setattr(runs, "_call", call)
    config = tiny_config("env.levels=[catch, memory]", "train.env_frames=1000")
    settings = {"quick": True, "seed": 4, "seeds": 2, "episodes": 3, "levels": LEVELS}
    shares = []
    study = Study("multitask", tmp_path / "a #b", settings | {"config": config.model_dump(mode="json")})
    study.progress = lambda share, what: shares.append(share)
    found = run(study)
    assert set(trained) == {
        f"{name}-{seed}" for seed in (4, 5) for name in (*HEADS, "alone-catch", "alone-memory")
    }  # fmt: skip
    for name, mine in trained.items():
        assert mine.seed == int(name[-1])
        alone = name.startswith("alone")
        assert mine.agent.head == ("shared" if alone else name[:-2])
        assert mine.env.levels == ([name.split("-")[1]] if alone else LEVELS)
        assert mine.train.env_frames == (1000 if not alone else 250 if "catch" in name else 750)
    assert np.shape(found.data["scores"][ALONE]) == (2, 2)
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
def test_what_cannot_be_compared_is_refused_first(tmp_path, args, says):
    refused(impala("reproduce", "multitask", *args, cwd=tmp_path), says)
    assert list(tmp_path.iterdir()) == []
