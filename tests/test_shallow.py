import pytest
from transformers import AutoConfig

from sppo_lab import shallow
from sppo_lab.models import load_model_config
from sppo_lab.shallow import pattern, rehearsed_depths, shallow_model, with_layers


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_shallow_model_keeps_everything_but_its_depth(random_models, tmp_path, architecture):
    name = random_models[architecture]
    small, whole = AutoConfig.from_pretrained(shallow_model(name, 1, tmp_path)), AutoConfig.from_pretrained(name)
    assert (small.num_hidden_layers, whole.num_hidden_layers) == (1, 2)
    assert (small.hidden_size, small.vocab_size) == (whole.hidden_size, whole.vocab_size)


def test_lists_with_an_entry_per_layer_are_cut_too(unusual_model):
    config = load_model_config(unusual_model("qwen3_5_text"))
    assert config.layer_types == ["linear_attention", "full_attention"]
    cut = with_layers(config, 1)
    assert (cut.num_hidden_layers, cut.layer_types, cut.hidden_size) == (1, ["linear_attention"], config.hidden_size)


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


def test_half_of_a_model_is_rehearsed_or_a_few_layers_of_a_large_one(random_models):
    config = AutoConfig.from_pretrained(random_models["llama"])
    depths = {}
    for inner in (32, 4096, 65536):  # a layer has about 1, 50 and 800 million weights
        sizes = {"hidden_size": 4096, "intermediate_size": inner, "num_hidden_layers": 40}
        depths[inner] = rehearsed_depths(type(config).from_dict(config.to_dict() | sizes))
    assert depths == {32: (1, 20), 4096: (1, 11), 65536: (1, 5)}


def test_an_architecture_that_cannot_have_fewer_layers_is_rehearsed_whole(random_models, monkeypatch):
    monkeypatch.setattr(shallow, "with_layers", lambda config, layers: 1 / 0)
    assert rehearsed_depths(AutoConfig.from_pretrained(random_models["llama"])) == (2, 2)
