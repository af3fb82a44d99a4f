import pytest

from sppo_lab.algorithms import ALGORITHMS, UNSET, get_algorithm
from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.loss import TOKEN_WEIGHTS
from sppo_lab.models import critic_model_name


def test_rows_are_consistent():
    for name, row in ALGORITHMS.items():
        filled = row.fill(Config(algorithm=name))
        assert row.name == name and row.summary and filled.aggregation in TOKEN_WEIGHTS
        assert filled.group_size >= row.min_group_size
        assert not row.small_critic or row.baseline == "prompt"
        assert all(getattr(filled, setting) is not None for setting in UNSET)


def test_the_user_has_the_last_word_on_what_a_row_sets():
    assert get_algorithm("grpo").fill(Config()).group_size == 8
    chosen = Config(group_size=4, advantage_scale="none", epsilon_high=0.5)
    filled = get_algorithm("dapo").fill(chosen)
    assert (filled.group_size, filled.advantage_scale, filled.epsilon_high) == (4, "none", 0.5)
    assert filled.filter_groups and get_algorithm("dapo").fill(Config()).epsilon_high == 0.28


def test_an_unknown_algorithm_is_refused():
    with pytest.raises(LabError, match="unknown algorithm 'ppox': choose one of sppo,"):
        get_algorithm("ppox")


def test_the_critics_backbone_follows_the_row():
    assert critic_model_name(Config()) == "tiny"
    assert critic_model_name(Config(algorithm="sppo-small-critic")) == "tiny-small"
    assert critic_model_name(Config(critic_model="other")) == "other"
    with pytest.raises(LabError, match="needs a critic smaller than 'some/model'"):
        critic_model_name(Config(algorithm="sppo-small-critic", model="some/model"))
