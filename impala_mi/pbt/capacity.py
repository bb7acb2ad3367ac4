"""Whether there is room for a population, found out before anything starts."""

import math
import os

import torch

from impala_mi.envs.base import Suite
from impala_mi.envs.suites import make_suite
from impala_mi.errors import UserError
from impala_mi.host.threads import cores
from impala_mi.pbt.exploit import Rule, make_rule
from impala_mi.pbt.settings import PopulationConfig
from impala_mi.training.preflight import check, processors


def check_population(config: PopulationConfig) -> tuple[Suite, Rule]:
    """The suite and the rule, if this machine can run the population; raises `UserError`."""
    rule = make_rule(config.pbt)
    if not os.environ.get("RAY_ADDRESS"):  # what a cluster has is known when we are connected
        check_room(config, make_suite(config.env), cores(), torch.cuda.device_count(), "this machine")
    return check(config, at_a_time(config)), rule


def at_a_time(config: PopulationConfig) -> int:
    """Members that train at a time."""
    return config.pbt.concurrent or config.pbt.members * config.pbt.populations


def check_room(config: PopulationConfig, suite: Suite, cpus: float, gpus: float, where: str) -> None:
    """Raise `UserError` where all members are to train at once and there is no room for them."""
    pbt, one = config.pbt, processors(config, len(suite.levels))
    fit = int(min(cpus / one.cpus, gpus / one.gpus if one.gpus else math.inf))
    if one.gpus > gpus:
        return  # not even one: for that there is another error
    if pbt.concurrent is None and fit < pbt.members * pbt.populations:
        each = f"{one.cpus:g} CPUs" + (f" and {one.gpus:g} GPUs" if one.gpus else "")
        raise UserError(
            f"pbt.members={pbt.members} x pbt.populations={pbt.populations}: {where} has room for {fit} at once, "
            f"each with {each}; let them take turns: pbt.concurrent={max(1, fit)}"
        )
