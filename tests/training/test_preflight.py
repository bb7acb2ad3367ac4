"""Checks of a configuration before anything starts."""

import time

import pytest

from impala_mi.envs.suites import make_suite
from impala_mi.errors import UserError
from impala_mi.nn.agent import meta_agent
from impala_mi.training import preflight
from impala_mi.types import leaves, transitions_buffer
from tests.tiny import tiny_config


def test_an_invalid_mirror_is_refused():
    with pytest.raises(UserError, match=r"^run.mirror='nonsense://x': "):
        preflight.check(tiny_config("run.mirror=nonsense://x"))


def test_a_mirror_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^run.mirror='file://.*/x': cannot be written to: NotADirectoryError"):
        preflight.check(tiny_config(f"run.mirror=file://{tmp_path}/file/x"))
    preflight.check(tiny_config(f"run.mirror=file://{tmp_path}/folder/x"))


def test_the_object_store_holds_the_recurrent_states_of_rollouts():
    config = tiny_config("agent.core=lstm", "actors.envs=5")
    suite = make_suite(config.env)
    agent = meta_agent(config.agent, suite.spaces)
    buffer = transitions_buffer(
        suite.spaces, config.learner.unroll_length, 5, config.agent.instruction_tokens, agent.initial_state(5)
    )
    assert {state.shape for state in leaves(buffer.state)} == {(5, config.agent.core_width)}
    assert preflight.rollout_bytes(config, suite, agent) == sum(array.nbytes for array in leaves(buffer))
    assert preflight.object_store_bytes(config, suite) >= 2**27


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "agent.core_width=1e9",
            r"agent.core_width=1000000000, .* more than 8,589,934,592.0 GiB, this machine has",
        ),
        (
            "agent.core_width=1e6",
            r"needs [\d,.]+ GiB, this machine has .* weights of [\d,.]+ GiB .*core_width=1000000",
        ),
        ("learner.unroll_length=1e9", r"needs [\d,.]+ GiB, .* batches of [\d,.]+ GiB .*unroll_length=1000000000"),
        ("learner.batch_size=1e9", "batch_size=1000000000"),
        ("learner.num_threads=4096", "learner.num_threads=4096: more than the [0-9]+ cores"),
        ("inference.num_threads=4096", "inference.num_threads=4096: more than"),
    ],
)
def test_what_this_machine_cannot_hold_is_refused_at_once(override, says):
    start = time.process_time()
    with pytest.raises(UserError, match=says):
        preflight.check(tiny_config("actors.inference=central", override))
    assert time.process_time() - start < 5


def test_the_memory_of_a_control_group_is_what_a_run_may_use(monkeypatch):
    monkeypatch.setattr(preflight, "memory_bytes", lambda: 2**20)
    with pytest.raises(UserError, match=r"^memory: the run needs .*, this machine has 1 MiB; most are "):
        preflight.check(tiny_config())


@pytest.fixture
def limits(monkeypatch):
    """Limit of open files of a process, soft and hard."""
    values = [1024, 4096]
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(preflight.resource, "getrlimit", lambda _: tuple(values))
    monkeypatch.setattr(preflight.resource, "setrlimit", lambda _, new: values.__setitem__(slice(None), new))
    return values


@pytest.mark.parametrize("hard", [4096, preflight.resource.RLIM_INFINITY])
def test_the_soft_limit_of_open_files_is_raised_to_what_is_needed(limits, hard):
    limits[:] = 64, hard
    preflight.check(tiny_config())
    assert limits == [preflight.BASE_FILES + 2 * preflight.FILES_PER_PROCESS + 5 * preflight.FILES_PER_GAME, hard]


def test_a_limit_of_open_files_that_suffices_stays(limits):
    preflight.check(tiny_config())
    assert limits == [1024, 4096]


@pytest.mark.parametrize(("hard", "actors", "fits"), [(64, 1, False), (256, 1, True), (256, 50, False)])
def test_too_few_open_files_are_refused_with_what_is_needed(limits, hard, actors, fits):
    limits[:] = hard, hard
    config = tiny_config(f"actors.count={actors}", f"learner.batch_size={5 * actors}")
    if fits:
        preflight.check(config)
    else:
        with pytest.raises(
            UserError, match=rf"^open files: ulimit -Hn is {hard}, \d+ are needed; raise it .*--ulimit"
        ):
            preflight.check(config)
