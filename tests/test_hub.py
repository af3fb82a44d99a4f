"""The hub as it answers, and as it does not: no test here uses the network."""

import socket

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from transformers import AutoModelForCausalLM

from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.hub import hub_access
from sppo_lab.models import load_policy
from sppo_lab.tasks import load_task
from sppo_lab.tasks.benchmarks import read_benchmark


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
    with pytest.raises(LabError, match=r"cannot load model .owner/name.: .*hub does not answer.*hf download"):
        load_policy(Config(model="owner/name"))
    with pytest.raises(LabError, match=r"hub does not answer.*'openai/gsm8k'.*--benchmarks NAME=FILE"):
        load_task("gsm8k")


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


def refusal(kind):
    """One of the hub's exceptions, without the HTTP response that it usually carries."""
    return kind.__new__(kind)


def test_a_gated_model_says_how_to_get_in(answer, monkeypatch):
    answer(refusal(GatedRepoError))
    with pytest.raises(
        LabError, match=r"'owner/name' is gated: accept its terms at https://huggingface\.co/owner/name "
    ):
        load_policy(Config(model="owner/name"))
    answer(None)  # the hub describes the model, and refuses its files

    def from_pretrained(*_, **__):
        raise OSError("You are trying to access a gated repo.") from refusal(GatedRepoError)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(LabError, match=r"'owner/name' is gated.*hf auth login"):
        load_policy(Config(model="owner/name"))


def test_a_gated_data_set_too(answer):
    answer(refusal(GatedRepoError))
    with pytest.raises(LabError, match=r"is gated: .*https://huggingface\.co/datasets/openai/gsm8k"):
        load_task("gsm8k")


def test_a_hub_that_does_not_answer_is_asked_once_and_says_nothing_itself(monkeypatch, capfd):
    """Whatever the libraries would try, they may not: no connection is opened but the one question."""
    asked = []

    def connect(*arguments, **options):
        asked.append(arguments)
        raise OSError("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", connect)
    for load in (lambda: load_policy(Config(model="owner/name")), lambda: load_task("aime24", None, None)):
        with pytest.raises(LabError):
            load()
    with pytest.raises(LabError, match="hub does not answer"):
        read_benchmark("aime24")
    assert len(asked) == 2  # the model and the benchmark, each once
    assert capfd.readouterr().err == ""
