"""What the policy permits a caller or a task at this moment: its sections, and the rules that match now."""

from __future__ import annotations

from pathlib import Path

from ..policies.errors import ForbiddenError
from ..policies.restrictions import Restrictions
from .applications import restrictions_for
from .deciding import DecisionService
from .policy_service import PolicyService
from .sockets import Caller


class Permissions:
    """Answers for each request; a policy that has changed counts at once."""

    def __init__(self, policies: PolicyService, deciding: DecisionService, proc_root: Path) -> None:
        self._policies, self._deciding, self._proc_root = policies, deciding, proc_root

    def of(self, caller: Caller) -> Restrictions:
        """What is taken away from a caller as an application."""
        return restrictions_for(self._policies.policy, caller, self._proc_root)

    def check_training(self, caller: Caller) -> None:
        """Raise ForbiddenError where the caller, as an application, may not ask for training."""
        by = self.of(caller).no_training
        if by is not None:
            raise ForbiddenError(
                f"The policy's {by} does not let this application ask for training.",
                hint="The operator changes that in the policy: training = true.",
            )

    def check_examples(self, task: str, caller: Caller) -> None:
        """Raise ForbiddenError where no examples may be handed over for a task, or by the caller."""
        by = self._deciding.restrictions(task).and_also(self.of(caller)).no_examples
        if by is not None:
            raise ForbiddenError(
                f"The policy's {by} does not permit examples of task '{task}' to be handed over.",
                hint="Ask again when the rule no longer matches." if by.startswith("rule") else None,
            )
