"""Twelve real mistakes as switches on the real loop: ``with ROOMS[1].switched_on(): Trainer(config).train_step()``."""

from sppo_lab.museum.rooms import CASES, ROOMS, Bug
from sppo_lab.museum.watch import first_batch, scored_tokens, some_problems, watch

__all__ = ["CASES", "ROOMS", "Bug", "first_batch", "scored_tokens", "some_problems", "watch"]
