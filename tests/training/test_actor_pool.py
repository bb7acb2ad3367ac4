"""Budgets of deaths; the rest of the fleet is Ray's, see tests/integration."""

import pytest

from impala_mi.errors import GivenUp
from impala_mi.training.actor_pool import BUDGET_S, Budget, reason_of


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("impala_mi.training.actor_pool.time.monotonic", lambda: now[0])
    return now


def test_so_many_deaths_in_an_hour_and_not_one_more(clock):
    budget = Budget(2, "actors.max_restarts")
    budget.spend("one")
    clock[0] += BUDGET_S - 1
    budget.spend("two")
    with pytest.raises(GivenUp, match=r"3 deaths in an hour, more than actors.max_restarts=2; the last: three"):
        budget.spend("three")
    assert budget.total == 3


def test_deaths_of_more_than_an_hour_ago_are_forgiven(clock):
    budget = Budget(1, "x")
    for _ in range(5):
        budget.spend("again")
        clock[0] += BUDGET_S + 1
    assert budget.total == 5


def test_none_allowed(clock):
    with pytest.raises(GivenUp):
        Budget(0, "x").spend("first")


def test_a_reason_is_one_line():
    assert reason_of(ValueError("a long\nstory\n")) == "story"
    assert reason_of(ValueError()) == "ValueError()"
    outer = RuntimeError("outside")
    outer.cause = ValueError("inside")
    assert reason_of(outer) == "inside"
