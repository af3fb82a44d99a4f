import itertools

import numpy as np
import pytest

from sppo_lab.evaluate import Evaluation, critic_quality, evaluate, mean_interval, pass_at_k


@pytest.mark.parametrize(("n", "right", "k"), [(5, 2, 1), (5, 2, 3), (6, 0, 2), (4, 4, 2), (6, 5, 2)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_response(n, right, k):
    responses = [1] * right + [0] * (n - right)
    subsets = list(itertools.combinations(responses, k))
    assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    chances = rng.beta(2, 2, size=(200, 60))  # 200 experiments of 60 prompts, true mean 0.5
    covered = [low <= 0.5 <= high for low, high in map(mean_interval, chances)]
    assert 0.88 < np.mean(covered) <= 0.99


def test_the_interval_of_no_success_at_all_has_a_width():
    low, high = mean_interval(np.zeros(100))
    assert low == 0 and 0.02 < high < 0.06
    low, high = mean_interval(np.ones(100))
    assert 0.94 < low < 0.98 and high == 1
    assert mean_interval(np.full(10, 0.25)) == (0.25, 0.25)


def test_report_by_hand():
    found = Evaluation(2, [0, 1, 2, 2], [0, 1, 1, 1], 7.5, 0.25, [0.1, 0.5, 0.9, 0.9]).report()
    assert found["avg@2"] == 5 / 8 and found["pass@1"] == 5 / 8 and found["pass@2"] == 3 / 4
    assert found["greedy"] == 3 / 4 and found["mean_length"] == 7.5
    low, high = found["avg@2_interval"]
    assert 0 <= low < 5 / 8 < high <= 1
    assert found["critic"]["spearman"] == pytest.approx(1) and found["critic"]["squared_error"] < 0.01


def test_critic_quality_of_a_constant_is_undefined_not_nan():
    assert critic_quality(np.full(3, 0.5), np.array([0.0, 0.5, 1.0]))["pearson"] is None


def test_evaluation_counts_each_prompt_apart_and_repeats_with_its_seed(policy, small_task):
    options = {"samples": 8, "max_new_tokens": 30, "progress": quiet}
    first = evaluate(policy, small_task.test, small_task.rewards, **options)
    assert len(first.solved) == len(first.greedy) == 4
    assert first == evaluate(policy, small_task.test, small_task.rewards, **options)
    assert first.solved[1] > first.solved[2]  # 1+1 is easier than 9-4+2-1
    never = evaluate(policy, small_task.test, lambda responses, answers: [0.0] * len(responses), **options)
    assert never.solved == [0] * 4 and never.greedy == [0] * 4


class quiet:
    def __init__(self, **_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, count):
        pass
