"""Batches on the way to the device: buffers are used again, and never while somebody reads them."""

import numpy as np
import pytest
import torch

from impala_mi.bench.parts import random_unrolls
from impala_mi.config import build
from impala_mi.learner.batching import stack
from impala_mi.learner.transfer import HostCopy, Stager
from impala_mi.types import FinalObservations, Spaces, Transitions

CPU = torch.device("cpu")
SPACES = Spaces((6, 7, 3), "uint8", 4, 3, instructions=True)


def unrolls(count, final_observations=(), seed=0):
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        data = random_unrolls(SPACES, build("x", {}, []), 5, 2)
        data.inputs.frame[:] = rng.integers(0, 256, data.inputs.frame.shape)
        number = len(final_observations)
        cut = FinalObservations(np.array(final_observations, np.int64), np.ones(number, np.int64),
                     rng.integers(0, 256, (number, 6, 7, 3), dtype=np.uint8),
                     np.zeros((number, data.inputs.tokens.shape[-1]), np.int32))  # fmt: skip
        out.append(data._replace(final_observations=cut))
    return out


def tensors(batch):
    for field in batch:
        if isinstance(field, tuple):
            yield from tensors(field)
        else:
            yield field


def same(a: Transitions, b: Transitions) -> bool:
    return all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(tensors(a), tensors(b), strict=True))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("part", [1, 100, 2**22])
def test_staging_is_stacking(threads, part, monkeypatch):
    monkeypatch.setattr("impala_mi.learner.transfer._PART_BYTES", part)
    stager = Stager(CPU, threads)
    for seed, final_observations in enumerate([(), (3,), (1, 4), ()]):
        data = unrolls(3, final_observations, seed)
        assert same(stager.stage(data).take(), stack(data))


def test_a_hand_in_that_is_a_batch_is_not_copied_on_a_cpu(recwarn):
    [data] = unrolls(1, (3,))
    for array in tensors(data):
        array.setflags(write=False)  # as in Ray's object store
    batch = Stager(CPU, 1).stage([data]).take()
    assert same(batch, stack([data]))
    assert np.shares_memory(batch.inputs.frame.numpy(), data.inputs.frame)
    assert not recwarn.list


def test_columns_of_final_observations_count_on_from_unroll_to_unroll():
    batch = Stager(CPU, 1).stage(unrolls(3, (2,))).take()
    assert batch.final_observations.column.tolist() == [1, 3, 5]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_two_sets_of_buffers_take_turns(device):
    stager = Stager(torch.device(device), 1)
    batches = [stager.stage(unrolls(2, seed=seed)).take() for seed in range(2)]
    assert torch.equal(batches[0].inputs.first, stack(unrolls(2, seed=0)).inputs.first), "it is as it was"
    following = stager.stage(unrolls(2, seed=2)).take()
    here = [batch.inputs.first.data_ptr() for batch in (*batches, following)]
    assert here[0] != here[1]
    assert here[2] == here[0]


def test_unrolls_of_another_shape_get_buffers_of_theirs():
    stager = Stager(CPU, 1)
    for count in (2, 2, 3, 1, 2):
        data = unrolls(count, (1,) * count)
        assert same(stager.stage(data).take(), stack(data))


def test_what_decides_the_work_stays_with_the_host():
    batch = Stager(torch.device("meta"), 1).stage(unrolls(2, (3,))).take()
    here = {
        batch.inputs.tokens,
        batch.inputs.first,
        batch.final_observations.time,
        batch.final_observations.column,
        batch.final_observations.tokens,
    }
    assert all(tensor.is_meta == (tensor not in here) for tensor in tensors(batch))


def test_a_copy_for_the_host_is_not_the_tensor():
    weight = torch.arange(3.0, requires_grad=True)
    copy = HostCopy({"weight": weight})
    with torch.no_grad():
        weight += 1
    assert copy.wait()["weight"].tolist() == [0, 1, 2]
    assert not copy.wait()["weight"].requires_grad
