import pytest
import torch

from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.models import choose_device, choose_dtype, end_token_ids, load_policy, trainable_parameters


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


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_precision_follows_the_compute_capability_not_emulation(monkeypatch, capability, expected):
    """Trap 12: a T4 (7.5) claims bfloat16 by emulation."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    assert choose_dtype("auto", torch.device("cuda")) == expected
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16


def test_an_absent_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LabError, match="device 'cuda' is not available: this machine has cpu"):
        choose_device("cuda")


def test_a_model_in_half_precision_trains(small_task):
    """Old log-probabilities are then scored anew, so that the ratio starts at 1."""
    from sppo_lab.trainer import Trainer

    config = Config(dtype="bfloat16", prompts_per_step=4, max_new_tokens=12, mini_batches=1)
    metrics = Trainer(config, small_task).train_step().metrics
    assert metrics["clip_ratio/region_mean"] == 0 and abs(metrics["policy/approx_kl"]) < 1e-6
    assert metrics["policy/grad_norm"] > 0


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
