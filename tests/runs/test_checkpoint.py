import json
import pickle

import pytest
import torch

from impala_mi.errors import UserError
from impala_mi.nn.agent import Agent
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs.checkpoint import STATE


def save(folder, frames, score=None, keep=2, weight=None):
    learner = {"agent": {"w": torch.full((2,), float(frames if weight is None else weight))}, "counters": {"a": 1}}
    meta = {"env_frames": frames, "updates": 1, "score": score}
    return checkpoints.save(folder, learner, {"scores": [1.5]}, meta, keep)


def names(folder):
    return [int(p.name) for p in checkpoints.steps(folder)]


def test_last_and_best_are_kept(tmp_path):
    for frames, score in [(1, 5.0), (2, 9.0), (3, 8.0), (4, None), (5, 7.0)]:
        save(tmp_path, frames, score)
    assert names(tmp_path) == [2, 4, 5]
    assert checkpoints.load(tmp_path).meta["env_frames"] == 5
    best = checkpoints.load(tmp_path, "best")
    assert best.meta["env_frames"] == 2
    assert best.agent["w"].tolist() == [2, 2]
    assert checkpoints.load(tmp_path, f"{4:015d}").run == {"scores": [1.5]}


def test_the_same_step_is_replaced_and_litter_removed(tmp_path):
    (tmp_path / ".000000000000001.999").mkdir(parents=True)
    save(tmp_path, 1, weight=1)
    save(tmp_path, 1, weight=2)
    assert checkpoints.load(tmp_path).agent["w"].tolist() == [2, 2]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_truncated_last_gives_way_to_the_one_before(tmp_path):
    save(tmp_path, 1)
    last = save(tmp_path, 2) / STATE
    last.write_bytes(last.read_bytes()[:-50])
    with pytest.warns(UserWarning, match=r"0002' is damaged .* going on with 0+1"):
        assert checkpoints.load(tmp_path).meta["env_frames"] == 1
    with pytest.raises(UserError, match="is damaged"):
        checkpoints.load(tmp_path, f"{2:015d}")
    (tmp_path / f"{1:015d}" / STATE).write_bytes(b"")
    with pytest.raises(UserError, match="0002' is damaged"):
        checkpoints.load(tmp_path)


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_pickles_are_never_run(tmp_path, capsys):
    path = save(tmp_path, 1)
    torch.save({"learner": {"agent": Evil()}, "run": {}}, path / STATE)
    with pytest.raises(UserError, match="damaged"):
        checkpoints.load(tmp_path)
    (path / STATE).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="damaged"):
        checkpoints.load(tmp_path)
    assert "executed" not in capsys.readouterr().out


def test_missing(tmp_path):
    with pytest.raises(UserError, match="no checkpoint in"):
        checkpoints.load(tmp_path)
    save(tmp_path, 1)
    with pytest.raises(UserError, match="no best checkpoint"):
        checkpoints.load(tmp_path, "best")
    with pytest.raises(UserError, match=r"no checkpoint '\.\./"):
        checkpoints.load(tmp_path, f"../{tmp_path.name}/{checkpoints.steps(tmp_path)[-1].name}")
    with pytest.raises(UserError, match=r"no checkpoint '7'; there are last, best, 0+1"):
        checkpoints.load(tmp_path, "7")


def test_other_format(tmp_path):
    path = save(tmp_path, 1)
    (path / "meta.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        checkpoints.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"head": "shared"}, "is missing|in excess"), ({"core_width": 16}, "the configuration needs")],
)
def test_another_architecture(tmp_path, config, suite, change, says):
    agent = Agent(config.agent, suite.spaces)
    meta = {"env_frames": 1, "updates": 1, "score": None}
    checkpoints.save(tmp_path, {"agent": agent.state_dict()}, {}, meta, 1)
    found = checkpoints.load(tmp_path)
    checkpoints.check_fits(found, agent)
    with pytest.raises(UserError, match=says):
        checkpoints.check_fits(found, Agent(config.agent.model_copy(update=change), suite.spaces))


def test_an_intact_checkpoint_of_another_architecture_ends_the_search(tmp_path, config, suite, monkeypatch):
    agent = Agent(config.agent, suite.spaces)
    for frames in (1, 2, 3):
        meta = {"env_frames": frames, "updates": 1, "score": None}
        checkpoints.save(tmp_path, {"agent": agent.state_dict()}, {}, meta, 3)
    other = Agent(config.agent.model_copy(update={"core_width": 16}), suite.spaces)
    tried = []

    def check(read):
        tried.append(read.meta["env_frames"])
        checkpoints.check_fits(read, other)

    with pytest.raises(UserError, match=f"{3:015d}' is of another architecture"):
        checkpoints.load(tmp_path, check=check)
    assert tried == [3]


class Masked(torch.nn.Module):
    """Layer of a user with a mask that is added to logits, and is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))


def test_buffers_may_be_infinite_and_parameters_not(tmp_path):
    module, meta = Masked(), {"env_frames": 1, "updates": 1, "score": None}
    checkpoints.save(tmp_path, {"agent": module.state_dict()}, {}, meta, 1)
    found = checkpoints.load(tmp_path, check=lambda read: checkpoints.check_fits(read, module))
    assert found.agent["mask"].tolist() == [0, -torch.inf]
    module.weight.data[0] = torch.nan
    checkpoints.save(tmp_path, {"agent": module.state_dict()}, {}, meta, 1)
    with pytest.raises(UserError, match=r"damaged \(weights\.weight is not finite"):
        checkpoints.load(tmp_path, check=lambda read: checkpoints.check_fits(read, module))


def test_going_on_from_an_older_one_keeps_what_it_saves(tmp_path):
    for frames, score in [(100, 9.0), (200, 5.0), (300, 5.0)]:
        save(tmp_path, frames, score)
    best = checkpoints.load(tmp_path, "best")
    assert len(checkpoints.forget_after(tmp_path, best)) == 2
    saved = save(tmp_path, 150, 1.0, keep=1)
    assert saved.is_dir()
    assert checkpoints.load(tmp_path).meta["env_frames"] == 150
    assert names(tmp_path) == [100, 150]
    assert len(list(tmp_path.glob("abandoned-*/state.pt"))) == 2  # nothing is lost


def test_the_one_just_saved_is_never_removed(tmp_path):
    save(tmp_path, 300)
    saved = save(tmp_path, 150, keep=1)
    assert saved.is_dir()


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    for frames in (1, 2):
        with pytest.raises(OSError, match="could not be written"):
            save(tmp_path, frames)
    assert names(tmp_path) == [1]
    assert checkpoints.load(tmp_path).agent["w"].tolist() == [1, 1]
    assert not list(tmp_path.glob(".0*"))
