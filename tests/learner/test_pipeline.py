"""Stages of a learner rank in threads, without Ray and without a network."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from impala_mi.learner.pipeline import UpdatePipeline
from impala_mi.learner.update import Counters, PendingUpdate, UpdateStats

LIMIT_S = 20.0
NO_PAUSE: Callable[[], None] = lambda: None  # noqa: E731


class FakeLearner:
    """Learner whose weight is the sum of the numbers of its batches; a negative number is a skipped update."""

    def __init__(self, pause: Callable[[], None] = NO_PAUSE) -> None:
        self.weight, self.counters, self.pause = torch.zeros(1), Counters(), pause
        self.agent = SimpleNamespace(state_dict=lambda: {"w": self.weight})
        self.config = "first"
        self.begin_error: BaseException | None = None
        self.finish_error: BaseException | None = None

    def begin(self, batch: int) -> PendingUpdate:
        self.pause()
        if self.begin_error is not None:
            raise self.begin_error
        if batch > 0:
            self.weight += batch
        return PendingUpdate(UpdateStats(("loss/total",), torch.tensor([float(batch)])), 0.0, 1, {})

    def finish(self, pending: PendingUpdate) -> dict[str, float]:
        self.pause()
        if self.finish_error is not None:
            raise self.finish_error
        [value] = pending.stats.values.tolist()
        self.counters.updates += 1
        self.counters.version += value > 0
        return {"loss/total": value}

    def state(self) -> dict[str, object]:
        return {"w": self.weight.item(), "counters": asdict(self.counters)}

    def load_state(self, state: dict[str, object]) -> None:
        self.weight, self.counters = torch.tensor([state["w"]]), Counters(**state["counters"])

    def set_hyperparameters(self, config: str) -> None:
        self.config = config


def stage(rollouts):
    [rollout] = rollouts
    if isinstance(rollout, Exception):
        raise rollout
    return SimpleNamespace(take=lambda: rollout)


@pytest.fixture
def learner() -> FakeLearner:
    return FakeLearner()


@pytest.fixture
def pipeline(learner: FakeLearner) -> UpdatePipeline:
    return UpdatePipeline(learner, stage)


def in_thread(do: Callable[[], object]) -> "Future[object]":
    """A call in a thread of its own that does not keep the tests from ending."""
    future: Future[object] = Future()

    def run() -> None:
        try:
            future.set_result(do())
        except BaseException as e:
            future.set_exception(e)

    threading.Thread(target=run, daemon=True).start()
    return future


def is_waiting(future: "Future[object]") -> bool:
    return not wait_for([future], timeout=0.05).done


def update(pipeline: UpdatePipeline, number: int, batch: int | None = None, version: int = 0) -> None:
    pipeline.stage(number, [version], [number if batch is None else batch])
    assert pipeline.begin(number) == number


def test_updates_finish_in_order_with_their_results(pipeline):
    update(pipeline, 1)
    update(pipeline, 2, batch=-5)
    second = in_thread(lambda: pipeline.finish(2))
    assert is_waiting(second)
    result, weights = pipeline.finish(1)
    assert (result.published, result.counters.version, result.metrics["loss/total"]) == (True, 1, 1.0)
    assert weights["w"].tolist() == [1.0]
    result, _ = second.result(LIMIT_S)
    assert (result.published, result.counters.version, result.counters.updates) == (False, 1, 2)
    with pytest.raises(LookupError, match="update 2 is not in flight"):
        pipeline.finish(2)


def test_lags_count_updates_in_flight_but_not_skipped_ones(pipeline):
    update(pipeline, 1)
    update(pipeline, 2, batch=-1)
    update(pipeline, 3)
    lags = [pipeline.finish(n)[0].metrics["lag_max"] for n in (1, 2)]
    update(pipeline, 4)
    lags += [pipeline.finish(n)[0].metrics["lag_max"] for n in (3, 4)]
    assert lags == [0, 1, 2, 2]  # before update 4 versions 1 and 3 were published, 2 was skipped
    assert pipeline.state()["counters"]["version"] == 3


def test_results_do_not_share_counters_and_tell_times(pipeline):
    update(pipeline, 1)
    first, _ = pipeline.finish(1)
    update(pipeline, 2)
    second, _ = pipeline.finish(2)
    assert (first.counters.updates, second.counters.updates) == (1, 2)
    assert {"time/update_s", "time/learner_cpu_s", "time/stack_s", "lag_mean"} <= second.metrics.keys()


def test_older_staged_batches_are_dropped(pipeline):
    for number in (1, 2, 3):
        pipeline.stage(number, [0], [number])
    pipeline.begin(2)
    assert list(pipeline._staged) == [3]
    pipeline.finish(2)
    with pytest.raises(LookupError, match="update 1 is not in flight"):
        pipeline.finish(1)
    pipeline.begin(3)
    assert pipeline.finish(3)[1]["w"].tolist() == [5.0]


def test_the_state_waits_for_updates_in_flight(pipeline):
    update(pipeline, 1)
    update(pipeline, 2)
    state = in_thread(pipeline.state)
    pipeline.finish(1)
    assert is_waiting(state)
    pipeline.finish(2)
    assert state.result(LIMIT_S) == {"w": 3.0, "counters": asdict(Counters(updates=2, version=2))}


def test_the_state_waits_for_an_update_that_is_beginning():
    entered, go = threading.Event(), threading.Event()
    pipeline = UpdatePipeline(FakeLearner(lambda: (entered.set(), go.wait(LIMIT_S))), stage)
    pipeline.stage(1, [0], [1])
    begun = in_thread(lambda: pipeline.begin(1))
    assert entered.wait(LIMIT_S)
    state, result = in_thread(pipeline.state), in_thread(lambda: pipeline.finish(1))
    assert is_waiting(state)
    assert is_waiting(result)
    go.set()
    assert begun.result(LIMIT_S) == 1
    assert result.result(LIMIT_S)[0].counters.version == 1
    assert state.result(LIMIT_S)["w"] == 1.0


def test_a_batch_that_cannot_be_staged_harms_no_other(pipeline):
    with pytest.raises(ValueError, match="shapes differ"):
        pipeline.stage(1, [0], [ValueError("shapes differ")])
    update(pipeline, 2)
    assert pipeline.finish(2)[1]["w"].tolist() == [2.0]


def test_a_failure_to_begin_reaches_its_finish_and_keeps_the_weights_before_it(pipeline, learner):
    update(pipeline, 1)
    state, third = in_thread(pipeline.state), in_thread(lambda: pipeline.finish(3))
    learner.begin_error = ConnectionError("a rank died")
    pipeline.stage(2, [0], [2])
    with pytest.raises(ConnectionError, match="a rank died"):
        pipeline.begin(2)
    for call in (lambda: third.result(LIMIT_S), lambda: pipeline.finish(2), lambda: pipeline.begin(3)):
        with pytest.raises(ConnectionError, match="a rank died"):
            call()
    assert is_waiting(state)  # update 1 is well
    assert pipeline.finish(1)[0].counters.version == 1
    assert state.result(LIMIT_S) == {"w": 1.0, "counters": asdict(Counters(updates=1, version=1))}
    with pytest.raises(ConnectionError):
        pipeline.load_member({}, "second")


def test_a_batch_that_was_never_staged_fails_its_update(pipeline):
    result = in_thread(lambda: pipeline.finish(1))
    with pytest.raises(KeyError):
        pipeline.begin(1)
    with pytest.raises(KeyError):
        result.result(LIMIT_S)


@pytest.mark.parametrize("where", ["finish", "copy"])
def test_a_failure_that_loses_the_weights_reaches_every_waiter(pipeline, learner, monkeypatch, where):
    error = RuntimeError("out of memory")
    update(pipeline, 1)
    state, second = in_thread(pipeline.state), in_thread(lambda: pipeline.finish(2))
    assert is_waiting(state)
    if where == "finish":
        learner.finish_error = error
        with pytest.raises(RuntimeError):
            pipeline.finish(1)
    else:
        monkeypatch.setattr(learner.agent, "state_dict", lambda: (_ for _ in ()).throw(error))
        with pytest.raises(RuntimeError):
            update(pipeline, 2)
    for call in (
        lambda: state.result(LIMIT_S), lambda: second.result(LIMIT_S), pipeline.state, lambda: pipeline.finish(1),
        lambda: pipeline.begin(3), lambda: pipeline.load_member({}, "second"),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="out of memory"):
            call()


def test_another_member_is_loaded_only_while_nothing_is_in_flight(pipeline, learner):
    update(pipeline, 1)
    donor = {"w": 40.0, "counters": asdict(Counters(updates=7, version=9))}
    with pytest.raises(RuntimeError, match="in flight"):
        pipeline.load_member(donor, "second")
    pipeline.finish(1)
    pipeline.stage(2, [0], [2])
    pipeline.load_member(donor, "second")
    assert (pipeline.state(), learner.config, pipeline._staged) == (donor, "second", {})
    update(pipeline, 3, version=8)
    result, weights = pipeline.finish(3)
    assert (result.metrics["lag_max"], weights["w"].tolist(), result.counters.version) == (1.0, [43.0], 10)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    updates=st.integers(1, 12),
    failing=st.one_of(st.none(), st.tuples(st.sampled_from(["begin", "finish"]), st.integers(1, 12))),
)
def test_every_interleaving_ends_with_results_or_the_error(seed, updates, failing):
    """Threads as Ray's concurrency groups call them: each stage in order, a stage after the one before it."""
    rng = random.Random(seed)
    barrier = threading.Event()

    def pause() -> None:
        if rng.random() < 0.3:
            barrier.wait(rng.random() * 2e-3)

    learner = FakeLearner(pause)
    pipeline = UpdatePipeline(learner, stage)
    where, failed_at = failing or (None, 0)
    numbers = range(1, updates + 1)

    def begin(n: int, staged: "Future[None]") -> int:
        staged.result(LIMIT_S)
        pause()
        if where == "begin" and n == failed_at:
            learner.begin_error = RuntimeError("failed")
        return pipeline.begin(n)

    def finish(begun: "Future[int]"):
        n = begun.result(LIMIT_S)
        pause()
        if where == "finish" and n == failed_at:
            learner.finish_error = RuntimeError("failed")
        return pipeline.finish(n)

    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second, ThreadPoolExecutor(1) as third:
        states = [in_thread(lambda: (pause(), pipeline.state())[1]) for _ in range(3)]
        staged = [first.submit(pipeline.stage, n, [0], [n]) for n in numbers]
        begun = [second.submit(begin, n, s) for n, s in zip(numbers, staged, strict=True)]
        finished = [third.submit(finish, b) for b in begun]
        results = [f.exception(LIMIT_S) or f.result() for f in finished]
    completed = updates if where is None or failed_at > updates else failed_at - 1
    for n, result in zip(numbers, results, strict=True):
        if n <= completed:
            assert result[0].counters.version == n
            assert result[1]["w"].tolist() == [n * (n + 1) / 2]
            assert result[0].metrics["lag_max"] == n - 1
        else:
            assert str(result) == "failed"
    for state in states:
        error = state.exception(LIMIT_S)
        if error is not None:
            assert (where, str(error)) == ("finish", "failed")
            continue
        version = state.result()["counters"]["version"]
        assert state.result()["w"] == version * (version + 1) / 2, "weights and counters are of one update"
