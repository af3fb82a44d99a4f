"""The hub as it answers, and as it does not: no test here uses the network."""

import huggingface_hub
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.hub import hub_access
from sppo_lab.models import load_policy


@pytest.fixture
def answer(monkeypatch):
    """Let the hub answer by raising the given exception, or, for None, by knowing the repository."""

    def set_answer(exception):
        def repo_info(self, name, *, repo_type, timeout):
            if exception is not None:
                raise exception

        monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)

    return set_answer


@pytest.mark.parametrize("exception", [OSError("no network"), RuntimeError("some proxy")])
def test_without_an_answer_the_libraries_work_from_their_cache(answer, exception):
    answer(exception)
    before = huggingface_hub.constants.HF_HUB_OFFLINE
    with hub_access("owner/name", "model"):
        assert huggingface_hub.constants.HF_HUB_OFFLINE
    assert before == huggingface_hub.constants.HF_HUB_OFFLINE
    with pytest.raises(LabError, match=r"cannot load model .owner/name.: .*or a name on the hub"):
        load_policy(Config(model="owner/name"))


def test_with_an_answer_they_are_left_alone(answer):
    answer(None)
    before = huggingface_hub.constants.HF_HUB_OFFLINE
    with hub_access("owner/name", "dataset"):
        assert before == huggingface_hub.constants.HF_HUB_OFFLINE


def test_a_name_that_the_hub_does_not_know_is_refused(answer):
    error = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    answer(error)
    with pytest.raises(LabError, match="the hub has no model 'owner/nmae'"):
        load_policy(Config(model="owner/nmae"))
