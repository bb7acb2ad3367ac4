"""The comparison of heads: its runs, what it says of scores, what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from impala_mi.config import build
from impala_mi.experiments import multitask
from impala_mi.experiments.multitask import ALONE, CLAUSES, HEADS, PAIRS, findings, run, verdict
from impala_mi.experiments.study import Study
from tests.commands import impala, refused
from tests.conftest import tiny_config

LEVELS = ["catch", "memory"]
NOTHING = dict.fromkeys(PAIRS, (0.0, -1.0, 1.0))


def scores(tmp_path, means, spread=1.0):
    """Three seeds of each head around its mean, and folders of runs without records."""
    found = {}
    for name, mean in means.items():
        found[name] = [dict.fromkeys(LEVELS, mean + spread * k) for k in (-1, 0, 1)]
        for seed in (1, 2, 3):
            folder = tmp_path / f"{name}-{seed}"
            folder.mkdir(exist_ok=True)
            (folder / "config.yaml").touch()
    return found


def test_differences_are_of_capped_means(tmp_path):
    means = dict(zip((*HEADS, ALONE), (10.0, 20.0, 60.0, 200.0, 10.0), strict=True))
    found = findings(tmp_path, scores(tmp_path, means), [1, 2, 3])
    gain, low, high = found.data["gains"]["per_task against shared"]
    assert gain == pytest.approx(10.0)
    half = 4.850 * np.sqrt(2 / 3)  # Welch's, equal variances of 1: t of four degrees of freedom, 1 - 0.05 / 6 / 2
    assert (gain - low, high - gain) == (pytest.approx(half, rel=1e-3), pytest.approx(half, rel=1e-3))
    assert found.data["gains"]["mi_context against mi_task"][0] == pytest.approx(40.0)
    rows = found.tables[0].rows
    assert [row[0] for row in rows] == [*HEADS, ALONE]
    assert rows[3][1:3] == ["100.0 ± 0.0", 200.0]
    assert found.verdict.startswith("3 of 3 clauses held")
    assert "none is shown" in found.verdict


def test_a_clause_needs_all_of_its_intervals_beyond_zero():
    better = (2.0, 1.0, 3.0)
    assert verdict(NOTHING).startswith("0 of 3")
    assert verdict(NOTHING | {("mi_task", "shared"): better}).startswith("0 of 3")  # but not better than per_task
    both = dict.fromkeys(CLAUSES["the multiplicative head of the task beats both"], better)
    assert verdict(NOTHING | both).startswith("1 of 3")
    assert "the contrary" in verdict(NOTHING | {("mi_context", "shared"): (-2.0, -3.0, -1.0)})


@pytest.mark.parametrize(
    ("alone", "said"),
    [((2.0, 1.0, 3.0), "there is ("), ((-2.0, -3.0, -1.0), "help each other"), ((0.0, -1.0, 1.0), "none is shown")],
)
def test_interference_is_what_levels_do_better_alone(alone, said):
    assert said in verdict(NOTHING | {(ALONE, "shared"): alone}).split("Interference:")[1]


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

    monkeypatch.setattr(multitask, "_call", call)
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
        (["smoke", "actors.envs=1", "actors.count=2"], "5 levels but only"),
        (["smoke", "run.mirror=file:///x"], "run.mirror"),
        (["smoke", "actors.count=null", "actors.per_level=1", "actors.min=4"], "actors.min=4"),
    ],
)
def test_what_cannot_be_compared_is_refused_first(tmp_path, args, says):
    refused(impala("reproduce", "multitask", *args, cwd=tmp_path), says)
    assert list(tmp_path.iterdir()) == []
