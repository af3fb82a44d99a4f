from types import SimpleNamespace

import torch

from sppo_lab.config import Config
from sppo_lab.selection import groups_with_signal, kept_rows


class Batch(SimpleNamespace):
    def __len__(self):
        return len(self.rewards)


def batch(rewards: list[float], advantages: list[float]) -> Batch:
    return Batch(rewards=torch.tensor(rewards), advantages=torch.tensor(advantages)[:, None])


def test_a_group_has_signal_where_its_rewards_differ():
    rewards = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    assert groups_with_signal(rewards, 2).tolist() == [False, True, False]


def test_everything_is_kept_by_default():
    config = Config(group_size=2, filter_groups=False, prune=0.0)
    assert kept_rows(batch([1, 1, 0, 0], [0, 0, 0, 0]), config).tolist() == [0, 1, 2, 3]


def test_groups_without_signal_are_left_out_and_surplus_ones_too():
    config = Config(group_size=2, filter_groups=True, prune=0.0, prompts_per_step=2)
    rewards = [1, 1, 0, 1, 1, 0, 0, 1]
    assert kept_rows(batch(rewards, [0.0] * 8), config).tolist() == [2, 3, 4, 5]
    assert kept_rows(batch([1, 1, 0, 0], [0.0] * 4), config).tolist() == [0, 1, 2, 3]  # nothing better to do


def test_pruning_keeps_the_largest_advantages_of_each_group():
    config = Config(group_size=4, filter_groups=False, prune=0.5)
    advantages = [0.1, -0.9, 0.5, 0.2, -0.3, 0.1, 0.2, -0.4]
    assert kept_rows(batch([0.0] * 8, advantages), config).tolist() == [1, 2, 4, 7]
