"""Models and tasks that the tests share: the embedded policy, and small random models in the hub's format."""

import functools
import os
import signal

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
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

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts its background jobs
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # the tests run in several processes at once,
os.environ.setdefault("OMP_NUM_THREADS", "1")  # and so do those that they start


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
def unusual_model(tmp_path_factory):
    """Model type to directory of a small random one: hybrids, mixtures of experts and others that need care."""
    tokenizer = AutoTokenizer.from_pretrained(embedded_models()["tiny"])
    of_type = {
        "mixtral": {"num_local_experts": 4, "num_key_value_heads": 1},
        "qwen3_moe": {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "head_dim": 16,
            "num_key_value_heads": 1,
        },
        "qwen3_5_text": {
            "num_key_value_heads": 1,
            "head_dim": 16,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        },
        "bloom": {"n_layer": 2, "n_head": 2},
        "bert": {},
        "rwkv": {"attention_hidden_size": 32, "context_length": 256},
        "mamba": {"state_size": 8},
    }

    @functools.cache
    def build(model_type: str) -> str:
        sizes = {
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 256,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
            "pad_token_id": tokenizer.pad_token_id,
        }
        config = AutoConfig.for_model(model_type, **sizes | of_type.get(model_type, {}))
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.3)  # so that what it says depends on what it reads
        folder = tmp_path_factory.mktemp(model_type)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return build


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
