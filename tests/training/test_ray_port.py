"""Errors of Ray's connection, and errors of remote calls that look like them."""

import pytest
import ray

from impala_mi.errors import TrainingError
from impala_mi.training.ray_port import RAY

CALLS = {
    "wait": lambda: RAY.wait([]), "get": lambda: RAY.get(None), "put": lambda: RAY.put(1), "nodes": RAY.alive_nodes,
}  # fmt: skip


def raising(error):
    def call(*_, **__):
        raise error

    return call


@pytest.mark.parametrize("name", CALLS)
def test_a_lost_connection_is_said_to_be_one(name, monkeypatch):
    monkeypatch.setattr(ray, name, raising(OSError("Broken pipe")))
    with pytest.raises(TrainingError, match=r"process of Ray that the run needs has ended .*: Broken pipe"):
        CALLS[name]()


@pytest.mark.parametrize(
    "error", [ray.exceptions.GetTimeoutError("late"), ray.exceptions.ObjectLostError("a", None, "")]
)
def test_other_errors_of_ray_stay_as_they_are(error, monkeypatch):
    monkeypatch.setattr(ray, "get", raising(error))
    with pytest.raises(type(error)):
        RAY.get(None)
    assert isinstance(ray.exceptions.GetTimeoutError(), OSError)
