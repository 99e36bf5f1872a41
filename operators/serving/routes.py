"""The state machine of each policy.

Lives here: which class runs what a definition says.  Never here: anything that it does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from operators.race.losses import Objective
from operators.race.routing import Bandit, Canary, Policy, Routing, Split, Switchback
from operators.serving.bandits import BanditMachine
from operators.serving.canary import CanaryMachine
from operators.serving.policy_machine import Setting
from operators.serving.split import SplitMachine
from operators.serving.switchback import SwitchbackMachine
from topics.messages import Task

__all__ = ["routing_of"]


def routing_of(
    policy: Policy | None,
    setting: Setting,
    *,
    task: Task,
    threshold: float,
    objective: Objective,
    dump: Callable[[Any], bytes],
    load: Callable[[bytes], Any],
) -> Routing | None:
    """Return the state machine of a policy, its first table in place; None where the champion answers all.

    `objective` is what the race is judged by.
    """
    setting.arena.roster.routing = setting.arena.canary = None
    match policy:
        case Canary():
            return CanaryMachine(policy, setting, task, threshold, objective)
        case Split():
            return SplitMachine(policy, setting)
        case Switchback():
            return SwitchbackMachine(policy, setting)
        case Bandit():
            return BanditMachine(policy, setting, dump, load)
    return None
