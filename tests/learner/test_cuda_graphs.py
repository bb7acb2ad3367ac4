"""Updates of even shapes, and their recordings, without a GPU."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from impala_mi.learner.batching import pad_to_buckets, to_device
from impala_mi.learner.cuda_graphs import WARM_UP, Graphs
from impala_mi.learner.update import Learner
from impala_mi.nn.instruction import InstructionEncoder, instructions
from impala_mi.nn.value_normaliser import NORMALISERS
from impala_mi.types import Instructions, Spaces, map_arrays
from tests.learner.batches import SPACES, STEPS, a_batch, config_of

CPU = torch.device("cpu")


def learner_of(*changed, is_even=False, spaces=SPACES):
    config = config_of(*changed)
    learner = Learner(config, spaces, 1, CPU)
    if config.agent.core == "lstm":
        learner.agent.core.fixed_work = is_even
    return learner


@pytest.mark.slow
@pytest.mark.parametrize("changed", [
    ("agent.head=shared",), ("agent.head=per_task", "learner.loss_reduction=mean"),
    ("agent.head=mi_task", "agent.torso=deep"), ("agent.head=mi_context", "agent.core=feedforward"),
    ("agent.core=highway",), ("agent.core=mlstm",), ("agent.torso_conditioning=instruction",),
    ("agent.head=mi_context", "learner.max_grad_norm=1.0"),
])  # fmt: skip
def test_even_updates_are_the_same_updates(changed):
    plain, evened = learner_of(*changed), learner_of(*changed, is_even=True)
    for seed, cut_off in enumerate([((2, 1), (5, 3), (5, 0)), (), ((1, 1),)]):
        batch = a_batch(plain.config, seed, cut_off)
        one, other = plain.update(batch), evened.update(to_device(batch, CPU, True))
        for name in ("loss/policy", "loss/value", "loss/entropy", "learner/grad_norm", "learner/rho_mean"):
            assert other[name] == pytest.approx(one[name], rel=1e-4), (seed, name)
    for (name, p), q in zip(plain.agent.named_parameters(), evened.agent.parameters(), strict=True):
        torch.testing.assert_close(q, p, atol=1e-5, rtol=1e-4, msg=name)


def test_without_instructions_there_are_none_to_pad():
    spaces = Spaces((24, 28, 3), "uint8", 4, 3, instructions=False)
    plain, evened = learner_of(spaces=spaces), learner_of(is_even=True, spaces=spaces)
    batch = a_batch(plain.config, 0, spaces=spaces)
    there = to_device(batch, CPU, True)
    assert evened.update(there)["loss/total"] == pytest.approx(plain.update(batch)["loss/total"], rel=1e-4)


@given(st.integers(0, 9))
def test_what_is_padded_belongs_to_no_transition(count):
    cut_off = tuple((i % STEPS, i // STEPS) for i in range(count))
    final_observations = pad_to_buckets(a_batch(config_of(), 0, cut_off)).final_observations
    assert len(final_observations.time) == (0 if not count else 8 if count <= 8 else 16)
    assert len(final_observations.frame) == len(final_observations.column) == len(final_observations.time)
    assert (final_observations.time[count:] == STEPS).all()
    assert [
        *zip(*(t[:count].tolist() for t in (final_observations.time, final_observations.column)), strict=True)
    ] == [*cut_off]
    if count:
        assert final_observations.tokens.per_step.shape == (1, len(final_observations.time))


@pytest.mark.slow
@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=6))
def test_instructions_of_even_shape_are_embedded_alike(texts):
    rows = np.full((len(texts), 7), -1, np.int32)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = text
    which = np.arange(len(texts))[None]
    torch.manual_seed(0)
    encoder = InstructionEncoder()
    with torch.no_grad():
        expected = encoder(torch.from_numpy(rows[None]))
        torch.testing.assert_close(encoder(instructions(rows, which)), expected)


class Replays:
    """Records on a CPU: what is replayed computes again with the tensors of the recording."""

    def __init__(self):
        self.ran, self.recorded = 0, 0

    def run(self, compute):
        self.ran += 1
        self.stats = compute()
        return self.stats

    def record(self, compute):
        self.recorded += 1
        result = self.stats._replace(values=torch.zeros_like(self.stats.values))
        return lambda: result.values.copy_(compute().values), result


@pytest.mark.slow
@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_recordings_read_the_batch_at_hand_and_are_made_for_each_shape(normaliser):
    changed = f"agent.value_normaliser={normaliser}"
    plain, recorded = learner_of(changed, is_even=True), learner_of(changed, is_even=True)
    places = {name: tensor.data_ptr() for name, tensor in recorded.agent.state_dict().items()}
    replays = Replays()
    recorded._graphs = Graphs(lambda *batch: recorded._compute(*batch)[0], CPU, replays)
    begun = []
    for seed in range(2 * (WARM_UP + 3)):
        cut_off = ((2, 1),) if seed % 2 else ()
        batch = pad_to_buckets(a_batch(plain.config, seed % 2, cut_off))
        begun.append(recorded.begin(map_arrays(batch, torch.clone)))
        one, other = plain.update(batch), recorded.finish(begun[-1])
        assert other["loss/total"] == pytest.approx(one["loss/total"], rel=1e-5), seed
    assert (replays.ran, replays.recorded) == (2 * WARM_UP, 2)
    for p, q in zip(plain.agent.state_dict().values(), recorded.agent.state_dict().values(), strict=True):
        torch.testing.assert_close(q, p)
    assert {name: tensor.data_ptr() for name, tensor in recorded.agent.state_dict().items()} == places
    kept = begun[-1].stats.values.clone()
    recorded.begin(pad_to_buckets(a_batch(plain.config, 7, ((2, 1), (5, 3)))))
    assert torch.equal(begun[-1].stats.values, kept), "scalars outlive the next replay"


@pytest.mark.slow
def test_shapes_beyond_the_most_are_computed_as_they_come(monkeypatch):
    monkeypatch.setattr("impala_mi.learner.cuda_graphs.MAX_GRAPHS", 1)
    learner, replays = learner_of(is_even=True), Replays()
    learner._graphs = Graphs(lambda *batch: learner._compute(*batch)[0], CPU, replays)
    for turn in range(2 * (WARM_UP + 2)):
        learner.update(pad_to_buckets(a_batch(learner.config, 0, ((2, 1),) if turn % 2 else ())))
    assert (replays.ran, replays.recorded) == (2 * WARM_UP + 2, 1)
    assert learner.counters.version == 2 * (WARM_UP + 2)


@pytest.mark.slow
def test_the_learning_rate_of_a_recording_is_that_of_now():
    learner = learner_of("train.env_frames=1000", is_even=True)
    learner._graphs = Graphs(lambda *batch: learner._compute(*batch)[0], CPU, Replays())
    batch = pad_to_buckets(a_batch(learner.config, 0))
    moved = []
    for _ in range(40):  # of 41.7
        before = torch.cat([p.detach().flatten().clone() for p in learner.agent.parameters()])
        learner.update(batch)
        moved.append((torch.cat([p.detach().flatten() for p in learner.agent.parameters()]) - before).norm())
    assert 0 < moved[-1] < 0.2 * moved[0]


def test_what_an_optimiser_keeps_stays_where_it_is():
    learner = learner_of()
    optimizer = learner.optimizer
    places = [t.data_ptr() for t in (*optimizer.slots.values(), optimizer.steps, *optimizer.params)]
    gradient = torch.ones(sum(p.numel() for p in optimizer.params))
    for good in (True, False):
        optimizer.step(gradient, 0.1, torch.tensor(good))
    assert [t.data_ptr() for t in (*optimizer.slots.values(), optimizer.steps, *optimizer.params)] == places
    assert optimizer.steps == 1


@pytest.mark.slow
def test_even_batches_come_in_few_shapes():
    config, seen = config_of(), set()
    for seed in range(60):
        cut_off = tuple((i % STEPS, i // STEPS) for i in range(seed % 10))
        batch = pad_to_buckets(a_batch(config, seed, cut_off))
        assert isinstance(batch.inputs.tokens, Instructions)
        shapes = []
        map_arrays(batch, lambda tensor, shapes=shapes: shapes.append(tensor.shape))
        seen.add(tuple(shapes))
    assert 3 < len(seen) <= 3 * 3  # 1, 2 or 4 instructions; 0, 8 or 16 final observations
