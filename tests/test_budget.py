from dataclasses import replace

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from sppo_lab import budget, shallow
from sppo_lab.budget import Cost, budget_report, measure, predict
from sppo_lab.cli import main
from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.models import load_model_config, load_tokenizer
from sppo_lab.shallow import rehearsed_depths

SMALL = {"prompts_per_step": 4, "max_new_tokens": 12, "device": "cpu"}


@pytest.fixture
def deep(random_models, tmp_path) -> str:
    """A random llama of seven layers."""
    config = AutoConfig.from_pretrained(random_models["llama"])
    config.num_hidden_layers = 7
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "deep")
    load_tokenizer(random_models["llama"]).save_pretrained(tmp_path / "deep")
    return str(tmp_path / "deep")


def layers(name: str) -> int:
    return load_model_config(name).num_hidden_layers


@pytest.mark.parametrize(("room", "rehearsals"), [(2**31, 2), (0, 3)])
def test_a_cost_that_is_linear_in_the_layers_is_found_exactly(deep, random_models, monkeypatch, room, rehearsals):
    """Policy and critic differ in depth and in what a layer of theirs costs; a critic with room is rehearsed whole."""
    monkeypatch.setattr(shallow, "ROOM", room)
    seen = []

    def cost(config: Config) -> Cost:
        policy, critic = layers(config.model), layers(config.critic_model)
        seen.append((policy, critic))
        return Cost(50 + policy, 100 + 7 * policy + 30 * critic, 1 + 0.25 * policy, 2 + 0.5 * policy + 1.5 * critic)

    config = Config(model=deep, critic_model=random_models["llama"], **SMALL)
    monkeypatch.setattr(budget, "measure", cost)
    found = predict(config)
    assert seen == ([(1, 2), (5, 2)] if rehearsals == 2 else [(1, 1), (5, 1), (1, 2)])
    expected = cost(config)
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


def test_layers_that_differ_are_rehearsed_by_whole_repeats(unusual_model, tmp_path, monkeypatch):
    """Twelve layers, one recurrent before two of attention, which cost more."""
    small = load_model_config(unusual_model("qwen3_5_text"))
    unit = ["linear_attention", "full_attention", "full_attention"]
    whole = type(small).from_dict(small.to_dict() | {"num_hidden_layers": 12, "layer_types": unit * 4})
    whole.save_pretrained(tmp_path)
    load_tokenizer(unusual_model("qwen3_5_text")).save_pretrained(tmp_path)
    assert rehearsed_depths(whole) == (3, 9)
    seen = []

    def cost(config: Config) -> Cost:
        kinds = load_model_config(config.model).layer_types
        seen.append(len(kinds))
        recurrent = kinds.count("linear_attention")
        return Cost(0.0, 10 + recurrent + 5 * (len(kinds) - recurrent), 0.0, 0.0, "generate")

    monkeypatch.setattr(budget, "measure", cost)
    predicted = predict(Config(model=str(tmp_path), algorithm="grpo", **SMALL))
    assert seen == [3, 9] and predicted.memory_mb == pytest.approx(10 + 4 + 5 * 8)


def test_what_is_wrong_with_a_rehearsal_is_said_of_the_users_model(deep, monkeypatch):
    def refuse(config: Config) -> Cost:
        raise LabError(f"model {config.model!r} is of no use.")

    monkeypatch.setattr(budget, "measure", refuse)
    with pytest.raises(LabError, match=f"^model '{deep}' is of no use"):
        predict(Config(model=deep, **SMALL))


@pytest.mark.parametrize(
    ("kind", "said"), [("rwkv", "padded on the left"), ("mamba", "peft cannot"), ("bert", "causal")]
)
def test_a_model_that_cannot_be_trained_has_no_budget(unusual_model, kind, said):
    with pytest.raises(LabError, match=f"'{unusual_model(kind)}'.*{said}|{said}.*'{unusual_model(kind)}'"):
        predict(Config(model=unusual_model(kind), **SMALL))


@pytest.mark.slow
def test_the_command_says_what_a_step_needs_and_compares(capsys):
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    assert main(["budget", "--measure", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "4 responses of 12 tokens per step, written by the sampler lab" in printed
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
    assert lengths == [12] * 4 and cost.memory_mb > 100 and cost.seconds > 0


def test_the_fastest_warm_step_counts(monkeypatch):
    times = iter([(2.0, 1.0), (4.0, 1.0), (3.0, 2.0), (3.5, 1.0)])  # the first does not count
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


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.1, "at most a minute"), (1.0, "at most 3 minutes"), (60.0, "at most 3.3 hours")]
)
def test_the_report_says_how_long_the_run_takes_at_most(seconds, said):
    report = budget_report(Config(steps=200), Cost(100.0, 200.0, seconds, 0.0), None, free=1000.0)
    assert said in report and "measured" not in report and "That is more than" not in report
    assert "That is more than the 150 MiB" in budget_report(Config(), Cost(100.0, 200.0, 1.0, 0.0), None, free=150.0)
