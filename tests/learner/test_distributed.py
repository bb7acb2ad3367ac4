"""Ranks in processes of their own, over gloo: together they are one learner."""

import functools
import multiprocessing
import sys
import time
import traceback
from datetime import timedelta

import numpy as np
import pytest
import torch

from impala_mi.bench.parts import random_unrolls
from impala_mi.config import build
from impala_mi.learner.batching import stack
from impala_mi.learner.distributed import join, listen
from impala_mi.learner.update import Learner
from impala_mi.nn.heads import HEADS
from impala_mi.types import FinalObservations, Spaces, map_arrays

CPU = torch.device("cpu")
UPDATES, T, B = 10, 6, 8
GROUPS = (2, 4)
SPACES = Spaces((5,), "float32", 4, 3, instructions=True)

CONFIGS = [
    *((f"agent.head={head}",) for head in HEADS),
    ("agent.head=mi_task", "learner.loss_reduction=mean", "learner.max_grad_norm=0.5"),
    ("agent.head=mi_context", "learner.optimizer=rmsprop", "learner.rmsprop_momentum=0.5", "learner.epsilon=0.01"),
    ("agent.head=mi_task", "agent.value_normaliser=popart"),
    ("agent.head=shared", "agent.torso_conditioning=task"),
    ("agent.head=shared", "agent.value_normaliser=popart", "learner.loss_reduction=mean"),
]


def config_of(changed):
    return build("x", {}, [
        "agent.torso=mlp", "agent.core_width=12", "agent.context_width=6", "learner.optimizer=adam",
        "learner.epsilon=1e-3", "learner.learning_rate=0.003", "learner.learning_rate_schedule=linear",
        "train.env_frames=5000", f"learner.unroll_length={T}", f"learner.batch_size={B}", "actors.envs=2", *changed,
    ])  # fmt: skip


@functools.cache
def noise():
    """An unroll of two columns; its recurrent state is the same for all configurations."""
    return random_unrolls(SPACES, config_of(()), T, 2)


def unrolls_of(update):
    """Four rollouts of two columns each, with episode starts, levels that not every rank has, and cut-offs."""
    rng = np.random.default_rng(update)
    out = []
    for i in range(4):
        data = map_arrays(noise(), np.copy)
        data.inputs.frame[:] = rng.normal(size=data.inputs.frame.shape)
        data.inputs.first[:] = rng.random(data.inputs.first.shape) < 0.3
        data.inputs.level[:] = i % 3
        data.inputs.tokens[:] = rng.integers(0, 50, data.inputs.tokens.shape) if i % 2 else -1
        data.reward[:] = rng.normal(size=data.reward.shape)
        data.terminated[:] = rng.random(data.terminated.shape) < 0.1
        data.state.hidden[:] = rng.normal(size=data.state.hidden.shape)
        where = [(2, 1)] if (i + update) % 3 == 0 else []
        times, columns = (np.array([w[k] for w in where], np.int64) for k in (0, 1))
        data.truncated[times, columns] = True
        data.inputs.first[times + 1, columns] = True
        frames = rng.normal(size=(len(where), 5)).astype(np.float32)
        final_observations = FinalObservations(times, columns, frames, data.inputs.tokens[times, columns])
        out.append(data._replace(final_observations=final_observations))
    return out


def learn(config, ranks=1, rank=0):
    learner, metrics = Learner(config, SPACES, 4, CPU, ranks), []
    for update in range(UPDATES):
        unrolls = unrolls_of(update)
        if ranks > 1:
            time.sleep(0.01 * ((update * 7 + rank * 3) % 4))  # they do not come at the same time
        metrics.append(learner.update(stack(unrolls[rank::ranks])))
    return learner, metrics


def one_rank(rank, ranks, port, listener, answers):
    try:
        torch.set_num_threads(1)
        join(rank, ranks, "127.0.0.1", port, "127.0.0.1", listener, CPU, timedelta(minutes=2))
        for changed in CONFIGS:
            learner, metrics = learn(config_of(changed), ranks, rank)
            answers.put((ranks, rank, changed, learner.weights(), metrics, learner.counters))
        answers.put((ranks, rank, *poisoned(ranks, rank)))
    except BaseException:
        answers.put((ranks, rank, traceback.format_exc(), None, None, None))
        raise


def poisoned(ranks, rank):
    """One rank sees a reward that is not a number: all leave that update out."""
    config = config_of([])
    learner = Learner(config, SPACES, 4, CPU, ranks)
    before = learner.weights()
    unrolls = unrolls_of(0)
    if rank == 1:
        unrolls[rank].reward[0, 0] = np.nan
    learner.update(stack(unrolls[rank::ranks]))
    same = all(np.array_equal(before[k], w) for k, w in learner.weights().items())
    return "poisoned", same, None, learner.counters


def host(answers):
    """Fork the ranks of one group after the other, so that PyTorch is imported only once."""
    fork = multiprocessing.get_context("fork")
    for ranks in GROUPS:
        listener, port = listen("127.0.0.1")
        processes = [
            fork.Process(target=one_rank, args=(rank, ranks, port, None if rank else listener, answers))
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        listener.close()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            sys.exit(f"{ranks} ranks ended with {[process.exitcode for process in processes]}")


@pytest.fixture(scope="module")
def answered():
    """What each rank answers, by the size of its group, configuration and rank."""
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    process = spawn.Process(target=host, args=(answers,))
    process.start()
    found = {}
    try:
        for _ in range(sum(GROUPS) * (len(CONFIGS) + 1)):
            ranks, rank, changed, *rest = answers.get(timeout=120)
            assert rest[0] is not None, changed
            found[ranks, str(changed), rank] = rest
        process.join(timeout=30)
        assert process.exitcode == 0
    finally:
        process.kill()
    return found


@functools.cache
def alone(changed):
    """Learner of the whole batch, its metrics, and the weights that it began with."""
    config = config_of(changed)
    return *learn(config), Learner(config, SPACES, 4, CPU).weights()


@pytest.mark.slow
@pytest.mark.parametrize("ranks", GROUPS)
def test_ranks_are_one_learner_with_the_whole_batch(ranks, answered):
    for changed in CONFIGS:
        learner, metrics, start = alone(changed)
        expected = learner.weights()
        moved = max(np.abs(expected[k] - start[k]).max() for k in expected)
        for rank in range(ranks):
            weights, theirs, counters = answered[ranks, str(changed), rank]
            for k, w in weights.items():
                assert np.abs(w - expected[k]).max() < 1e-3 * moved, (changed, rank, k)
                assert np.array_equal(w, answered[ranks, str(changed), 0][0][k]), "ranks differ"
            assert counters == learner.counters
            for one, other in zip(metrics, theirs, strict=True):
                for key in ("loss/total", "loss/policy", "loss/value", "loss/entropy", "learner/grad_norm",
                            "learner/rho_mean", "learner/learning_rate"):  # fmt: skip
                    assert other[key] == pytest.approx(one[key], rel=2e-3, abs=1e-4), (changed, key)
    for rank in range(ranks):
        same, _, counters = answered[ranks, "poisoned", rank]
        assert same
        assert (counters.updates, counters.version, counters.skipped) == (1, 0, 1)


def test_the_store_listens_on_the_address_that_it_was_given():
    listener, port = listen("127.0.0.1")
    assert listener.getsockname() == ("127.0.0.1", port)
    listener.close()
