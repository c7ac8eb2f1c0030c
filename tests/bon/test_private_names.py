"""Names that third parties keep for themselves and that the core uses all the same: when one moves, this says which."""

import importlib
import warnings

import pytest
import torch
import transformers
from torch import nn

#: Where a name is looked for, the name, and what the core does with it.
USED = [
    (transformers.PreTrainedModel, "_is_stateful", "a state that is no cache of keys and values goes through generate"),
    (transformers.PreTrainedModel, "_can_compile_fullgraph", "a step of a fixed shape is compiled or captured"),
    (transformers.GenerationMixin, "_prepare_special_tokens", "logits processors get their special tokens"),
    (transformers.GenerationMixin, "_get_logits_processor", "options of sampling become logits processors"),
    (transformers.PreTrainedConfig, "_attn_implementation", "views of a model get an attention of their own"),
    (transformers.PreTrainedTokenizerFast, "_decode", "tokenizers with a decoding of their own are asked themselves"),
    (torch.ops.mkldnn, "_reorder_linear_weight", "weights of compiled steps are laid out for a CPU"),
    (torch.ops.mkldnn, "_linear_pointwise", "compiled steps multiply by them"),
    (torch.ops.mkldnn, "_is_mkldnn_bf16_supported", "half precision is packed where the CPU has it"),
    (importlib.import_module("torch._inductor.config"), "cpp", "the compiler is told about tanh"),
    (importlib.import_module("torch._inductor.custom_graph_pass"), "CustomGraphPass", "products of compiled steps are joined"),
    (
        importlib.import_module("torch._inductor.custom_graph_pass"),
        "get_hash_for_files",
        "the compiler's cache knows it",
    ),
    *[
        (nn.Linear(1, 1), name, "views copy modules without their tensors, and steps know a model by where its tensors lie")
        for name in ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
    ],
]


@pytest.mark.parametrize(("owner", "name", "use"), USED, ids=[name for _, name, _ in USED])
def test_it_is_still_there(owner, name, use):
    assert hasattr(owner, name), f"{getattr(owner, '__name__', owner)} has no {name} any more, by which {use}"


def test_peft_still_switches_its_layers_by_a_flag():
    other, tuners = pytest.importorskip("peft.utils.other"), importlib.import_module("peft.tuners.tuners_utils")
    told = "PEFT's layers are no longer switched by _disable_adapters, by which views have adapters off"
    assert hasattr(tuners.BaseTunerLayer, "_disable_adapters"), told
    assert tuners.BaseTunerLayer.disable_adapters.fget.__code__.co_names == ("_disable_adapters",), told
    assert hasattr(other, "AuxiliaryTrainingWrapper"), told


def test_transformers_still_says_that_it_loaded_an_adapter_itself(gpt2):
    told = "transformers no longer marks its own adapters by _hf_peft_config_loaded, by which a reference keeps them"
    assert hasattr(transformers.integrations.PeftAdapterMixin, "_hf_peft_config_loaded"), told


def test_accelerate_still_hangs_its_hook_on_modules():
    accelerate = pytest.importorskip("accelerate")
    module = nn.Linear(1, 1)
    accelerate.hooks.add_hook_to_module(module, accelerate.hooks.ModelHook())
    assert hasattr(module, "_hf_hook"), (
        "accelerate's hook is no longer _hf_hook, by which an offloaded model's device is known"
    )


def test_torch_still_keeps_a_compiled_model_inside():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler's own imports
        compiled = torch.compile(nn.Linear(1, 1))
    assert "_orig_mod" in compiled._modules, "torch.compile no longer keeps the model as _orig_mod, by which it is unwrapped"
