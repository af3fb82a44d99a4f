"""Models and tasks that the tests share: the embedded policy, and small random models in the hub's format."""

import pytest
import torch
from transformers import (
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from sppo_lab.assets import embedded_models
from sppo_lab.config import Config
from sppo_lab.models import Policy, load_policy
from sppo_lab.tasks import Problem, Task
from sppo_lab.tasks.chain_sum import chain_sum_rewards

torch.set_num_threads(1)  # the tests run in several processes at once


@pytest.fixture(scope="session")
def policy() -> Policy:
    """The embedded policy with a fresh adapter.  Shared: a test must not change it."""
    return load_policy(Config())


@pytest.fixture
def small_task() -> Task:
    """A few chains, so that a run takes seconds."""
    problems = [Problem("7+5-3=", "9"), Problem("1+1=", "2"), Problem("9-4+2-1=", "6"), Problem("3-8=", "-5")]
    return Task("chain-sum", problems, problems, chain_sum_rewards)


@pytest.fixture(scope="session")
def random_models(tmp_path_factory) -> dict[str, str]:
    """Architecture to directory of a small causal LM with random weights and the embedded tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(embedded_models()["tiny"])
    common = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 1024,
    }
    torch.manual_seed(0)
    built = {
        "llama": LlamaForCausalLM(LlamaConfig(**sizes, **common)),
        "gpt2": GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=1024, **common)),
        "qwen2": Qwen2ForCausalLM(Qwen2Config(**sizes, **common, num_key_value_heads=1, tie_word_embeddings=True)),
        "gemma": GemmaForCausalLM(GemmaConfig(**sizes, **common, num_key_value_heads=1, head_dim=16)),
        # Its first layer looks back no further than the window, shorter than a prompt here.
        "gemma3": Gemma3ForCausalLM(
            Gemma3TextConfig(**sizes, **common, num_key_value_heads=1, head_dim=16, sliding_window=8)
        ),
    }
    tokenizer.model_max_length = 1024
    folders = {}
    for name, model in built.items():
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders[name] = str(folder)
    return folders
