from dataclasses import replace

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from sppo_lab import budget
from sppo_lab.budget import Cost, measure, predict, shrunken
from sppo_lab.cli import main
from sppo_lab.config import Config
from sppo_lab.errors import LabError

SMALL = {"prompts_per_step": 4, "max_new_tokens": 12, "device": "cpu"}


@pytest.fixture
def deep(random_models, tmp_path) -> str:
    """A random llama of seven layers."""
    config = AutoConfig.from_pretrained(random_models["llama"])
    config.num_hidden_layers = 7
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "deep")
    budget.load_tokenizer(random_models["llama"]).save_pretrained(tmp_path / "deep")
    return str(tmp_path / "deep")


def layers(name: str) -> int:
    return budget.load_model_config(name).num_hidden_layers


def test_a_cost_that_is_linear_in_the_layers_is_found_exactly(deep, random_models, monkeypatch):
    """Policy and critic differ in depth and in what a layer of theirs costs."""

    def cost(config: Config) -> Cost:
        policy, critic = layers(config.model), layers(config.critic_model)
        return Cost(50 + policy, 100 + 7 * policy + 30 * critic, 1 + 0.25 * policy, 2 + 0.5 * policy + 1.5 * critic)

    config = Config(model=deep, critic_model=random_models["llama"], **SMALL)
    monkeypatch.setattr(budget, "measure", cost)
    found, expected = predict(config), cost(config)
    assert found.memory_mb == pytest.approx(expected.memory_mb)
    assert found.sample_seconds == pytest.approx(expected.sample_seconds)
    assert found.seconds == pytest.approx(expected.seconds)


def test_one_backbone_for_both_is_rehearsed_together(deep, monkeypatch):
    seen = []

    def cost(config: Config) -> Cost:
        seen.append((layers(config.model), config.critic_model))
        return Cost(0.0, layers(config.model), 0.0, 0.0)

    monkeypatch.setattr(budget, "measure", cost)
    for settings in ({}, {"critic": "adapter"}, {"algorithm": "grpo"}):
        assert predict(Config(model=deep, **SMALL, **settings)).memory_mb == pytest.approx(7)
    assert seen == [(1, None), (5, None)] * 3


def test_the_peak_of_a_deep_model_may_be_in_loading_it(deep, monkeypatch):
    """With 1 and 5 layers a step needs more than loading; with 7 it does not."""

    def cost(config: Config) -> Cost:
        loading, step = 20 * layers(config.model), 100 + 4 * layers(config.model)
        return Cost(loading, max(loading, step), 0.0, 0.0)

    monkeypatch.setattr(budget, "measure", cost)
    assert predict(Config(model=deep, **SMALL)).memory_mb == pytest.approx(140)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_shrunken_model_keeps_everything_but_its_depth(random_models, tmp_path, architecture):
    name = random_models[architecture]
    small, whole = AutoConfig.from_pretrained(shrunken(name, 1, tmp_path)), AutoConfig.from_pretrained(name)
    assert (small.num_hidden_layers, whole.num_hidden_layers) == (1, 2)
    assert (small.hidden_size, small.vocab_size) == (whole.hidden_size, whole.vocab_size)


@pytest.mark.slow
def test_the_command_says_what_a_step_needs_and_compares(capsys):
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    assert main(["budget", "--measure", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "4 responses of 12 tokens" in printed
    row = next(line for line in printed.splitlines() if "peak memory" in line)
    assert 0.8 < float(row.split()[-1]) < 1.2


def test_every_response_of_a_rehearsal_runs_to_its_limit(monkeypatch):
    lengths = []
    step = budget.Trainer.train_step

    def noted(trainer):
        record = step(trainer)
        lengths.append(record.metrics["completions/mean_length"])
        return record

    monkeypatch.setattr(budget.Trainer, "train_step", noted)
    cost = budget.rehearse(Config(**SMALL))
    assert lengths == [12, 12, 12] and cost.memory_mb > 100 and cost.seconds > 0


def test_the_faster_of_two_warm_steps_counts(monkeypatch):
    times = iter([(9.0, 5.0), (4.0, 1.0), (3.0, 2.0)])  # the first warms up; other work slows the second down
    step = budget.Trainer.train_step

    def timed(trainer):
        record = step(trainer)
        whole, update = next(times)
        return replace(record, metrics=record.metrics | {"step_time": whole, "time/update": update})

    monkeypatch.setattr(budget.Trainer, "train_step", timed)
    cost = budget.rehearse(Config(**SMALL))
    assert (cost.sample_seconds, cost.update_seconds) == (1.0, 2.0)


def test_a_step_that_fails_in_its_own_process_gives_its_message(tmp_path):
    with pytest.raises(LabError, match="no such directory"):
        measure(Config(model=str(tmp_path / "nothing"), **SMALL))
