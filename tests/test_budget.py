from dataclasses import replace

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from sppo_lab import budget
from sppo_lab.budget import Cost, measure, pattern, predict, rehearsed_depths, shrunken, with_layers
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


@pytest.mark.parametrize(
    ("kinds", "found"),
    [
        ("a", (1, 1)),
        ("aaaa", (1, 1)),
        ("ab", (2, 1)),
        ("abbbbb", (2, 1)),
        ("aaabaaabaaab", (4, 4)),
        ("aaabaaabaa", (4, 4)),
        ("abcbcbc", (3, 2)),
        ("abcd", (4, 1)),
    ],
)
def test_the_pattern_of_the_layers(kinds, found):
    assert pattern(kinds) == found


def test_layers_that_differ_are_rehearsed_by_whole_repeats(unusual_model, tmp_path, monkeypatch):
    """Twelve layers, one recurrent before two of attention, which cost more."""
    small = budget.load_model_config(unusual_model("qwen3_5_text"))
    unit = ["linear_attention", "full_attention", "full_attention"]
    whole = type(small).from_dict(small.to_dict() | {"num_hidden_layers": 12, "layer_types": unit * 4})
    whole.save_pretrained(tmp_path)
    budget.load_tokenizer(unusual_model("qwen3_5_text")).save_pretrained(tmp_path)
    assert rehearsed_depths(whole) == (3, 9)
    assert with_layers(whole, 6).layer_types == whole.layer_types[:6]
    seen = []

    def cost(config: Config) -> Cost:
        kinds = budget.load_model_config(config.model).layer_types
        seen.append(len(kinds))
        recurrent = kinds.count("linear_attention")
        return Cost(0.0, 10 + recurrent + 5 * (len(kinds) - recurrent), 0.0, 0.0, "generate")

    monkeypatch.setattr(budget, "measure", cost)
    predicted = predict(Config(model=str(tmp_path), algorithm="grpo", **SMALL))
    assert seen == [3, 9] and predicted.memory_mb == pytest.approx(10 + 4 + 5 * 8)


def test_half_of_a_model_is_rehearsed_or_a_few_layers_of_a_large_one(random_models):
    config = AutoConfig.from_pretrained(random_models["llama"])
    depths = {}
    for inner in (32, 4096, 65536):  # a layer has about 1, 50 and 800 million weights
        sizes = {"hidden_size": 4096, "intermediate_size": inner, "num_hidden_layers": 40}
        depths[inner] = rehearsed_depths(type(config).from_dict(config.to_dict() | sizes))
    assert depths == {32: (1, 20), 4096: (1, 11), 65536: (1, 5)}


def test_an_architecture_that_cannot_have_fewer_layers_is_rehearsed_whole(random_models, monkeypatch):
    monkeypatch.setattr(budget, "with_layers", lambda config, layers: 1 / 0)
    assert rehearsed_depths(AutoConfig.from_pretrained(random_models["llama"])) == (2, 2)


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
