import numpy as np
import pytest
import torch

from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.evaluate import Evaluation
from sppo_lab.experiment import Experiment
from sppo_lab.models import trainable_parameters
from sppo_lab.variance import (
    separation_by_position,
    split_evaluation,
    split_second_moment,
    trainer_at,
)


def test_the_split_is_unbiased_for_any_number_of_samples():
    """Over many prompts, with two samples each as with sixteen, both parts are what p and V say."""
    rng = np.random.default_rng(0)
    p, v = rng.uniform(size=200_000), rng.uniform(size=200_000)
    for samples in (2, 16):
        found = split_second_moment(rng.binomial(samples, p), samples, v)
        assert found.noise == pytest.approx(np.mean(p * (1 - p)), abs=2e-3)
        assert found.error == pytest.approx(np.mean((p - v) ** 2), abs=2e-3)
    rewards = rng.uniform(size=len(p)) < p
    assert found.second_moment == pytest.approx(np.mean((rewards - v) ** 2), abs=3e-3)


def test_the_split_needs_a_critic_and_two_samples():
    without = Evaluation(4, [1, 2], [0, 1], 3.0, 0.0)
    with pytest.raises(LabError, match="no critic"):
        split_evaluation(without)
    with pytest.raises(LabError, match="at least 2 samples"):
        split_evaluation(Evaluation(1, [1, 0], [0, 1], 3.0, 0.0, values=[0.5, 0.5]))
    assert split_evaluation(Evaluation(2, [2, 0], [0, 1], 3.0, 0.0, values=[1.0, 0.0])).second_moment == 0


def test_separation_is_chance_where_values_know_nothing_and_certain_where_they_do():
    generator = torch.Generator().manual_seed(0)
    rewards = (torch.rand(3000, generator=generator) < 0.5).float()
    lengths = torch.randint(10, 20, (3000,), generator=generator)
    values = torch.rand(3000, 20, generator=generator)
    late = torch.arange(20) >= 0.8 * lengths[:, None]
    values = torch.where(late, rewards[:, None], values)
    found = separation_by_position(values, rewards, lengths)
    assert len(found.places) == 10 and found.places[0] == pytest.approx(0.05)
    assert np.abs(found.areas[:7] - 0.5).max() < 0.05 and found.areas[-1] == 1.0
    assert found.right[0] == pytest.approx(0.5, abs=0.05) and (found.right[-1], found.wrong[-1]) == (1, 0)
    with pytest.raises(LabError, match="only right or only wrong"):
        separation_by_position(values, torch.ones(3000), lengths)


def test_other_algorithms_at_the_policy_of_a_run(tmp_path):
    run = tmp_path / "run"
    config = Config(steps=2, prompts_per_step=8, max_new_tokens=12, eval_prompts=4, eval_samples=4, checkpoint_every=1)
    experiment = Experiment(config, run)
    list(experiment)
    trained = trainable_parameters(experiment.trainer.policy.model)
    for algorithm, prompts in (("sppo", 8), ("rloo", 1), ("remax", 4)):
        trainer = trainer_at(run, algorithm)
        assert trainer.config.prompts_per_step == prompts
        found = trainable_parameters(trainer.policy.model)
        assert all(torch.equal(weight, trained[name]) for name, weight in found.items())
    with pytest.raises(LabError, match="needs a trained baseline"):
        trainer_at(run, "ppo")
    trainer = trainer_at(run, "ppo-bce", step=1, warmup=2)  # its critic learns, the policy does not move
    reference = trainable_parameters(trainer_at(run, "sppo", step=1).policy.model)
    found = trainable_parameters(trainer.policy.model)
    assert all(torch.equal(weight, reference[name]) for name, weight in found.items())
    assert trainer.critic.head.weight.abs().sum() > 0
