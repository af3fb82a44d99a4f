"""Policy and critic as verl 0.9.1 loads them: directories in the hub's format, adapters beside them in peft's.

The adapters stay adapters.  Merged into the base, the policy would be trained as a whole, and the reference of the KL
penalty, which is the policy without its adapter, would be another model.
"""

import copy
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForTokenClassification, PreTrainedModel, PreTrainedTokenizerBase

from sppo_lab.errors import LabError
from sppo_lab.models import Policy
from sppo_lab.rollout import encode_prompts
from sppo_lab.value import Critic

# For a tokenizer without a chat template, since verl always applies one: the prompt and nothing else.
PLAIN_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def save_policy(policy: Policy, folder: Path, adapter: Path) -> None:
    """The base model and its adapter.  The policy is taken apart: use it no more."""
    settings = policy.model.peft_config["default"]
    settings.task_type, settings.base_model_name_or_path = "CAUSAL_LM", f"../{folder.name}"
    policy.model.save_pretrained(adapter, save_embedding_layers=False)
    policy.model.unload().save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)


def save_critic(critic: Critic, tokenizer: PreTrainedTokenizerBase, folder: Path, adapter: Path) -> None:
    """A token classifier with one label, the logit of V.  The critic is taken apart: use it no more.

    With LoRA the head is saved with the adapter, as weights that are trained as a whole: verl freezes all that is not
    in the adapter.
    """
    backbone = critic.backbone
    if not isinstance(backbone, PeftModel):
        model = token_classifier(backbone, critic.head)
    else:
        settings = backbone.peft_config["default"]
        lora = {name: weight for name, weight in backbone.state_dict().items() if "lora_" in name}
        adapted = with_adapter(token_classifier(backbone.unload(), critic.head), settings, lora)
        adapted.peft_config["default"].base_model_name_or_path = f"../{folder.name}"
        adapted.save_pretrained(adapter, save_embedding_layers=False)
        model = adapted.unload()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def token_classifier(backbone: PreTrainedModel, head: nn.Linear) -> PreTrainedModel:
    """Backbone and head as the hub's token classification has them.  LabError for a family that has none."""
    settings = copy.deepcopy(backbone.config)
    settings.num_labels = 1
    try:
        model = AutoModelForTokenClassification.from_config(settings, dtype=head.weight.dtype)
    except ValueError as error:
        raise LabError(
            f"verl loads a critic as a token classifier, and transformers has none for {settings.model_type!r}: "
            "choose a critic_model of another family."
        ) from error
    model.base_model.load_state_dict(backbone.state_dict())
    getattr(model, head_name(model)).load_state_dict(head.state_dict())
    return model.eval()


def with_adapter(model: PreTrainedModel, settings: LoraConfig, lora: dict[str, Tensor]) -> PeftModel:
    """The classifier with an adapter that was trained on its backbone alone, and the head trained as a whole."""
    own = LoraConfig(
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        target_modules=settings.target_modules,
        modules_to_save=[head_name(model)],
    )
    adapted = get_peft_model(model, own)
    weights = dict(adapted.named_parameters())
    with torch.no_grad():
        for name, weight in lora.items():
            weights[name.replace("base_model.model.", f"base_model.model.{model.base_model_prefix}.", 1)].copy_(weight)
    return adapted


def head_name(model: PreTrainedModel) -> str:
    """The name of a classifier's output layer: ``score`` or ``classifier``, by architecture."""
    return next(name for name, child in model.named_children() if isinstance(child, nn.Linear))


def give_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """A chat template that changes nothing, where the tokenizer has none; verl always applies one."""
    if not tokenizer.chat_template:
        first = tokenizer("")["input_ids"]
        begins = bool(first) and first[0] == tokenizer.bos_token_id
        tokenizer.chat_template = ("{{ bos_token }}" if begins else "") + PLAIN_TEMPLATE


def longest_prompt(policy: Policy, prompts: list[str], max_new_tokens: int) -> int:
    """Tokens of the longest prompt.  Gives the tokenizer a chat template if it has none.

    Raises LabError if verl would read other tokens than the lab does.
    """
    ids, mask = encode_prompts(policy, prompts, max_new_tokens)
    give_template(policy.tokenizer)
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    rows = policy.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    for prompt, row, numbers, kept in zip(prompts, rows, ids, mask.bool(), strict=True):
        if row != numbers[kept].tolist():
            raise LabError(
                f"through verl's chat template the prompt {prompt[:40]!r} would be other tokens than in the lab: give "
                "the model's tokenizer a chat template, train with it, and export that run."
            )
    return int(mask.sum(1).max())
