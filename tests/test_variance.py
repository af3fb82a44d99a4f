import numpy as np
import pytest
import torch

from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.evaluate import Evaluation
from sppo_lab.experiment import Experiment
from sppo_lab.models import trainable_parameters
from sppo_lab.trainer import Trainer
from sppo_lab.variance import (
    gradient_noise,
    policy_gradient,
    separation_by_position,
    split_along,
    split_evaluation,
    split_second_moment,
    trainer_at,
)

SMALL = {"prompts_per_step": 8, "max_new_tokens": 16, "steps": 1}


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


@pytest.mark.parametrize("algorithm", ["sppo", "grpo", "ppo"])
def test_the_gradient_is_that_of_the_first_update(algorithm, small_task):
    config = Config(algorithm=algorithm, mini_batches=1, max_grad_norm=1e9, **SMALL)
    trainer = Trainer(config, small_task)
    _, sampled = trainer.collect()
    trainer.form_advantages(sampled)
    found = policy_gradient(trainer, trainer.select(sampled))
    wanted = Trainer(config, small_task).train_step().metrics["policy/grad_norm"]
    assert float(found.norm()) == pytest.approx(wanted, rel=1e-4)


def test_measuring_changes_nothing_that_is_trained(small_task):
    trainer = Trainer(Config(**SMALL), small_task)
    before = {name: weight.clone() for name, weight in trainer.policy.model.state_dict().items()}
    noise = gradient_noise(trainer, repeats=3)
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.policy.model.state_dict().items())
    assert all(weight.grad is None or not weight.grad.any() for weight in trainer.learner.parameters)
    assert noise.rollouts == 8 and noise.repeats == 3
    low, high = noise.variance_interval
    assert 0 < low <= noise.variance <= high
    with pytest.raises(LabError, match="at least 2 repeats"):
        gradient_noise(trainer, repeats=1)


def test_the_variance_falls_as_one_over_the_rollouts(small_task):
    """Four times the prompts, a quarter of the variance; and that is how another budget is accounted for."""
    settings = SMALL | {"max_new_tokens": 6}
    small = gradient_noise(Trainer(Config(algorithm="sppo", **settings), small_task), 60)
    large = gradient_noise(Trainer(Config(algorithm="sppo", **settings | {"prompts_per_step": 32}), small_task), 60)
    assert 2 < small.variance / large.variance < 8
    rescaled = gradient_noise(Trainer(Config(algorithm="sppo", **settings), small_task), 60, rollouts=32)
    assert rescaled.variance == pytest.approx(small.variance / 4) and rescaled.rollouts == 32


def test_separation_is_chance_where_values_know_nothing_and_certain_where_they_do():
    generator = torch.Generator().manual_seed(0)
    rewards = (torch.rand(3000, generator=generator) < 0.5).float()
    lengths = torch.randint(10, 20, (3000,), generator=generator)
    values = torch.rand(3000, 20, generator=generator)
    late = torch.arange(20) >= 0.8 * lengths[:, None]
    values = torch.where(late, rewards[:, None], values)
    middles, areas = separation_by_position(values, rewards, lengths)
    assert len(middles) == 10 and middles[0] == pytest.approx(0.05)
    assert np.abs(areas[:7] - 0.5).max() < 0.05 and areas[-1] == 1.0
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
    splits = split_along(run, samples=2, prompts=4)
    assert list(splits) == [1, 2] and all(0 <= split.noise <= 0.5 for split in splits.values())
