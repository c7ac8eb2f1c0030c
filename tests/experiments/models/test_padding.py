"""A policy without a padding token of its own gets one, and trains as one that always had it."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bon import generate_candidates
from suite.baselines.interface import train
from suite.config.baselines import GRPOConfig, PPOConfig
from suite.config.run import PolicyConfig
from suite.models.files import matching_tokenizer
from suite.models.policies import load_checkpoint, load_policy, own_padding
from suite.runtime.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def unpadded(models, tmp_path_factory):
    """The tiny policy without its padding token, which was the last of its vocabulary or is moved there: GPT-2's situation."""
    folder = tmp_path_factory.mktemp("unpadded")
    tokenizer = AutoTokenizer.from_pretrained(models / "policy")
    model = AutoModelForCausalLM.from_pretrained(models / "policy")
    tokenizer.pad_token = None
    model.config.pad_token_id = None
    model.generation_config.pad_token_id = None
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bare(models, tmp_path_factory):
    """A policy whose vocabulary has no word that could pad, so that one has to be added: as GPT-2's."""
    folder = tmp_path_factory.mktemp("bare")
    tokenizer = AutoTokenizer.from_pretrained(models / "policy")
    state = tokenizer.backend_tokenizer.to_str()
    changed = tokenizer.backend_tokenizer.from_str(state.replace("<|pad|>", "<|unused|>"))
    wrapped = type(tokenizer)(tokenizer_object=changed, eos_token=tokenizer.eos_token, pad_token=None)
    model = AutoModelForCausalLM.from_pretrained(models / "policy")
    model.config.pad_token_id = None
    wrapped.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def added(bare):
    return load_policy(PolicyConfig(name="bare", path=str(bare)), CPU)


def test_it_gets_a_token_of_its_own(added, policy):
    tokenizer = added.tokenizer
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert tokenizer.pad_token_id == len(policy.tokenizer)
    assert added.model.get_input_embeddings().num_embeddings == len(tokenizer) == len(policy.tokenizer) + 1
    assert added.model.config.vocab_size == len(tokenizer)
    assert (added.model.get_input_embeddings().weight[-1] == 0).all()
    assert tokenizer("A film")["input_ids"] == policy.tokenizer("A film")["input_ids"]


def test_one_that_pads_with_the_end_does_so_no_longer(bare, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(bare)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    padded = own_padding(AutoTokenizer.from_pretrained(tmp_path))
    assert padded.pad_token_id not in (None, padded.eos_token_id)
    again = padded.pad_token_id
    assert own_padding(padded).pad_token_id == again


def test_its_distribution_is_what_it_was(added, bare):
    raw = AutoModelForCausalLM.from_pretrained(bare)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before, after = raw(input_ids=ids).logits.log_softmax(-1), added.model(input_ids=ids).logits.log_softmax(-1)
    assert torch.allclose(before, after[..., :-1], atol=1e-6)
    assert (after[..., -1] < -1000).all()


def test_loading_moves_no_random_numbers(bare):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    load_policy(PolicyConfig(name="bare", path=str(bare)), CPU)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("kind", [PPOConfig, GRPOConfig])
def test_it_trains_as_one_that_had_a_padding_token(training_task, policy, unpadded, tmp_path, kind):
    """The same model with and without the token in its files: the same log, the same weights, the end of a text included."""
    without = load_policy(PolicyConfig(name="unpadded", path=str(unpadded)), CPU)
    settings = {"learning_rate": 1e-2, "checkpoint_every": 2, "temperature": 1.5}
    one = train(training_task(kind, tmp_path / "one", **settings))
    task = training_task(kind, tmp_path / "two", **settings)
    two = train(type(task)(**{**vars(task), "policy": without}))
    measured = ("objective/scores", "objective/kl", "tokens", "policy/grad_norm")
    assert [[row[key] for key in measured] for row in one.log] == [[row[key] for key in measured] for row in two.log]
    first, second = (load_checkpoint(policy, training.checkpoints[2]).model.state_dict() for training in (one, two))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def ending(bare, tmp_path_factory):
    """The bare policy, made to end about every sixth time that it may: its end has the direction of a usual hidden state."""
    folder = tmp_path_factory.mktemp("ending")
    tokenizer, model = AutoTokenizer.from_pretrained(bare), AutoModelForCausalLM.from_pretrained(bare)
    with torch.no_grad():
        output = model(input_ids=torch.randint(3, 400, (8, 8), generator=torch.manual_seed(0)), output_hidden_states=True)
        usual = output.hidden_states[-1].mean((0, 1))
        wanted = output.logits.logsumexp(-1).mean() - 1.6
        model.get_output_embeddings().weight[tokenizer.eos_token_id] = wanted * usual / usual.square().sum()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_policy(PolicyConfig(name="ending", path=str(folder)), CPU)


def test_the_end_of_a_text_is_an_action(training_task, ending, tmp_path):
    """A reward for ending early, and PPO learns to: with the end as padding it would have no gradient."""
    added = ending

    class Short:
        digest = "short"
        reward = staticmethod(lambda texts: [-float(len(text)) / 10 for text in texts])

    eos = added.tokenizer.eos_token_id
    settings = {"updates": 8, "batch_size": 24, "learning_rate": 1e-2, "kl_coef": 0.0, "checkpoint_every": 8}
    task = training_task(PPOConfig, tmp_path / "ppo", proxy=Short(), **settings)
    training = train(type(task)(**{**vars(task), "policy": added}))
    tuned = load_checkpoint(added, training.checkpoints[8])
    assert tuned.model.get_input_embeddings().num_embeddings == len(added.tokenizer)

    def ended(model):
        pool = generate_candidates(model, added.tokenizer, [list(ids) for ids in task.prompts], 8, max_new_tokens=6)
        inside = np.arange(6) < pool.lengths[..., None]
        assert not (pool.token_ids[inside] == added.tokenizer.pad_token_id).any()
        return float(((pool.token_ids == eos) & inside).any(-1).mean())

    assert ended(tuned.model) > ended(added.model) + 0.2


def test_a_tokenizer_of_another_model(models, tmp_path, bare):
    AutoModelForCausalLM.from_pretrained(models / "policy").save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=rf"^policy\.path={tmp_path}: no matching tokenizer: the one there has 1 tokens"
    ) as caught:
        matching_tokenizer(str(tmp_path), "policy.path")
    assert "\n" not in str(caught.value)
    larger = AutoTokenizer.from_pretrained(bare)
    larger.add_tokens([f"<more{i}>" for i in range(50)])
    larger.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no matching tokenizer: the one there has 550 tokens, the model 500;"):
        matching_tokenizer(str(tmp_path), "policy.path")
    assert matching_tokenizer(str(models / "policy"), "policy.path")[1] == 256
