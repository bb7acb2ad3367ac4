import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from impala_mi.config import AgentConfig
from impala_mi.nn import instruction
from impala_mi.nn.agent import CORES, Agent
from impala_mi.nn.heads import HEADS
from impala_mi.nn.instruction import InstructionEncoder, distinct_rows
from impala_mi.nn.torsos import same_max_pool
from impala_mi.tokenizer import tokenize
from impala_mi.types import NO_ACTION, NO_TOKEN, AgentInput, LSTMState, Spaces, leaves, map_arrays

DMLAB = Spaces((72, 96, 3), "uint8", 9, 30, instructions=True)
SMALL = Spaces((24, 28, 3), "uint8", 4, 3, instructions=True)


def inputs(spaces: Spaces, t: int, b: int, seed: int = 0) -> AgentInput:
    rng = torch.Generator().manual_seed(seed)
    first = torch.rand(t, b, generator=rng) < 0.2
    action = torch.randint(0, spaces.num_actions, (t, b), generator=rng)
    tokens = torch.randint(0, 1000, (t, b, 6), generator=rng, dtype=torch.int32)
    tokens[:, 0] = NO_TOKEN  # a level without words
    tokens[:, 1:, 4:] = NO_TOKEN
    return AgentInput(
        frame=torch.randint(0, 256, (t, b, *spaces.frame_shape), dtype=torch.uint8, generator=rng),
        tokens=tokens,
        last_action=torch.where(first, NO_ACTION, action),
        last_reward=3 * torch.randn(t, b, generator=rng) * ~first,
        first=first,
        level=torch.randint(0, spaces.num_levels, (b,), generator=rng).expand(t, b),
    )


@pytest.mark.parametrize(("torso", "count"), [("shallow", 1_230_426), ("deep", 1_628_010)])
def test_parameters_are_the_published_ones(torso, count):
    assert Agent(AgentConfig(torso=torso, head="shared"), DMLAB).num_parameters == count


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "core"), [*((head, "lstm") for head in HEADS), *(("mi_context", core) for core in CORES)][:-1]
)
def test_an_unroll_is_t_single_steps_with_episode_starts_inside(head, core):
    agent = Agent(AgentConfig(head=head, core=core, core_width=24), SMALL).double().eval()
    torch.set_default_dtype(torch.float64)
    try:
        x = inputs(SMALL, 12, 5)
        assert x.first[1:].any()
        state = map_arrays(agent.initial_state(5), torch.randn_like)
        whole = agent(x, state)
        for t in range(12):
            step = agent(AgentInput(*(a[t : t + 1] for a in x)), state)
            torch.testing.assert_close(step.logits[0], whole.logits[t])
            torch.testing.assert_close(step.value[0], whole.value[t])
            state = step.state
        torch.testing.assert_close(leaves(state), leaves(whole.state))
    finally:
        torch.set_default_dtype(torch.float32)


RECURRENT = ["lstm", "mlstm"]


@pytest.mark.parametrize("core", RECURRENT)
def test_nothing_passes_an_episode_start(core):
    agent = Agent(AgentConfig(core=core, core_width=24), SMALL).eval()
    x = inputs(SMALL, 8, 3)
    first = torch.zeros(8, 3, dtype=torch.bool)
    first[5, 1] = True
    x = x._replace(first=first)
    other = x._replace(frame=x.frame.clone())
    other.frame[:5, 1] = 255 - other.frame[:5, 1]
    zeros = agent.initial_state(3)
    a, b = agent(x, zeros), agent(other, zeros)
    assert not torch.allclose(a.logits[4, 1], b.logits[4, 1])
    torch.testing.assert_close(a.logits[5:], b.logits[5:])
    # The state before the reset is kept for the final observation.
    until = agent(x._replace(**{k: v[:5] for k, v in x._asdict().items() if v is not None}), zeros)
    kept = a.before(torch.tensor([5, 5]), torch.tensor([1, 0]))
    torch.testing.assert_close(kept, LSTMState(until.state.hidden[[1, 0]], until.state.cell[[1, 0]]))


@pytest.mark.parametrize("core", CORES)
def test_only_a_recurrent_core_remembers(core):
    agent = Agent(AgentConfig(core=core, core_width=24), SMALL).eval()
    x = inputs(SMALL, 4, 3)._replace(first=torch.zeros(4, 3, dtype=torch.bool))
    other = x._replace(frame=x.frame.clone())
    other.frame[:3] = 255 - other.frame[:3]
    zeros = agent.initial_state(3)
    alike = torch.allclose(agent(x, zeros).logits[3], agent(other, zeros).logits[3])
    assert alike == (core not in RECURRENT)


@pytest.mark.parametrize("core", RECURRENT)
def test_an_episode_start_ends_what_was_not_a_number(core):
    agent = Agent(AgentConfig(core=core, core_width=24), SMALL).eval()
    x = inputs(SMALL, 3, 2)._replace(first=torch.tensor([[False, True], [False, False], [True, False]]))
    nan = torch.full((2, 24), float("nan"))
    logits = agent(x, LSTMState(nan, nan)).logits
    assert logits[:2, 0].isnan().all()
    assert logits[2, 0].isfinite().all()
    assert logits[:, 1].isfinite().all()


def test_the_task_reaches_the_agent_only_through_the_head():
    x = inputs(SMALL, 3, 4)
    agent = Agent(AgentConfig(head="mi_context", core_width=24), SMALL).eval()
    untold = agent(x._replace(level=None), agent.initial_state(4))
    torch.testing.assert_close(untold.logits, agent(x, agent.initial_state(4)).logits)


def test_reward_is_clipped_for_the_network_alone_and_no_action_is_zeros():
    agent = Agent(AgentConfig(core_width=24), SMALL).eval()
    x = inputs(SMALL, 1, 4)
    zeros = agent.initial_state(4)
    big = x._replace(last_reward=torch.full((1, 4), 100.0))
    one = x._replace(last_reward=torch.ones(1, 4))
    torch.testing.assert_close(agent(big, zeros).logits, agent(one, zeros).logits)
    none, some = torch.full((1, 4), NO_ACTION), torch.zeros(1, 4, dtype=torch.long)
    columns = agent.core.lstm.weight_ih_l0[:, 256 : 256 + SMALL.num_actions]
    before = agent(x._replace(last_action=none), zeros).logits
    with torch.no_grad():
        columns += 1.0
    torch.testing.assert_close(agent(x._replace(last_action=none), zeros).logits, before)
    assert not torch.allclose(agent(x._replace(last_action=some), zeros).logits, before)


def test_actions_follow_the_softmax():
    agent = Agent(AgentConfig(core_width=24), SMALL).eval()
    n = 4000
    x = AgentInput(*(np.repeat(a[0, 1:2].numpy(), n, 0) for a in inputs(SMALL, 1, 2)))
    act = agent.act(x, agent.initial_state(n), torch.Generator().manual_seed(1))
    want = torch.softmax(act.logits[0], -1)
    got = torch.bincount(act.action, minlength=4) / n
    assert (got - want).abs().max() < 0.04


SAYINGS = st.lists(st.sampled_from(["go to the ball", "", "go", "pick up a key", "go to"]), min_size=1, max_size=5)


def tokens_of(instructions):
    return torch.from_numpy(np.stack([tokenize(s, 5) for s in instructions])).unsqueeze(0)


def test_instructions_are_encoded_at_their_last_word():
    encoder = InstructionEncoder()
    tokens = tokens_of(("go to the ball", "", "go", "go to the ball"))
    out = encoder(tokens)[0]
    assert out[1].abs().sum() == 0
    torch.testing.assert_close(out[0], out[3])
    assert not torch.allclose(out[0], out[2])
    torch.testing.assert_close(encoder(tokens[:, 2:3, :1])[0, 0], out[2])  # padding does not matter


@given(st.lists(SAYINGS.map(lambda said: (said * 5)[:5]), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_distinct_instructions_are_found_however_they_change(said):
    """Also those that come back, and those of two columns."""
    tokens = torch.cat([tokens_of(row) for row in said]).numpy()
    rows, which = distinct_rows(tokens)
    assert np.array_equal(rows[which], tokens)
    assert len({row.tobytes() for row in rows}) == len(rows) == len({word for row in said for word in row})


def test_an_acting_encoder_remembers_until_its_weights_change(monkeypatch):
    encoder, embedded = InstructionEncoder(), []
    embed = encoder._embed
    monkeypatch.setattr(encoder, "_embed", lambda rows: embedded.append(len(rows.last)) or embed(rows))
    tokens = tokens_of(("go", "", "go to", "go"))
    want = encoder(tokens)
    with torch.inference_mode():
        for _ in range(2):
            torch.testing.assert_close(encoder(tokens), want)
        encoder(tokens_of(("go to", "pick")))
    assert embedded == [3, 3, 1]
    encoder.load_state_dict({name: 2 * tensor for name, tensor in encoder.state_dict().items()})
    with torch.inference_mode():
        loaded = encoder(tokens)
    assert not torch.allclose(loaded, want)
    encoder(tokens).sum().backward()  # a call that records gradients comes before a change of the weights
    with torch.no_grad():
        for p in encoder.parameters():
            p.zero_()
    with torch.inference_mode():
        assert encoder(tokens).abs().sum() == 0


def test_an_acting_encoder_does_not_remember_without_end(monkeypatch):
    monkeypatch.setattr(instruction, "MAX_CACHED", 3)
    encoder = InstructionEncoder()
    for said in (("a", "b", "c"), ("c", "d"), ("a", "d", "e", "f"), ("a",)):
        with torch.inference_mode():
            got = encoder(tokens_of(said))
        assert len(encoder._cache) <= max(3, len(said))
        known = encoder._cache.copy()
        torch.testing.assert_close(got, encoder(tokens_of(said)))
        encoder._cache = known


def test_words_have_the_same_numbers_everywhere():
    assert tokenize("go to", 3).tolist() == [774, 756, NO_TOKEN]
    assert tokenize("Go TO the red ball", 2).tolist() == [774, 756]  # cut
    assert tokenize("", 0).shape == (0,)


@pytest.mark.parametrize("side", [(72, 96), (9, 12), (7, 5), (1, 1)])
def test_max_pool_pads_as_tensorflow_does(side):
    x = torch.randn(1, 1, *side)
    out = same_max_pool(x)
    assert out.shape[2:] == tuple(-(-s // 2) for s in side)
    pads = [max((-(-s // 2) - 1) * 2 + 3 - s, 0) // 2 for s in side]
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            r, c = 2 * i - pads[0], 2 * j - pads[1]
            window = x[0, 0, max(r, 0) : r + 3, max(c, 0) : c + 3]
            assert out[0, 0, i, j] == window.max()
