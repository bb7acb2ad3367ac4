"""Parts of a batch, each learnt from in a thread of its own: together they are one learner."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from impala_mi.bench.parts import random_unrolls
from impala_mi.config import build
from impala_mi.learner.batching import stack
from impala_mi.learner.data_parallel import MIN_SHARD, make_shard_pool, split
from impala_mi.learner.update import Learner
from impala_mi.nn.agent import CORES
from impala_mi.nn.heads import HEADS
from impala_mi.types import FinalObservations, Spaces, leaves, map_arrays

CPU = torch.device("cpu")
T, B = 6, 3 * MIN_SHARD + 1
SPACES = Spaces((36, 36, 3), "uint8", 4, 3, instructions=True)


def config_of(*changed):
    return build("x", {}, [
        "agent.core_width=12", "agent.context_width=6", "learner.optimizer=rmsprop", "learner.learning_rate=0.001",
        "learner.precision=float32", f"learner.unroll_length={T}", f"learner.batch_size={B}", f"actors.envs={B}",
        *changed,
    ])  # fmt: skip


def a_batch(config, seed):
    """With episode starts, a level and a word that one part alone has, and cut-offs in two of three parts."""
    rng, data = np.random.default_rng(seed), random_unrolls(SPACES, config, T, B)
    data.inputs.first[:] = rng.random(data.inputs.first.shape) < 0.1
    data.inputs.level[:] = rng.integers(0, 2, B)
    data.inputs.level[:, -1] = 2
    data.inputs.tokens[:, 0] = -1
    data.reward[:] = rng.normal(size=data.reward.shape)
    data.terminated[:] = rng.random(data.terminated.shape) < 0.1
    for part in leaves(data.state)[:1]:
        part[:] = rng.normal(size=part.shape)
    time, column = np.array([(2, 0), (T - 1, 1), (2, B - 1)]).T
    data.truncated[time, column], data.inputs.first[time + 1, column] = True, True
    frame = rng.integers(0, 256, (3, *SPACES.frame_shape)).astype(np.uint8)
    return stack(
        [data._replace(final_observations=FinalObservations(time, column, frame, data.inputs.tokens[time, column]))]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threads", "changed"),
    [
        *((3, [f"agent.head={head}"]) for head in HEADS),
        *((3, [f"agent.core={core}"]) for core in CORES if core != "lstm"),
        (3, ["agent.torso=mlp"]),
        (3, ["agent.torso=deep"]),
        (2, ["learner.loss_reduction=mean", "learner.max_grad_norm=0.5"]),
        (8, ["agent.head=mi_context"]),
        (3, ["agent.head=mi_task", "agent.value_normaliser=popart"]),
    ],
    ids=str,
)
def test_parts_are_one_learner_with_the_whole_batch(threads, changed):
    config = config_of(*changed)
    whole, parts = (Learner(config, SPACES, 4, CPU, threads=n) for n in (1, threads))
    begin = whole.weights()
    for seed in range(2):
        if "agent.torso=deep" in changed:  # whose ReLUs and max pooling turn rounding into other gradients
            parts.load_state(whole.state())
        batch = a_batch(config, seed)
        one, other = whole.update(batch), parts.update(batch)
        for key in ("loss/total", "loss/policy", "loss/value", "loss/entropy", "learner/grad_norm",
                    "learner/rho_mean"):  # fmt: skip
            assert other[key] == pytest.approx(one[key], rel=1e-3, abs=1e-5), (seed, key)
    expected, found = whole.weights(), parts.weights()
    moved = max(np.abs(expected[k] - begin[k]).max() for k in expected)
    for k, w in found.items():
        assert np.abs(w - expected[k]).max() < 1e-3 * moved, k
    assert parts.counters == whole.counters


@pytest.mark.slow
def test_parts_give_the_same_bits_every_time():
    config = config_of("agent.head=mi_context", "learner.precision=bfloat16")
    weights = []
    for _ in range(2):
        learner = Learner(config, SPACES, 4, CPU, threads=3)
        for seed in range(3):
            learner.update(a_batch(config, seed))
        weights.append(learner.weights())
    assert all(np.array_equal(w, weights[1][k]) for k, w in weights[0].items())


def test_a_part_that_is_not_finite_skips_the_update():
    config = config_of()
    learner, batch = Learner(config, SPACES, 4, CPU, threads=2), a_batch(config, 0)
    before = learner.weights()
    batch.reward[0, -1] = float("nan")
    learner.update(batch)
    assert (learner.counters.updates, learner.counters.version, learner.counters.skipped) == (1, 0, 1)
    assert all(np.array_equal(w, before[k]) for k, w in learner.weights().items())


def test_what_a_part_raises_is_raised_and_the_next_batch_is_learnt_from():
    config = config_of("agent.head=per_task")
    learner, batch = Learner(config, SPACES, 4, CPU, threads=2), a_batch(config, 0)
    batch.inputs.level[0, -1] = SPACES.num_levels
    with pytest.raises(RuntimeError, match="out of bounds"):
        learner.update(batch)
    learner.update(a_batch(config, 1))
    assert learner.counters.version == 1


@pytest.mark.slow
@given(width=st.integers(1, 40), parts=st.integers(1, 40))
def test_parts_hold_each_column_once_and_are_even(width, parts):
    config = config_of(f"learner.batch_size={width}", f"actors.envs={width}")
    data = random_unrolls(Spaces((2,), "float32", 4, 3, instructions=True), config, 2, width)
    where = np.arange(width)[::2]
    final_observations = FinalObservations(
        where % 2, where, data.inputs.frame[0, where], data.inputs.tokens[0, where]
    )
    batch = stack([data._replace(final_observations=final_observations)])
    found = split(batch, min(parts, width))
    widths = [part.action.shape[1] for part in found]
    assert sum(widths) == width
    assert max(widths) - min(widths) <= 1
    again = stack([map_arrays(part, torch.Tensor.numpy) for part in found])
    pairs = []
    map_arrays(batch, pairs.append)
    map_arrays(again, pairs.append)
    half = len(pairs) // 2
    assert all(torch.equal(a, b) for a, b in zip(pairs[:half], pairs[half:], strict=True))


def test_a_team_is_for_several_threads_and_wide_batches():
    for width, threads in itertools.product((1, MIN_SHARD, 2 * MIN_SHARD - 1), (1, 8)):
        assert make_shard_pool(width, threads) is None
    assert make_shard_pool(64, 1) is None
    team = make_shard_pool(2 * MIN_SHARD, 8)
    config = config_of(f"learner.batch_size={2 * MIN_SHARD}", f"actors.envs={2 * MIN_SHARD}")
    batch = stack([random_unrolls(SPACES, config, T, 2 * MIN_SHARD)])
    assert team.map(lambda part: (part.action.shape[1], torch.get_num_threads()), batch) == [(MIN_SHARD, 4)] * 2
