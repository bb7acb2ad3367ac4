import contextlib
import dataclasses

import numpy as np
import pytest
import torch

from impala_mi.bench.parts import random_unrolls
from impala_mi.config import build
from impala_mi.envs.suites import make_suite
from impala_mi.errors import TrainingError
from impala_mi.learner.batching import stack, to_device
from impala_mi.learner.update import Learner, final_values, next_values
from impala_mi.nn.agent import CORES
from impala_mi.nn.heads import HEADS
from impala_mi.nn.value_normaliser import NORMALISERS
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.types import AgentInput, FinalObservations, Spaces, map_arrays
from tests.tiny import started, tiny_config

CPU = torch.device("cpu")


def setup(*overrides):
    config = tiny_config(*overrides)
    suite = make_suite(config.env)
    learner = Learner(config, suite.spaces, suite.action_repeat, CPU)
    rollout = started(config, suite, 0, [0])
    rollout.load(learner.weights(), 0)
    return learner, rollout


@pytest.mark.parametrize(
    ("head", "core", "conditioning"),
    [
        *((head, "lstm", "none") for head in HEADS),
        *(("mi_context", core, "none") for core in CORES if core != "lstm"),
        *(("shared", "lstm", conditioning) for conditioning in ("task", "instruction")),
    ],
)
def test_an_update_moves_every_trained_parameter(head, core, conditioning):
    learner, rollout = setup(f"agent.head={head}", f"agent.core={core}", "learner.entropy_cost=0.1",
                             f"agent.torso_conditioning={conditioning}")  # fmt: skip
    before = {k: v.clone() for k, v in learner.agent.named_parameters()}
    for _ in range(3):
        learner.update(stack([rollout.collect().data]))
    rollout.close()
    still = [k for k, v in learner.agent.named_parameters() if torch.equal(v, before[k]) and v.requires_grad]
    assert still == []
    if core == "lstm":
        assert learner.agent.core.lstm.bias_hh_l0.abs().sum() == 0  # the second bias stays frozen
    assert (learner.counters.updates, learner.counters.version) == (3, 3)
    assert learner.counters.agent_steps == learner.counters.env_frames == 3 * 7 * 5


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("torso", ["mlp", "shallow", "deep"])
def test_an_update_does_not_write_to_its_batch(torso, threads):
    """It may lie in Ray's object store, where writing is a fault."""
    config = tiny_config(f"agent.torso={torso}", "learner.precision=bfloat16")
    spaces = Spaces((24, 24, 3), "uint8", 4, 3, instructions=True)
    batch = stack([random_unrolls(spaces, config, 5, 4)])
    kept = map_arrays(batch, torch.clone)
    learner = Learner(config, spaces, 1, CPU, threads=threads)
    for _ in range(2):
        learner.update(batch)
    pairs: list[torch.Tensor] = []
    for one in (kept, batch):
        map_arrays(one, pairs.append)
    half = len(pairs) // 2
    assert all(map(torch.equal, pairs[:half], pairs[half:]))


def test_frames_count_the_action_repeat():
    config = tiny_config()
    suite = make_suite(config.env)
    learner = Learner(config, suite.spaces, 4, CPU)
    rollout = started(config, suite, 0, [0])
    learner.update(stack([rollout.collect().data]))
    rollout.close()
    assert learner.counters.env_frames == 4 * learner.counters.agent_steps


@pytest.mark.parametrize("core", CORES)
def test_value_of_a_final_observation_is_one_more_step_of_its_own_episode(core):
    learner, rollout = setup("env.suite=tests.games:counting", "env.levels=[truncates,terminates]", "actors.envs=2",
                             "learner.batch_size=2", "learner.unroll_length=8", f"agent.core={core}")  # fmt: skip
    rollout.collect()
    data = rollout.collect().data
    rollout.close()
    assert data.truncated[-1].any(), "the edge: truncated at the last step of the unroll"
    batch = stack([data])
    out = learner.agent(batch.inputs, batch.state)
    got = final_values(learner.agent, out, batch, batch.final_observations.time, batch.final_observations.column)
    assert len(got) == 2
    following = next_values(learner.agent, out, batch)
    assert torch.equal(following[batch.final_observations.time, batch.final_observations.column], got)
    others = ~batch.truncated
    assert torch.equal(following[others], out.value[1:][others])
    for i, (t, b) in enumerate(
        zip(batch.final_observations.time.tolist(), batch.final_observations.column.tolist(), strict=True)
    ):
        # By hand: the column alone, up to t, then the final observation in the place of x_{t+1}.
        x = AgentInput(*(a[: t + 2, b : b + 1].clone() for a in batch.inputs))
        x.frame[t + 1, 0], x.tokens[t + 1, 0] = (
            batch.final_observations.frame[i],
            batch.final_observations.tokens[i],
        )
        x.first[t + 1], x.last_action[t + 1] = False, batch.action[t, b]
        x.last_reward[t + 1] = batch.reward[t, b]
        state = map_arrays(batch.state, lambda part, b=b: part[b : b + 1])
        torch.testing.assert_close(learner.agent(x, state).value[t + 1, 0], got[i])


@pytest.mark.slow
def test_the_deterministic_mode_repeats_with_threads():
    """The gather of task contexts adds up its gradient in an order that threads change, unless told not to."""
    torch.set_num_threads(2)
    try:
        learner, rollout = setup("agent.head=mi_task", "agent.context_width=64", "learner.unroll_length=600",
                                 "train.deterministic=true", "train.checkpoint_every_updates=1")  # fmt: skip
        rollout.close()
        batch = stack([random_unrolls(make_suite(learner.config.env).spaces, learner.config, 600, 5)])
        saved, norms = learner.state(), set()
        for _ in range(6):
            learner.load_state(saved)
            norms.add(learner.update(batch)["learner/grad_norm"])
        assert len(norms) == 1
    finally:
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("poison", ["nan", "overflow"])
def test_an_update_that_is_not_finite_is_skipped_and_too_many_stop_the_run(poison, normaliser):
    learner, rollout = setup("learner.max_bad_updates=3", "learner.reward_clipping=none",
                             f"agent.value_normaliser={normaliser}")  # fmt: skip
    good = stack([rollout.collect().data])
    rollout.close()
    learner.update(good)
    if poison == "nan":
        bad = good._replace(reward=torch.full_like(good.reward, float("nan")))
    else:  # the loss overflows
        bad = good._replace(reward=torch.full_like(good.reward, 3e38))
    before = {k: v.clone() for k, v in learner.agent.state_dict().items()}
    kept = learner.optimizer.state_dict()
    for i in range(2):
        metrics = learner.update(bad)
        assert metrics["learner/skipped_updates"] == i + 1
    assert all(torch.equal(v, before[k]) for k, v in learner.agent.state_dict().items())
    now = learner.optimizer.state_dict()
    assert now["steps"] == kept["steps"]
    assert all(torch.equal(a, b) for a, b in zip(kept["slots"]["square"], now["slots"]["square"], strict=True))
    learner.update(good)  # a good one in between: the count starts again
    assert (learner.counters.version, learner.counters.updates, learner.counters.skipped) == (2, 4, 2)
    for _ in range(2):
        learner.update(bad)
    with pytest.raises(TrainingError, match="3 updates in a row"):
        learner.update(bad)


def test_gradients_are_clipped_to_the_norm():
    learner, rollout = setup("learner.optimizer=rmsprop", "learner.epsilon=1e9", "learner.max_grad_norm=0.5",
                             "learner.learning_rate=1.0", "learner.learning_rate_schedule=constant")  # fmt: skip
    before = torch.cat([p.detach().flatten().clone() for p in learner.agent.parameters()])
    metrics = learner.update(stack([rollout.collect().data]))
    rollout.close()
    after = torch.cat([p.detach().flatten() for p in learner.agent.parameters()])
    assert metrics["learner/grad_norm"] > 0.5
    # with epsilon in charge of the root, the step is the gradient over sqrt(1e9)
    assert (after - before).norm().item() * 1e9**0.5 == pytest.approx(0.5, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("changed", [*(f"agent.core={core}" for core in CORES), "agent.value_normaliser=popart"])
def test_state_restores_bit_for_bit(changed):
    learner, rollout = setup(changed)
    batches = [stack([rollout.collect().data]) for _ in range(4)]
    rollout.close()
    for b in batches[:2]:
        learner.update(b)
    saved = learner.state()
    other, unused = setup("seed=2", changed)
    unused.close()
    other.load_state(saved)
    for b in batches[2:]:
        assert learner.update(b) | dict.fromkeys(("time/forward_s", "time/backward_s", "time/optimizer_s"), 0) == (
            other.update(b) | dict.fromkeys(("time/forward_s", "time/backward_s", "time/optimizer_s"), 0)
        )
    first, second = learner.agent.state_dict(), other.agent.state_dict()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    changes = [name for name, tensor in saved["agent"].items() if not torch.equal(tensor, first[name])]
    assert ("normaliser.mean" in changes) == ("popart" in changed)


def test_resumed_hyperparameters_are_the_configurations():
    learner, rollout = setup("learner.epsilon=1e-6")
    learner.update(stack([rollout.collect().data]))
    rollout.close()
    other, unused = setup("learner.epsilon=1e-3")
    unused.close()
    other.load_state(learner.state())
    assert other.optimizer.rule.eps == 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("torso", "core", "head", "normaliser"),
    [
        *(("shallow", core, "per_task", "none") for core in ("mlstm", "highway")),
        *(("deep", "lstm", head, "none") for head in ("shared", "mi_task", "concat")),
        *(("shallow", "lstm", head, name) for head in HEADS for name in NORMALISERS if name != "none"),
        *(("shallow agent.torso_conditioning=" + by, "lstm", "shared", "none") for by in ("task", "instruction")),
    ],
)
@pytest.mark.parametrize("pad_to_buckets", [False, True])
def test_an_update_reads_nothing_back_from_its_device(pad_to_buckets, torso, core, head, normaliser, monkeypatch):
    """Tensors of the device `meta` have no numbers: whatever would wait for a GPU raises there.

    test_devices.py has each torso, core and head.
    """
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # there is none for it
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    changed = [*f"agent.torso={torso}".split(), f"agent.core={core}", f"agent.head={head}", "learner.batch_size=4",
               "actors.envs=4", "learner.unroll_length=6", "learner.optimizer=adam", "learner.max_grad_norm=1.0",
               "learner.precision=float32", "agent.instruction_tokens=4",
               f"agent.value_normaliser={normaliser}"]  # fmt: skip
    config = build("test", {}, changed)
    spaces = Spaces((24, 28, 3), "uint8", 4, 3, instructions=True)
    data = random_unrolls(spaces, config, 6, 4)
    data.inputs.first[[0, 3, 3], [1, 2, 3]] = True
    final_observations = FinalObservations(
        np.array([2]), np.array([2]), data.inputs.frame[3, 2:3], data.inputs.tokens[3, 2:3]
    )
    data.truncated[2, 2] = True
    device = torch.device("meta")
    batch = to_device(stack([data._replace(final_observations=final_observations)]), device, pad_to_buckets)
    learner = Learner(config, spaces, 4, device)
    learner.agent.core.fixed_work = pad_to_buckets
    pending = learner.begin(batch)
    assert pending.stats.values.is_meta
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        pending.stats.values.tolist()


def test_weights_are_copies():
    learner, rollout = setup()
    weights = learner.weights()
    kept = {k: v.copy() for k, v in weights.items()}
    learner.update(stack([rollout.collect().data]))
    rollout.close()
    assert all(np.array_equal(kept[k], weights[k]) for k in kept)


@pytest.mark.slow
@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_a_learner_that_adopts_another_goes_on_as_that_one_would_with_the_new_settings(normaliser):
    schedule = ("learner.learning_rate_schedule=linear", "train.env_frames=10_000",
                f"agent.value_normaliser={normaliser}")  # fmt: skip
    donor, rollout = setup("seed=1", "learner.max_grad_norm=null", *schedule)
    member, _ = setup("seed=2", *schedule)
    batches = [stack([rollout.collect().data]) for _ in range(6)]
    rollout.close()
    for batch in batches[:4]:
        donor.update(batch)
    member.update(batches[4])
    mine, theirs = member.counters, donor.counters
    ahead = theirs.agent_steps - mine.agent_steps
    assert ahead > 0
    given = donor.state()
    settings = member.config.learner.model_copy(
        update={"learning_rate": 0.02, "entropy_cost": 0.5, "epsilon": 0.3, "discount": 0.5, "max_grad_norm": 1.0}
    )
    member.set_hyperparameters(settings)
    member.load_state(given | {"counters": dataclasses.asdict(mine) | {"schedule_ahead": ahead}})
    donor.set_hyperparameters(settings)
    assert checkpoints.digest(member.state()) == checkpoints.digest(given)
    rates = [one.update(batches[5])["learner/learning_rate"] for one in (donor, member)]
    assert rates[0] == rates[1] == pytest.approx(0.02 * (1 - 4 * 35 / 10_000))
    assert checkpoints.digest(member.state()) == checkpoints.digest(donor.state()) != checkpoints.digest(given)
    assert member.counters.updates == 2  # its own count goes on


def test_a_digest_tells_one_number_from_another():
    learner, rollout = setup()
    rollout.close()
    state = learner.state()
    before = checkpoints.digest(state)
    slot = next(iter(state["optimizer"]["slots"].values()))[0]
    slot.view(-1)[0] += 1
    assert checkpoints.digest(state) != before
