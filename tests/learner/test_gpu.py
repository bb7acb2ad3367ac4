"""What only a GPU shows; skipped elsewhere."""

import pytest
import torch

from impala_mi.learner.batching import to_device
from impala_mi.learner.cuda_graphs import WARM_UP
from impala_mi.learner.update import Learner
from impala_mi.nn.agent import CORES
from impala_mi.nn.core import lstm_cell
from impala_mi.nn.mlstm import MultiplicativeLSTMCore
from impala_mi.types import LSTMState
from tests.learner.test_cuda_graphs import SPACES, a_batch, config_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def learner_on_gpu(*changed):
    return Learner(config_of("learner.num_gpus=1", *changed), SPACES, 1, torch.device("cuda"))


def updates(learner, count):
    for seed in range(count):
        batch = a_batch(learner.config, seed, ((2, 1), (5, 3)) if seed % 2 else ())
        yield learner.update(to_device(batch, learner.device, learner.pad_to_buckets))


def test_the_fused_cell_is_the_cell():
    given = [torch.randn(5, 32), torch.randn(5, 32), torch.randn(5, 8)]
    results = []
    for device in ("cpu", "cuda"):
        here = [t.to(device).requires_grad_() for t in given]
        state = lstm_cell(*here)
        (state.hidden.square().sum() + state.cell.sum()).backward()
        results.append([t.detach().cpu() for t in (*state, *(t.grad for t in here))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_the_fused_multiplicative_lstm_is_the_one_of_a_cpu():
    core, x, first = MultiplicativeLSTMCore(6, 8), torch.randn(5, 3, 6), torch.rand(5, 3) < 0.3
    results = []
    for device in ("cpu", "cuda"):
        core.to(device).zero_grad()
        out = core(x.to(device), first, LSTMState(*torch.ones(2, 3, 8, device=device)))
        (out.output.square().sum() + out.state.cell.sum()).backward()
        results.append(
            [t.detach().cpu().clone() for t in (out.output, *out.state, *(p.grad for p in core.parameters()))]
        )
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("graphs", ["false", "true"])
@pytest.mark.parametrize("core", CORES)
def test_an_update_never_waits_for_the_gpu(core, graphs):
    learner = learner_on_gpu(f"learner.cuda_graphs={graphs}", f"agent.core={core}")
    assert len([*updates(learner, 2 * (WARM_UP + 1))]) == 8
    batch = to_device(a_batch(learner.config, 1, ((2, 1), (5, 3))), learner.device, learner.pad_to_buckets)
    torch.cuda.set_sync_debug_mode("error")
    try:
        began = learner.begin(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    learner.finish(began)


@pytest.mark.parametrize("changed", [
    "agent.head=shared", "agent.head=per_task", "agent.head=mi_task", "agent.head=mi_context", "agent.core=mlstm",
])  # fmt: skip
def test_recorded_updates_are_the_same_updates(changed):
    plain, recorded = (learner_on_gpu(changed, f"learner.cuda_graphs={graphs}") for graphs in ("false", "true"))
    count = 2 * (WARM_UP + 3)
    for one, other in zip(updates(plain, count), updates(recorded, count), strict=True):
        for name in ("loss/policy", "loss/value", "loss/entropy", "learner/grad_norm"):
            assert other[name] == pytest.approx(one[name], rel=1e-3), name
    assert recorded.counters.version == count
