"""Checks before a population starts that the machine or the cluster can run it."""

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
    """Suite and rule of a population; raises `UserError` if this machine cannot run it."""
    rule = make_rule(config.pbt)
    if not os.environ.get("RAY_ADDRESS"):  # the size of a cluster is known only after connecting to it
        check_capacity(config, make_suite(config.env), cores(), torch.cuda.device_count(), "this machine")
    return check(config, concurrent_members(config)), rule


def concurrent_members(config: PopulationConfig) -> int:
    """Number of members that train at a time."""
    return config.pbt.concurrent or config.pbt.members * config.pbt.populations


def check_capacity(config: PopulationConfig, suite: Suite, cpus: float, gpus: float, where: str) -> None:
    """Raise `UserError` if all members are to train at once and do not fit."""
    pbt, member = config.pbt, processors(config, len(suite.levels))
    capacity = int(min(cpus / member.cpus, gpus / member.gpus if member.gpus else math.inf))
    if member.gpus > gpus:
        return  # not even one member fits: `preflight.check` reports that
    if pbt.concurrent is None and capacity < pbt.members * pbt.populations:
        each = f"{member.cpus:g} CPUs" + (f" and {member.gpus:g} GPUs" if member.gpus else "")
        raise UserError(
            f"pbt.members={pbt.members} x pbt.populations={pbt.populations}: {where} can run {capacity} at once, "
            f"each with {each}; let them take turns: pbt.concurrent={max(1, capacity)}"
        )
