import dataclasses
import json

import pytest

from sppo_lab.config import TIERS, Config
from sppo_lab.errors import LabError


@pytest.mark.parametrize("tier", TIERS)
def test_the_defaults_of_every_tier_are_allowed_and_survive_saving(tier):
    config = Config.for_tier(tier)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_every_field_is_documented():
    assert all(len(setting.metadata["help"]) > 15 for setting in dataclasses.fields(Config))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("lr", 0.0, r"lr = 0.0 is not allowed: expected a finite number above 0, at most 1"),
        ("lr", float("nan"), "lr = nan is not allowed"),
        ("lora_alpha", float("inf"), "lora_alpha = inf is not allowed"),
        ("lr", "fast", "lr = 'fast' is not of type float"),
        ("steps", -1, "steps = -1 is not allowed: expected a whole number at least 0"),
        ("steps", 2.5, "steps = 2.5 is not of type int"),
        ("steps", True, "steps = True is not of type int"),
        ("epsilon", 1.5, "at most 1"),
        ("dtype", "float8", "one of auto, float32, bfloat16, float16"),
        ("algorithm", " ", "a non-empty text"),
        ("model", None, "model = None is not of type str"),
        ("group_size", 0, "at least 1"),
    ],
)
def test_a_wrong_value_is_refused_with_the_allowed_range(field, value, message):
    with pytest.raises(LabError, match=message):
        Config(**{field: value})


def test_whole_numbers_count_as_floats_and_none_where_allowed():
    assert Config(lora_alpha=16, epsilon_high=None).lora_alpha == 16


def test_an_unknown_setting_or_tier_is_refused():
    with pytest.raises(LabError, match=r"unknown setting learning_rate. The settings are: .*\blr\b"):
        Config.from_dict({"learning_rate": 1e-3})
    with pytest.raises(LabError, match="choose one of tiny, gpu"):
        Config.for_tier("huge")


def test_a_changed_copy_is_checked_too():
    with pytest.raises(LabError):
        Config().replace(temperature=0.0)


def test_the_options_say_what_differs_from_the_defaults():
    assert Config().options() == []
    assert Config(lr=8e-4, filter_groups=False, mask_truncated=True).options() == [
        *("--no-filter-groups", "--lr", "0.0008", "--mask-truncated"),
    ]
