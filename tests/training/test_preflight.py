"""Checks of a configuration before anything starts."""

import pytest

from impala_mi.envs.suites import make_suite
from impala_mi.errors import UserError
from impala_mi.training import preflight
from impala_mi.types import leaves
from tests.tiny import tiny_config


def test_an_invalid_mirror_is_refused():
    with pytest.raises(UserError, match=r"^run.mirror='nonsense://x': "):
        preflight.check(tiny_config("run.mirror=nonsense://x"))


def test_the_object_store_holds_the_recurrent_states_of_rollouts(monkeypatch):
    config, buffers = tiny_config("agent.core=lstm", "actors.envs=5"), []
    make = preflight.transitions_buffer
    monkeypatch.setattr(preflight, "transitions_buffer", lambda *args: buffers.append(make(*args)) or buffers[-1])
    preflight.object_store_bytes(config, make_suite(config.env))
    assert {state.shape for state in leaves(buffers[0].state)} == {(5, config.agent.core_width)}
