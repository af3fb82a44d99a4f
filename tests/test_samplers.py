"""The samplers against each other, against ``generate``, and against the model's own probabilities."""

import contextlib
import warnings
from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare
from transformers.generation.continuous_batching.requests import GenerationOutput

from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.evaluate import evaluate
from sppo_lab.models import Policy, load_policy
from sppo_lab.rollout import encode_prompts, response_logprobs, sample
from sppo_lab.samplers import SAMPLERS
from sppo_lab.samplers.graph import recorded
from sppo_lab.trainer import Trainer

PROMPTS = ["7+5-3=", "1+1=", "9-4+2-1+8-3-3+5=", "3-8="]
OF_EVERY_KIND = ["tiny", "gpt2", "gemma3", "bloom", "mixtral", "qwen3_moe"]  # whose caches let rows go


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.fixture
def load(random_models, unusual_model):
    """A policy by the model's kind; many tokens end a response, so that lengths differ."""

    def load_one(kind: str, **settings) -> Policy:
        model = kind if kind == "tiny" else random_models.get(kind) or unusual_model(kind)
        policy = load_policy(Config(model=model, **settings))
        return policy if kind == "tiny" else replace(policy, stop_ids=(*policy.stop_ids, 5, 6, 7))

    return load_one


def generated_alone(policy: Policy, prompt: str, limit: int) -> list[int]:
    """Greedy tokens of ``transformers.generate`` for one prompt, so without padding."""
    ids, mask = encode_prompts(policy, [prompt], limit)
    settings = {"do_sample": False, "eos_token_id": list(policy.stop_ids), "pad_token_id": policy.pad_id}
    with torch.no_grad():
        return policy.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=limit, **settings)[
            0, ids.shape[1] :
        ].tolist()


@pytest.mark.parametrize("kind", [*OF_EVERY_KIND, "qwen3_5_text", "openai-gpt"])
@pytest.mark.parametrize("sampler", ["auto", "generate"])
def test_greedy_responses_are_those_of_generate_without_padding(load, kind, sampler):
    policy = load(kind, sampler=sampler)
    got = sample(policy, PROMPTS, max_new_tokens=20, greedy=True)
    for row, (prompt, length) in enumerate(zip(PROMPTS, got.lengths.tolist(), strict=True)):
        assert got.response_ids[row, :length].tolist() == generated_alone(policy, prompt, 20)


def same_responses(policy: Policy, one: str, other: str, **settings) -> None:
    """Two samplers token by token, with a trained adapter and groups whose rows end at different places."""
    for weight in policy.weights.values():
        torch.nn.init.normal_(weight, std=0.05, generator=seeded(7))
    settings = {"max_new_tokens": 24, "group_size": 4, "temperature": 0.8} | settings
    got, expected = (
        sample(replace(policy, sampler=SAMPLERS[name]), PROMPTS, **settings, generator=seeded())
        for name in (one, other)
    )
    assert len(set(got.lengths.tolist())) > 2
    assert torch.equal(got.response_mask, expected.response_mask) and torch.equal(got.truncated, expected.truncated)
    assert torch.equal(got.response_ids * got.response_mask, expected.response_ids * expected.response_mask)
    torch.testing.assert_close(got.old_logprobs, expected.old_logprobs, atol=5e-5, rtol=0)


@pytest.mark.parametrize("kind", OF_EVERY_KIND)
def test_generate_draws_the_same_responses_as_the_labs_sampler(load, kind):
    same_responses(load(kind, sampler="lab"), "lab", "generate")


@pytest.mark.parametrize("segment", [64, 7])
@pytest.mark.parametrize(
    ("kind", "greedy"), [("tiny", True), ("tiny", False), ("gpt2", False), ("mixtral", False), ("qwen3_moe", False)]
)
def test_written_in_segments_the_responses_are_the_same(load, monkeypatch, kind, greedy, segment):
    """What a GPU records and replays, one position after the other; responses end within a segment."""
    monkeypatch.setattr("sppo_lab.samplers.graph.SEGMENT", segment)
    same_responses(load(kind, sampler="graph"), "graph", "lab", greedy=greedy)


def test_too_little_memory_for_a_recording_is_said_as_such(monkeypatch):
    """So that the batch is halved: the recording is ended first, and that fails in its own words."""

    @contextlib.contextmanager
    def recording(*_, **__):
        try:
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    def work() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    with pytest.raises(torch.OutOfMemoryError):
        recorded(work)
    with pytest.raises(RuntimeError, match="a previous error"):
        recorded(lambda: None)


@pytest.mark.parametrize("kind", ["tiny", "gemma3", "gpt2", "mixtral"])
def test_continuous_batching_writes_the_same_greedy_responses(load, kind):
    policy = load(kind, sampler="continuous")
    plain = sample(replace(policy, sampler=SAMPLERS["lab"]), PROMPTS, max_new_tokens=20, greedy=True)
    got = sample(policy, PROMPTS, max_new_tokens=20, greedy=True)
    assert got.lengths.tolist() == plain.lengths.tolist() and got.texts == plain.texts
    assert got.truncated.tolist() == plain.truncated.tolist()


def test_continuous_batching_returns_the_policys_log_probabilities(policy):
    policy = replace(policy, sampler=SAMPLERS["continuous"])
    got = sample(policy, PROMPTS, max_new_tokens=30, group_size=4, temperature=0.7, generator=seeded(3))
    again = sample(policy, PROMPTS, max_new_tokens=30, group_size=4, temperature=0.7, generator=seeded(3))
    scored, _ = response_logprobs(policy.model, got, temperature=0.7)
    torch.testing.assert_close(scored, got.old_logprobs, atol=1e-4, rtol=0)
    assert got.texts == again.texts and len(set(got.texts)) > 3


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampled_frequencies_are_the_models_probabilities(policy, name):
    """Neither top-p, top-k nor anything else: first tokens over 2,000 samples against the softmax, chi-squared."""
    count = 2000
    written = sample(
        replace(policy, sampler=SAMPLERS[name]),
        ["5-9+3="],
        max_new_tokens=1,
        group_size=count,
        temperature=1.5,
        generator=seeded(1),
    )
    ids, mask = encode_prompts(policy, ["5-9+3="], 1)
    with torch.no_grad():
        expected = (policy.model(input_ids=ids, attention_mask=mask).logits[0, -1] / 1.5).softmax(-1) * count
    seen = torch.bincount(written.response_ids[:, 0], minlength=len(expected)).double()
    common = expected >= 5
    observed = [*seen[common].tolist(), seen[~common].sum().item()]
    wanted = [*expected[common].tolist(), expected[~common].sum().item()]
    scale = sum(observed) / sum(wanted)
    assert chisquare(observed, [w * scale for w in wanted]).pvalue > 1e-4


@pytest.mark.parametrize("name", ["generate", "continuous"])
def test_a_models_own_settings_for_generating_change_nothing(name):
    """Qwen2.5 comes with a penalty on repetition and a top-k: the log-probabilities would not be the policy's."""
    policy = load_policy(Config(sampler=name))
    plain = sample(policy, PROMPTS, max_new_tokens=12, group_size=2, generator=seeded())
    settings = policy.model.get_base_model().generation_config
    settings.update(repetition_penalty=5.0, top_k=2, temperature=0.3)
    got = sample(policy, PROMPTS, max_new_tokens=12, group_size=2, generator=seeded())
    assert got.texts == plain.texts
    assert policy.model.get_base_model().generation_config.repetition_penalty == 5.0


@pytest.mark.parametrize("name", SAMPLERS)
def test_responses_without_an_end_run_to_the_limit(policy, name, capfd):
    got = sample(replace(policy, sampler=SAMPLERS[name]).endless(), PROMPTS[:2], max_new_tokens=5)
    assert got.lengths.tolist() == [5, 5] and got.truncated.all()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["qwen3_moe", "qwen3_5_text", "openai-gpt"])
@pytest.mark.parametrize("critic", ["model", "adapter"])
def test_mixtures_of_experts_and_recurrent_layers_are_trained(unusual_model, small_task, kind, critic):
    settings = {"prompts_per_step": 4, "max_new_tokens": 12, "mini_batches": 1, "critic": critic, "lora_rank": 2}
    trainer = Trainer(Config(model=unusual_model(kind), steps=2, **settings), small_task)
    trainer.policy = replace(trainer.policy, stop_ids=(*trainer.policy.stop_ids, 5, 6, 7))
    trainer.judge = lambda rollouts, problems: (rollouts.lengths % 2).float()  # something to learn from
    before = [weight.clone() for weight in trainer.policy.weights.values()]
    for record in trainer:
        assert abs(record.metrics["policy/approx_kl"]) < 1e-5  # the ratio starts at 1
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.policy.weights.values(), strict=True))
    found = evaluate(trainer.policy, small_task.test, small_task.rewards, samples=2, max_new_tokens=8)
    assert len(found.solved) == len(small_task.test)


def test_training_on_what_continuous_batching_wrote_starts_at_ratio_one(small_task):
    config = Config(sampler="continuous", prompts_per_step=4, max_new_tokens=12, mini_batches=1)
    metrics = Trainer(config, small_task).train_step().metrics
    assert abs(metrics["policy/approx_kl"]) < 1e-9 and metrics["policy/grad_norm"] > 0


@pytest.mark.parametrize(
    ("kind", "sampler", "said"),
    [
        ("rwkv", "auto", "gives another output when its input is padded on the left"),
        ("mamba", "auto", "peft cannot put a LoRA adapter on every linear layer of model '.*mamba.*'"),
        ("bert", "auto", "is not causal"),
        ("qwen3_5_text", "lab", "sampler = 'lab' does not work with the cache"),
        ("qwen3_5_text", "continuous", "sampler = 'continuous' does not work with the cache"),
        ("bloom", "continuous", "sampler = 'continuous' does not work with the cache"),
        ("bloom", "graph", "sampler = 'graph' does not work with the cache"),
        ("gemma3", "graph", "sampler = 'graph' does not work with the cache"),
    ],
)
def test_what_a_model_cannot_do_is_said_when_it_is_loaded(random_models, unusual_model, kind, sampler, said):
    with pytest.raises(LabError, match=said):
        load_policy(Config(model=random_models.get(kind) or unusual_model(kind), sampler=sampler))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", "out of memory with one response at a time"),
        ("Memory footprint 9 is more than available memory 8", "out of memory with one response at a time"),
        ("index_copy_(): shapes\nmore", r"failed with this model: index_copy_\(\): shapes Leave sampler"),
        (None, "it stopped before all responses were written"),
    ],
)
def test_what_goes_wrong_in_continuous_batching_is_passed_on(monkeypatch, small_task, error, said):
    trainer = Trainer(Config(sampler="continuous", prompts_per_step=4), small_task)
    results = {"a": GenerationOutput("a", error=error)} if error else {}
    monkeypatch.setattr(trainer.policy.model.get_base_model(), "generate_batch", lambda *_, **__: results)
    monkeypatch.setattr("sppo_lab.memory.clear_device_cache", lambda **_: None)
    with pytest.raises(LabError, match=said), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of each halving
        trainer.train_step()
