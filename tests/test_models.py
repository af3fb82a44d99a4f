import json
import shutil

import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.models import (
    base_options,
    best_dtype,
    choose_device,
    choose_dtype,
    end_token_ids,
    load_policy,
    trainable_parameters,
)
from sppo_lab.trainer import Trainer


def test_lora_sits_on_every_linear_layer_and_everything_else_is_frozen(policy):
    adapted = {name.split(".lora_A")[0] for name, _ in policy.model.named_parameters() if ".lora_A" in name}
    inner = policy.model.base_model.model
    linear = {f"base_model.model.{name}" for name, module in inner.named_modules() if hasattr(module, "base_layer")}
    assert len(adapted) == 21 and adapted == linear  # 7 per layer of a Llama: q, k, v, o, gate, up, down
    assert all("lora_" in name for name in trainable_parameters(policy.model))


def test_a_fresh_adapter_is_the_base(policy):
    ids = torch.tensor([policy.tokenizer.encode("7+5=")])
    with policy.model.disable_adapter():
        base = policy.model(input_ids=ids).logits
    assert torch.equal(policy.model(input_ids=ids).logits, base)


def test_the_adapter_depends_on_the_seed_alone_and_leaves_the_global_state():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    models = [load_policy(Config(seed=seed)).model for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(3), expected)
    first, same, other = (next(iter(trainable_parameters(model).values())) for model in models)
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_every_end_token_counts():
    class Source:
        def __init__(self, eos):
            self.eos_token_id = eos

    model = Source(None)
    model.config, model.generation_config = Source(5), Source([5, 9])
    assert end_token_ids(model, Source(3)) == (3, 5, 9)
    model.config = model.generation_config = Source(None)
    with pytest.raises(LabError, match="no end-of-sequence token"):
        end_token_ids(model, Source(None))


@pytest.mark.parametrize(
    ("capability", "expected"),
    [(None, "float32"), ((6, 1), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16"), ((12, 0), "bfloat16")],
)
def test_precision_follows_the_compute_capability_not_emulation(monkeypatch, capability, expected):
    """Trap 12: a T4 (7.5) claims bfloat16 by emulation."""
    assert best_dtype(capability) == getattr(torch, expected)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    assert choose_dtype("auto", torch.device("cuda" if capability else "cpu")) == getattr(torch, expected)
    assert choose_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16


def test_an_absent_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LabError, match="device 'cuda' is not available: this machine has cpu"):
        choose_device("cuda")


ARCHITECTURES = ["llama", "gpt2", "qwen2", "gemma", "gemma3"]
SHORT = {"prompts_per_step": 4, "max_new_tokens": 12, "mini_batches": 1}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_trained_by_sppo_and_evaluated(random_models, small_task, architecture):
    from sppo_lab.experiment import evaluate_trainer

    trainer = Trainer(Config(model=random_models[architecture], steps=2, **SHORT), small_task)
    before = [weight.clone() for weight in trainable_parameters(trainer.policy.model).values()]
    for record in trainer:
        assert record.metrics["policy/grad_norm"] > 0 and record.metrics["value/grad_norm"] > 0
        assert abs(record.metrics["policy/approx_kl"]) < 1e-5  # the ratio starts at 1
    after = trainable_parameters(trainer.policy.model).values()
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert len(evaluate_trainer(trainer, samples=2).solved) == len(small_task.test)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_in_half_precision_trains(small_task, dtype):
    """Old log-probabilities are then scored anew, so that the ratio starts at 1."""
    metrics = Trainer(Config(dtype=dtype, **SHORT), small_task).train_step().metrics
    assert metrics["clip_ratio/region_mean"] == 0 and abs(metrics["policy/approx_kl"]) < 1e-6
    assert metrics["policy/grad_norm"] > 0


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_recomputed_activations_give_the_same_gradient_and_leave_sampling_alone(
    random_models, small_task, architecture
):
    config = Config(model=random_models[architecture], **SHORT)
    plain, recomputing = (Trainer(config.replace(gradient_checkpointing=on), small_task) for on in (False, True))
    layer = next(m for m in recomputing.policy.model.modules() if isinstance(m, GradientCheckpointingLayer))
    passes = []
    inner = next(layer.children())
    inner.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    sampled = recomputing.sample(small_task.train)
    plain.sample(small_task.train)  # so that both have drawn the same random numbers
    forward_passes = int(sampled.lengths.max())
    assert passes == [False] * forward_passes  # one per token: the cache is in use
    passes.clear()
    first, second = plain.train_step().metrics, recomputing.train_step().metrics
    assert sum(passes) == 2  # forward, and again in the backward pass
    assert second["policy/grad_norm"] == pytest.approx(first["policy/grad_norm"], rel=1e-4)
    assert second["value/grad_norm"] == pytest.approx(first["value/grad_norm"], rel=1e-4)


def test_both_implementations_of_attention_agree(random_models):
    ids = torch.arange(1, 13)[None]
    policies = [load_policy(Config(model=random_models["qwen2"], attention=name)) for name in ("sdpa", "eager")]
    assert [policy.model.config._attn_implementation for policy in policies] == ["sdpa", "eager"]
    fast, plain = (policy.model(input_ids=ids).logits for policy in policies)
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-4)


def test_four_bits_need_their_library_and_a_gpu(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LabError, match="pip install bitsandbytes"):
        base_options(Config(quantize="4bit", dtype="float16"), torch.device("cuda"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(LabError, match="needs a CUDA GPU and the device is cpu"):
        load_policy(Config(quantize="4bit", device="cpu"))


@pytest.mark.parametrize(("dtype", "computed"), [("float32", "bfloat16"), ("float16", "float16")])
def test_four_bits_are_multiplied_in_half_precision(dtype, computed):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    options = base_options(Config(quantize="4bit", dtype=dtype), torch.device("cuda"))
    settings = options["quantization_config"]
    assert options["dtype"] == settings.bnb_4bit_compute_dtype == getattr(torch, computed)
    assert settings.load_in_4bit and options["device_map"] == {"": torch.device("cuda")}


def test_loading_prints_nothing(random_models, small_task, capfd):
    """A backbone without the LM head of its file is no reason for a report."""
    for name in ("llama", "gpt2", "gemma3"):
        Trainer(Config(model=random_models[name], **SHORT), small_task)
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err == ""


def test_a_tokenizer_without_padding_end_or_template_works_if_the_model_knows_its_end(random_models, tmp_path):
    folder = tmp_path / "bare"
    shutil.copytree(random_models["llama"], folder)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        if path.exists():
            kept = json.loads(path.read_text())
            path.write_text(json.dumps({k: v for k, v in kept.items() if k not in ("pad_token", "eos_token")}))
    policy = load_policy(Config(model=str(folder)))
    assert policy.tokenizer.pad_token_id is None and policy.tokenizer.eos_token_id is None
    assert policy.pad_id == policy.stop_ids[0] and policy.tokenizer.chat_template is None
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": None}))
    with pytest.raises(LabError, match=r"no end-of-sequence token, so no response could end\. Set eos_token"):
        load_policy(Config(model=str(folder)))


def test_a_model_without_a_tokenizer_is_refused(random_models, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(random_models["qwen2"], folder, ignore=shutil.ignore_patterns("*token*"))
    with pytest.raises(LabError, match=r"comes without a tokenizer\. Put the files"):
        load_policy(Config(model=str(folder)))


def test_a_directory_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(LabError, match=r"not a model in the hub's format: it holds no config.json"):
        load_policy(Config(model=str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(LabError, match="cannot load model"):
        load_policy(Config(model=str(tmp_path)))


def test_a_chat_template_is_applied(policy):
    import copy

    from sppo_lab.rollout import encode_prompts

    tokenizer = copy.deepcopy(policy.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}"
    chatty = type(policy)(policy.model, tokenizer, policy.stop_ids, policy.context, policy.pad_id)
    ids, _ = encode_prompts(chatty, ["1+1="], 1)
    assert tokenizer.decode(ids[0]) == "[user]1+1=[end]"


def test_dropout_that_a_layer_calls_itself_stays_off_when_activations_are_recomputed(unusual_model, small_task):
    """XGLM's layers have a rate of their own, and are in training mode while gradients are recorded."""
    config = Config(model=unusual_model("xglm"), gradient_checkpointing=True, **SHORT)
    trainer = Trainer(config, small_task)
    assert any(
        getattr(module, "dropout", None)
        for module in load_policy(config.replace(gradient_checkpointing=False)).model.modules()
    )
    assert abs(trainer.train_step().metrics["policy/approx_kl"]) < 1e-6
