"""Tests that need a GPU; skipped elsewhere. `benchmarks/gpu.py` runs them without the suite's conftest."""

import pytest
import torch

from impala_mi.actors.inference import Inference, Request
from impala_mi.bench.parts import random_unrolls
from impala_mi.learner.batching import stack, to_device
from impala_mi.learner.cuda_graphs import WARM_UP
from impala_mi.learner.transfer import HostCopy, Stager
from impala_mi.learner.update import Learner
from impala_mi.nn.agent import CORES
from impala_mi.nn.core import lstm_cell
from impala_mi.nn.heads import HEADS
from impala_mi.nn.mlstm import MultiplicativeLSTMCore
from impala_mi.types import AgentInput, LSTMState
from tests.learner.batches import SPACES, STEPS, WIDTH, a_batch, config_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(autouse=True)
def _a_seed():
    torch.manual_seed(0)


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
        inputs = [t.to(device).requires_grad_() for t in given]
        state = lstm_cell(*inputs)
        (state.hidden.square().sum() + state.cell.sum()).backward()
        results.append([t.detach().cpu() for t in (*state, *(t.grad for t in inputs))])
    for on_cpu, on_gpu in zip(*results, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu)


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
    for on_cpu, on_gpu in zip(*results, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu)


@pytest.mark.parametrize("graphs", ["false", "true"])
@pytest.mark.parametrize("core", CORES)
def test_an_update_never_waits_for_the_gpu(core, graphs):
    learner = learner_on_gpu(f"learner.cuda_graphs={graphs}", f"agent.core={core}")
    assert len([*updates(learner, 2 * (WARM_UP + 1))]) == 8
    batch = to_device(a_batch(learner.config, 1, ((2, 1), (5, 3))), learner.device, learner.pad_to_buckets)
    torch.cuda.set_sync_debug_mode("error")
    try:
        pending = learner.begin(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    learner.finish(pending)


@pytest.mark.parametrize(
    "changed", [*(f"agent.head={head}" for head in HEADS), "agent.core=mlstm", "agent.value_normaliser=popart"]
)
def test_recorded_updates_are_the_same_updates(changed):
    plain, recorded = (learner_on_gpu(changed, f"learner.cuda_graphs={graphs}") for graphs in ("false", "true"))
    count = 2 * (WARM_UP + 3)
    for one, other in zip(updates(plain, count), updates(recorded, count), strict=True):
        for name in ("loss/policy", "loss/value", "loss/entropy", "learner/grad_norm"):
            assert other[name] == pytest.approx(one[name], rel=1e-3), name
    assert recorded.counters.version == count


@pytest.mark.parametrize("core", CORES)
def test_checkpoints_move_to_a_cpu_and_back_bit_for_bit(core):
    on_gpu, again = (learner_on_gpu(f"agent.core={core}") for _ in range(2))
    [*updates(on_gpu, 2)]
    on_cpu = Learner(config_of(f"agent.core={core}"), SPACES, 1, torch.device("cpu"))
    on_cpu.load_state(on_gpu.state())
    again.load_state(on_cpu.state())
    for kept, moved in zip(on_gpu.agent.parameters(), again.agent.parameters(), strict=True):
        assert moved.is_cuda
        assert torch.equal(kept, moved)
    assert all(torch.equal(slot, again.optimizer.slots[name]) for name, slot in on_gpu.optimizer.slots.items())
    assert again.counters == on_gpu.counters


@pytest.mark.parametrize("graphs", ["false", "true"])
def test_a_staged_batch_is_the_batch(graphs):
    learner = learner_on_gpu(f"learner.cuda_graphs={graphs}")
    stager = Stager(learner.device, 2, learner.pad_to_buckets)
    for width in (WIDTH // 2, WIDTH // 2, WIDTH // 4):
        rollouts = [random_unrolls(SPACES, learner.config, STEPS, width) for _ in range(WIDTH // width)]
        for i, rollout in enumerate(rollouts):
            rollout.reward[:] += i
        staged = stager.stage(rollouts).take()
        expected = stack(rollouts)
        for name in ("action", "logits", "reward", "terminated", "truncated"):
            assert torch.equal(getattr(staged, name).cpu(), getattr(expected, name)), name
        assert torch.equal(staged.inputs.frame.cpu(), expected.inputs.frame)
        assert staged.inputs.frame.is_cuda


def test_a_host_copy_holds_the_numbers_of_its_moment():
    tensor = torch.ones(1000, device="cuda")
    copy = HostCopy({"tensor": tensor})
    tensor += 1
    assert (copy.wait()["tensor"] == 1).all()


@pytest.mark.parametrize("core", CORES)
def test_central_inference_acts_as_on_a_cpu(core):
    config = config_of(f"agent.core={core}", "actors.precision=float32")
    weights = Learner(config, SPACES, 1, torch.device("cpu")).weights()
    data = random_unrolls(SPACES, config, STEPS, WIDTH)
    replies = []
    for device in ("cpu", "cuda"):
        inference = Inference(config, SPACES, torch.device(device), 0)
        inference.load(weights, 1)
        for t in range(3):
            inputs = AgentInput(*(array[t] for array in data.inputs))
            [reply] = inference([Request((0, 0), inputs, begins=True)])
        replies.append(torch.from_numpy(reply.logits))
    torch.testing.assert_close(*replies, atol=1e-2, rtol=1e-2)
