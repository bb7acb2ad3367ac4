import copy
import subprocess
import sys

import pytest
import torch

from impala_mi.config import AgentConfig
from impala_mi.nn.agent import CORES, Agent
from impala_mi.nn.core import CoreOutput
from impala_mi.nn.precision import choose_dtype, native_bfloat16
from impala_mi.nn.torsos import first_conv, make_torso
from impala_mi.types import AgentInput
from tests.nn.test_agent import SMALL, inputs


@pytest.mark.parametrize("width", [28, 27])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(8, 4, 0), (8, 4, 2), (6, 4, 0), (4, 2, 0), (3, 1, 1)])
def test_the_first_convolution_is_that_of_frames_in_0_to_1(width, kernel, stride, padding):
    conv = torch.nn.Conv2d(3, 5, kernel, stride, padding).double()
    frame = torch.randint(0, 256, (4, 24, width, 3), dtype=torch.uint8)
    expected = conv(frame.permute(0, 3, 1, 2).double() / 255)
    found = first_conv(conv, frame)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    gradient, conv.weight.grad = conv.weight.grad, None
    expected.square().sum().backward()
    torch.testing.assert_close(gradient, conv.weight.grad)


@pytest.mark.parametrize("torso", ["shallow", "deep"])
def test_torsos_stay_channels_last(torso):
    sizes = []
    module = make_torso(torso, (72, 96, 3))
    for conv in (m for m in module.modules() if isinstance(m, torch.nn.Conv2d)):
        conv.register_forward_hook(lambda m, x, y: sizes.append(y.is_contiguous(memory_format=torch.channels_last)))
    module(torch.zeros(2, 72, 96, 3, dtype=torch.uint8))
    assert sizes
    assert all(sizes)


@pytest.mark.parametrize("core", CORES)
def test_acting_in_bfloat16_is_near_and_its_state_stays_float32(core):
    agent = Agent(AgentConfig(core=core, core_width=64), SMALL).eval()
    rough = copy.deepcopy(agent).act_in(torch.bfloat16)
    x = inputs(SMALL, 20, 5)
    state = other = agent.initial_state(5)
    with torch.inference_mode():
        for t in range(20):
            step = AgentInput(*(a[t : t + 1] for a in x))
            exact, near = agent(step, state), rough(step, other)
            state, other = exact.state, near.state
            assert {a.dtype for a in (near.logits, near.value, near.core, *other)} == {torch.float32}
            torch.testing.assert_close(near.logits, exact.logits, atol=0.02, rtol=0.02)
    assert not torch.equal(near.logits, exact.logits)


class GRUCore(torch.nn.Module):
    """A user's core, which knows nothing of low precision."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.gru = torch.nn.GRU(inputs, width)

    def initial_state(self, batch, like):
        return (like.new_zeros(batch, self.gru.hidden_size),)

    def forward(self, x, first, state):
        (hidden,), outputs, before = state, [], []
        for t in range(len(x)):
            before.append(hidden)
            output, last = self.gru(x[t : t + 1], hidden.masked_fill(first[t, :, None], 0).unsqueeze(0))
            hidden = last.squeeze(0)
            outputs.append(output)
        return CoreOutput(torch.cat(outputs), (hidden,), lambda t, b: (torch.stack(before)[t, b],))


def test_a_users_core_stays_float32_when_the_torso_acts_in_bfloat16():
    agent = Agent(AgentConfig(core=f"{__name__}:GRUCore", core_width=64), SMALL).eval()
    rough = copy.deepcopy(agent).act_in(torch.bfloat16)
    assert {p.dtype for p in rough.torso.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in rough.core.parameters()} == {torch.float32}
    state, generator = rough.initial_state(5), torch.Generator()
    for t in range(3):
        step = AgentInput(*(a[t].numpy() for a in inputs(SMALL, 3, 5)))
        exact, near = (a.act(step, state, generator, greedy=True) for a in (agent, rough))
        state = near.state
        assert {a.dtype for a in (near.logits, near.core, *state)} == {torch.float32}
        torch.testing.assert_close(near.logits, exact.logits, atol=0.02, rtol=0.02)
    assert not torch.equal(near.logits, exact.logits)


@pytest.mark.parametrize("core", CORES)
def test_shipped_cores_act_in_low_precision(core):
    agent = Agent(AgentConfig(core=core, core_width=64), SMALL).act_in(torch.bfloat16)
    assert {p.dtype for p in agent.core.parameters()} == {torch.bfloat16}


def test_autocast_reaches_the_torso_alone():
    agent = Agent(AgentConfig(), SMALL)
    x, state = inputs(SMALL, 6, 3), agent.initial_state(3)
    seen = {}
    for name in ("torso", "instruction"):
        getattr(agent, name).register_forward_hook(lambda m, i, y, name=name: seen.update({name: y.dtype}))
    with torch.autocast("cpu", torch.bfloat16):
        out = agent(x, state)
    assert {a.dtype for a in (out.logits, out.value, out.core, *out.state)} == {torch.float32}
    assert seen == {"torso": torch.bfloat16, "instruction": torch.float32}
    exact = agent(x, state)
    torch.testing.assert_close(out.logits, exact.logits, atol=0.02, rtol=0.02)
    out.value.sum().backward()
    assert {p.grad.dtype for p in agent.parameters() if p.grad is not None} == {torch.float32}


def test_auto_is_bfloat16_where_it_is_native_and_pays():
    cpu = torch.device("cpu")
    native = torch.bfloat16 if native_bfloat16(cpu) else torch.float32
    assert choose_dtype("auto", "shallow", cpu) == native
    assert choose_dtype("auto", "mlp", cpu) == torch.float32  # features of a vector need their digits
    assert choose_dtype("float32", "deep", cpu) == torch.float32
    assert choose_dtype("bfloat16", "mlp", cpu) == torch.bfloat16


DENORMALS = """
import threading, torch
from impala_mi.learner.data_parallel import ShardPool
from impala_mi.nn.precision import compute_with

def denormals(_=None):
    product = torch.full((300, 300), 1e-20) @ torch.full((300, 300), 1e-20)
    return int((product != 0).sum() + (torch.full((2_000_000,), 1e-40) * 0.5 != 0).sum())

found = []
def compute():
    compute_with(2)
    found.append(denormals())

thread = threading.Thread(target=compute)
thread.start()
thread.join()
pool = ShardPool(2, 2)
print(found, list(pool._pool.map(denormals, range(2))), denormals() > 0)
"""


@pytest.mark.slow
def test_threads_that_compute_take_denormals_for_zero():
    # In a process of its own: a thread keeps the setting, and the threads that share its operations too.
    done = subprocess.run([sys.executable, "-c", DENORMALS], capture_output=True, text=True, check=True)
    assert done.stdout == "[0] [0, 0] True\n", "the main thread, which was not asked to, computes with them"
