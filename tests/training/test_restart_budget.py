from types import SimpleNamespace

import pytest

from impala_mi.errors import GivenUp
from impala_mi.training.restart_budget import BUDGET_S, RestartBudget, reason_of


def test_so_many_deaths_in_an_hour_and_not_one_more():
    clock = SimpleNamespace(time=1000.0)
    budget = RestartBudget(2, "actors.max_restarts", lambda: clock.time)
    budget.spend("one")
    clock.time += BUDGET_S - 1
    budget.spend("two")
    with pytest.raises(GivenUp, match=r"3 deaths in an hour, more than actors.max_restarts=2; the last: three"):
        budget.spend("three")
    assert budget.total == 3


def test_deaths_of_more_than_an_hour_ago_are_forgiven():
    clock = SimpleNamespace(time=1000.0)
    budget = RestartBudget(1, "x", lambda: clock.time)
    for _ in range(5):
        budget.spend("again")
        clock.time += BUDGET_S + 1
    assert budget.total == 5


def test_a_limit_of_zero_allows_no_death():
    with pytest.raises(GivenUp):
        RestartBudget(0, "x").spend("first")


def test_a_reason_is_one_line():
    assert reason_of(ValueError("a long\nstory\n")) == "story"
    assert reason_of(ValueError()) == "ValueError()"
    outer = RuntimeError("outside")
    outer.cause = ValueError("inside")
    assert reason_of(outer) == "inside"
