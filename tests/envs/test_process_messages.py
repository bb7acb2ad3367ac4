"""What passes between an actor and a game in a process of its own, here over both ends in one process."""

import os
import socket
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from impala_mi.envs import process_messages
from impala_mi.envs.base import Observation, Outcome
from impala_mi.envs.process_messages import INLINE_BYTES, MAKE, RESET, STEP, ActorEnd, GameEnd, GameError

DTYPES = ("uint8", "float32", "<i8", ">f8", "bool", "complex64", "M8[s]", "S3", [("a", "u1"), ("b", "<f4")])


class Ends:
    """Both ends of a connection."""

    def __init__(self) -> None:
        actor, game = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.actor, self.game = ActorEnd(actor), GameEnd(game)

    def passed(self, answer, counts=None):
        """What the actor sees of an answer of the game."""
        self.game.reply(answer, counts)
        return self.actor.reply(wait=False)

    def close(self) -> None:
        self.actor.close()
        if self.game is not None:
            self.game._channel.socket.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


def same(a, b) -> None:
    """Check that frames have the same bytes, shape and dtype."""
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert a.tobytes() == b.tobytes()


def frames() -> st.SearchStrategy[np.ndarray]:
    """Arrays of 1 byte to 2 MiB, of few and of many shapes, not all contiguous."""

    def make(size: int, dtype, layout: str, seed: int) -> np.ndarray:
        dtype = np.dtype(dtype)
        count = max(1, size // dtype.itemsize)
        raw = np.random.default_rng(seed).integers(0, 256, 2 * count * dtype.itemsize, np.uint8)
        if dtype.kind == "b":
            raw %= 2
        flat = raw.view(dtype)
        if layout == "strided":
            return flat[::2]
        rows = next(n for n in (7, 4, 3, 2, 1) if count % n == 0)
        wide = flat[:count].reshape(rows, count // rows)
        layouts = {"flat": flat[:count], "wide": wide, "transposed": wide.T, "empty": flat[:0]}
        return layouts.get(layout, flat[:1].reshape(()))

    sizes = st.sampled_from([1, 12, 4095, 4096, 4097, 20_736, 2**18, 2**21])
    layouts = st.sampled_from(["flat", "wide", "transposed", "strided", "empty", "scalar"])
    return st.builds(make, sizes, st.sampled_from(DTYPES), layouts, st.integers(0, 9))


INSTRUCTIONS = st.sampled_from(["", "pick the blue object", "Größe 漢字 \udcff", "word " * 40_000])
OBSERVATIONS = st.builds(Observation, frames(), INSTRUCTIONS)
REWARDS = st.floats() | st.sampled_from([3, np.float32(0.1), np.float64(0.1), None, True])
OUTCOMES = st.builds(Outcome, OBSERVATIONS | st.none(), REWARDS, st.booleans(), st.booleans())
COUNTS = st.sampled_from([{}, {"hits": 1}, {"hits": 2, "misses": 7}])


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(OBSERVATIONS | OUTCOMES, COUNTS), min_size=1, max_size=8))
def test_a_sequence_of_answers_passes_bit_for_bit_and_the_last_frame_stays_whole(answers):
    ends, last = Ends(), None
    try:
        for sent, counts in answers:
            received, received_counts = ends.passed(sent, counts)
            assert received_counts == counts
            assert type(received) is type(sent)
            if last is not None:
                same(*last)  # not yet overwritten
            sent_obs, obs = (a.observation if isinstance(a, Outcome) else a for a in (sent, received))
            assert (obs is None) == (sent_obs is None)
            if obs is not None:
                same(obs.frame, sent_obs.frame)
                assert obs.instruction == sent_obs.instruction
                last = obs.frame, sent_obs.frame
            if isinstance(sent, Outcome):
                assert (received.terminated, received.truncated) == (sent.terminated, sent.truncated)
                np.testing.assert_equal(received.reward, sent.reward)
    finally:
        ends.close()


@pytest.mark.parametrize(
    "answer",
    [
        None, "text", ("frame", "words"), Observation(None), Observation([1, 2]), Observation(np.zeros(2), None),
        Observation(np.array(["a", None], object)), Outcome(Observation(np.zeros(1), 3), 1.0), Outcome("odd", 0.0),
    ],
)  # fmt: skip
def test_an_odd_answer_arrives_as_it_is(ends, answer):
    ends.passed(Observation(np.ones(3), "usual"))
    assert repr(ends.passed(answer)[0]) == repr(answer)
    received = ends.passed(Observation(np.full(3, 2.0), "usual"))[0]
    assert received.instruction == "usual"
    same(received.frame, np.full(3, 2.0))


@pytest.mark.parametrize(
    "action", [0, -1, 2**63 - 1, 2**63, np.int64(3), np.arange(3), 0.5, "x" * 10**6, None, True]
)
def test_an_argument_of_any_type_and_size_arrives(ends, action):
    for method in (MAKE, RESET, STEP):
        ends.actor.request(method, action)
        received_method, received = ends.game.request()
        assert received_method == method
        assert type(received) is type(action)
        np.testing.assert_array_equal(received, action)


def test_a_usual_step_is_a_few_bytes_and_nothing_is_pickled(ends, monkeypatch):
    frame = np.arange(20_736, dtype=np.uint8).reshape(72, 96, 3)
    ends.passed(Observation(frame, "words"))

    def refuse(*_, **__):
        raise AssertionError("pickled")

    monkeypatch.setattr(process_messages.pickle, "dumps", refuse)
    monkeypatch.setattr(process_messages.pickle, "loads", refuse)
    monkeypatch.setattr(process_messages, "INLINE_BYTES", 0)
    for i in range(5):
        ends.actor.request(STEP, i)
        assert ends.game.request() == (STEP, i)
        outcome, _ = ends.passed(Outcome(Observation(frame + i, "words"), 0.25 * i))
        same(outcome.observation.frame, frame + i)
        assert outcome.reward == 0.25 * i
        assert not outcome.observation.frame.flags.writeable, "a view of memory that the game writes to"


def test_descriptors_and_memory_are_those_of_the_last_frames_only(ends):
    before = len(os.listdir("/proc/self/fd"))
    for size in (1, 10**4, 10**5, 10**6, 1, 10**4):
        for instruction in ("", "word " * INLINE_BYTES):
            ends.passed(Observation(np.zeros(size, np.uint8), instruction))
    assert len(os.listdir("/proc/self/fd")) == before + 2, "each end keeps one"
    ends.close()
    ends.game = None  # it keeps its mapping until then
    assert len(os.listdir("/proc/self/fd")) == before - 2, "the sockets are closed, too"


def test_memory_that_is_short_is_an_error_and_not_a_signal(ends, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", refuse)
    with pytest.raises(OSError, match="No space left"):
        ends.game.reply(Observation(np.zeros(9)))
    ends.game.fail("no memory")
    with pytest.raises(GameError, match="no memory"):
        ends.actor.reply()


def test_an_end_that_waits_notices_a_timeout_and_the_end_of_the_other(ends):
    ends.actor.set_timeout(0.05)
    with pytest.raises(TimeoutError):
        ends.actor.reply()
    with pytest.raises(TimeoutError):
        ends.actor.reply(wait=False)
    ends.game._channel.socket.close()
    with pytest.raises(ConnectionResetError):
        ends.actor.reply()
    with pytest.raises(ConnectionError):
        ends.actor.request(STEP, 1)


@pytest.mark.parametrize("reward", [1, True, 0.5, np.float32(0.1), np.float64(2.5), np.int64(-3)])
def test_usual_rewards_need_no_pickle(ends, reward, monkeypatch):
    frame = np.zeros(9, np.uint8)
    ends.passed(Observation(frame))
    monkeypatch.setattr(process_messages.pickle, "dumps", lambda *_, **__: pytest.fail("pickled"))
    outcome, _ = ends.passed(Outcome(Observation(frame), reward))
    assert outcome.reward == reward


@pytest.mark.parametrize("shm", ["/dev/shm", "/no/such/folder"])
def test_frames_pass_in_pythons_without_memfd(ends, monkeypatch, shm):
    monkeypatch.delattr("os.memfd_create")
    monkeypatch.setattr(process_messages, "_SHM", shm)
    frame = np.arange(100_000)
    observation, _ = ends.passed(Observation(frame, "word " * INLINE_BYTES))
    same(observation.frame, frame)
    assert observation.instruction == "word " * INLINE_BYTES
