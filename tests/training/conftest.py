import pytest

from tests.training.fakes import World


@pytest.fixture
def world() -> World:
    return World()
