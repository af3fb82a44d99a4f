import pytest

from sppo_lab.algorithms import ALGORITHMS, get_algorithm
from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.loss import TOKEN_WEIGHTS
from sppo_lab.models import critic_model_name


def test_rows_are_consistent():
    for name, row in ALGORITHMS.items():
        assert row.name == name and row.summary and row.aggregation in TOKEN_WEIGHTS
        assert row.group_size >= row.min_group_size
        assert not row.small_critic or row.critic == "prompt"


def test_an_unknown_algorithm_is_refused():
    with pytest.raises(LabError, match="unknown algorithm 'ppox': choose one of sppo,"):
        get_algorithm("ppox")


def test_the_critics_backbone_follows_the_row():
    assert critic_model_name(Config()) == "tiny"
    assert critic_model_name(Config(algorithm="sppo-small-critic")) == "tiny-small"
    assert critic_model_name(Config(critic_model="other")) == "other"
    with pytest.raises(LabError, match="needs a critic smaller than 'some/model'"):
        critic_model_name(Config(algorithm="sppo-small-critic", model="some/model"))
