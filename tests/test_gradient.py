import numpy as np
import pytest
import torch
from scipy import stats

from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.gradient import (
    GradientSample,
    cosine,
    gradient_noise,
    jackknife,
    policy_gradient,
    sample_gradients,
)
from sppo_lab.trainer import Trainer

SMALL = {"prompts_per_step": 8, "max_new_tokens": 16, "steps": 1}


def made_up(mean: torch.Tensor, repeats: int, spread: float = 1.0, seed: int = 0) -> GradientSample:
    """Normal gradients around a mean: trace of the covariance ``spread^2 D``."""
    noise = torch.randn(repeats, len(mean), generator=torch.Generator().manual_seed(seed))
    return GradientSample("made up", 64, mean + spread * noise, 0.0, 0.2)


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
    noise = gradient_noise(sample_gradients(trainer, repeats=3))
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.policy.model.state_dict().items())
    assert all(weight.grad is None or not weight.grad.any() for weight in trainer.learner.parameters)
    assert noise.rollouts == 8 and noise.repeats == 3
    low, high = noise.variance_interval
    assert 0 <= low < noise.variance < high
    with pytest.raises(LabError, match="at least 3 repeats"):
        sample_gradients(trainer, repeats=2)


def test_the_variance_falls_as_one_over_the_rollouts(small_task):
    """Four times the prompts, a quarter of the variance; and that is how another budget is accounted for."""
    settings = SMALL | {"max_new_tokens": 6}

    def measured(prompts: int) -> GradientSample:
        return sample_gradients(Trainer(Config(**settings | {"prompts_per_step": prompts}), small_task), 60)

    few, many = measured(8), measured(32)
    small, large = gradient_noise(few), gradient_noise(many)
    assert 2 < small.variance / large.variance < 8
    rescaled = gradient_noise(few, rollouts=32)
    assert rescaled.variance == pytest.approx(small.variance / 4) and rescaled.rollouts == 32
    assert rescaled.signal == pytest.approx(small.signal)


def test_the_jackknife_of_a_mean_is_students_t():
    values = np.random.default_rng(0).normal(size=12)
    (estimate,), ((low, high),) = jackknife(lambda kept: np.array([values[kept].mean()]), len(values))
    wanted = stats.ttest_1samp(values, 0).confidence_interval()
    assert estimate == pytest.approx(values.mean()) and (low, high) == pytest.approx((wanted.low, wanted.high))


def test_variance_signal_and_ratio_are_those_of_the_distribution():
    """D = 50, spread 0.5: trace 12.5; a mean of length 2: signal 4.  The intervals hold the truth about as often."""
    mean = torch.zeros(50)
    mean[0] = 2.0
    found = [gradient_noise(made_up(mean, 30, spread=0.5, seed=seed)) for seed in range(100)]
    assert np.mean([noise.variance for noise in found]) == pytest.approx(12.5, rel=0.02)
    assert np.mean([noise.signal for noise in found]) == pytest.approx(4.0, rel=0.05)
    assert np.mean([n.signal_to_noise_interval[0] <= 4 / 12.5 <= n.signal_to_noise_interval[1] for n in found]) > 0.88
    one = found[0]
    assert one.noise_to_signal == pytest.approx(1 / one.signal_to_noise)
    assert one.noise_to_signal_interval[0] < one.noise_to_signal < one.noise_to_signal_interval[1]


def test_without_a_signal_the_ratio_has_no_end():
    noise = gradient_noise(made_up(torch.zeros(50), 10))
    assert noise.signal_to_noise_interval[0] < 0 and noise.noise_to_signal_interval[1] == float("inf")


def test_without_any_gradient_there_is_neither_noise_nor_signal():
    noise = gradient_noise(GradientSample("grpo", 64, torch.zeros(4, 10), 1.0, 0.0))
    assert (noise.variance, noise.signal, noise.signal_to_noise) == (0, 0, 0) and noise.noise_to_signal == float("inf")


def test_the_cosine_is_that_of_the_means_and_not_of_the_noise():
    first, second = torch.zeros(40), torch.zeros(40)
    first[0], second[0], second[1] = 3.0, 3.0, 3.0  # 45 degrees
    found = [cosine(made_up(first, 30, seed=2 * i), made_up(second, 20, seed=2 * i + 1)) for i in range(60)]
    assert np.mean([value for value, _ in found]) == pytest.approx(0.5**0.5, abs=0.02)
    assert np.mean([low <= 0.5**0.5 <= high for _, (low, high) in found]) > 0.85


def test_two_repeats_are_refused_before_training(small_task):
    with pytest.raises(LabError, match="at least 3 batches"):
        Trainer(Config(gradient_repeats=2), small_task)
