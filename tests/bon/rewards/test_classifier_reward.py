"""What a classifier reads of prompt and response, kinds of outputs, templates: against the model alone."""

import pytest
import torch
import transformers

from bon import Candidates, ClassifierReward, RewardError, score_candidates
from bon.rewards import load_classifier

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEMPLATE = "{{ '<eos>' }}{% for m in messages %} {{ m['role'] }} : {{ m['content'] }} <unk>{% endfor %}"


def gpt2(context=32, **options):
    common = {
        "vocab_size": 80,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.GPT2Config(n_positions=context, **{**common, **options})
        model = transformers.GPT2ForSequenceClassification(config)
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                torch.nn.init.normal_(parameter, 0.0, 0.2)
    return model.eval()


def alone(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].double()


def words(*numbers):
    return " ".join(f"w{number:02d}" for number in numbers)


def test_the_prompt_gives_way_from_its_beginning(tokenizer):
    model = gpt2(context=8)
    reward = ClassifierReward(model, tokenizer, "LABEL_1")
    pool = Candidates.from_texts([words(*range(10, 20)) + " "], [[words(20, 21), words(22, 23)]])
    scored = score_candidates(pool, proxy=reward).scores["proxy"][0]
    for score, response in zip(scored, ([20, 21], [22, 23]), strict=True):
        logits = alone(model, [14, 15, 16, 17, 18, 19, *response])
        assert score == pytest.approx((logits[1] - logits[0]).item(), abs=1e-5)
    assert (reward.tokens_cut, reward.responses_cut, reward.tokens_read) == (8, 0, 16)


def test_a_response_that_is_too_long_alone_loses_its_end(tokenizer):
    model = gpt2(context=8)
    reward = ClassifierReward(model, tokenizer, "LABEL_1")
    score = reward(prompts=[words(70, 71) + " "], responses=[words(*range(10, 20))])[0]
    logits = alone(model, list(range(10, 18)))
    assert score == pytest.approx((logits[1] - logits[0]).item(), abs=1e-5)
    assert (reward.tokens_cut, reward.responses_cut) == (2, 1)


def test_special_tokens_stay_and_a_response_of_which_nothing_is_left_is_refused(tokenizer):
    from tokenizers.processors import TemplateProcessing

    marked = transformers.PreTrainedTokenizerFast(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str()),
        eos_token="<eos>", unk_token="<unk>", pad_token="<pad>",
    )  # fmt: skip
    marked.backend_tokenizer.post_processor = TemplateProcessing(
        single="<unk> $A <eos>", special_tokens=[("<unk>", 2), ("<eos>", 1)]
    )
    model = gpt2()
    reward = ClassifierReward(model, marked, "LABEL_1", max_length=4)
    logits = alone(model, [2, 12, 20, 1])
    score = reward(prompts=[words(10, 11, 12) + " "], responses=[words(20)])[0]
    assert score == pytest.approx((logits[1] - logits[0]).item(), abs=1e-5)
    with pytest.raises(ValueError, match="nothing of a response is left in 2 tokens"):
        ClassifierReward(model, marked, "LABEL_1", max_length=2)(prompts=["w10 "], responses=["w11"])


@pytest.mark.parametrize("kind", ["Roberta", "XLMRoberta", "Camembert", "MPNet"])
def test_positions_that_begin_behind_the_padding_are_no_room(kind, tokenizer):
    config = getattr(transformers, f"{kind}Config")(vocab_size=80, max_position_embeddings=14, num_labels=2, **SIZES)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    reward = ClassifierReward(model, tokenizer, "LABEL_1")
    assert reward.max_length == 14 - model.config.pad_token_id - 1
    assert len(reward([words(*range(10, 40))])) == 1
    with pytest.raises(ValueError, match="max_length=14 is more than the 12 tokens"):
        ClassifierReward(model, tokenizer, "LABEL_1", max_length=14)


def test_what_an_output_means_follows_the_problem(tokenizer):
    for kind in ("multi_label_classification", "regression"):
        model = gpt2(num_labels=3, problem_type=kind)
        assert ClassifierReward(model, tokenizer, "LABEL_2")(["w10 w11"])[0] == pytest.approx(alone(model, [10, 11])[2].item())
    single = gpt2(num_labels=1)
    assert ClassifierReward(single, tokenizer)(["w10 w11"])[0] == pytest.approx(alone(single, [10, 11])[0].item(), abs=1e-6)
    with pytest.raises(ValueError, match=r"which label. the classifier has 'LABEL_0', 'LABEL_1'"):
        ClassifierReward(gpt2(), tokenizer)


def test_a_template_is_the_model_s_own_text_and_only_the_prompt_is_cut(tokenizer):
    model = gpt2(num_labels=1, eos_token_id=2)  # <unk> ends every turn
    pool = Candidates.from_texts(["w10 w11", "w12 w13 w14"], [["w20", "w21 w22"], ["w23", "w24 w25 w26"]])
    reward = ClassifierReward(model, tokenizer, template=TEMPLATE)
    scored = score_candidates(pool, proxy=reward).scores["proxy"]
    for p, c in ((0, 0), (0, 1), (1, 0), (1, 1)):
        chat = [{"role": "user", "content": pool.prompts[p]}, {"role": "assistant", "content": pool.texts[p, c]}]
        text = tokenizer.apply_chat_template(chat, chat_template=TEMPLATE, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert scored[p, c] == pytest.approx(alone(model, ids)[0].item(), abs=1e-5)
    short = ClassifierReward(model, tokenizer, template=TEMPLATE, max_length=len(ids) - 2)
    cut = tokenizer(text.replace("w12 w13 ", ""), add_special_tokens=False)["input_ids"]
    assert short(prompts=[pool.prompts[1]], responses=[pool.texts[1, 1]])[0] == pytest.approx(
        alone(model, cut)[0].item(), abs=1e-5
    )
    assert short.tokens_cut == 2
    with pytest.raises(TypeError, match="with a template reads prompts and responses apart"):
        reward(["w10"])
    with pytest.raises(ValueError, match="template=True needs a tokenizer with a chat template"):
        ClassifierReward(model, tokenizer, template=True)


def test_a_random_head_is_refused_by_the_names_of_its_weights(tmp_path, build_model, tokenizer):
    build_model("gpt2").save_pretrained(tmp_path / "lm")
    with pytest.raises(ValueError, match=r"is no trained classifier: its files lack score.weight"):
        load_classifier(str(tmp_path / "lm"))
    gpt2().save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    reward = ClassifierReward.from_pretrained(str(tmp_path / "judge"), "LABEL_1")
    assert reward(["w10"]) == pytest.approx(ClassifierReward(gpt2(), tokenizer, "LABEL_1")(["w10"]))


def test_the_caller_s_model_is_left_as_it_is(tokenizer):
    model = gpt2().train()
    modes = [module.training for module in model.modules()]
    reward = ClassifierReward(model, tokenizer, "LABEL_1")
    assert reward(["w10 w11"]) == reward(["w10 w11"])
    assert [module.training for module in model.modules()] == modes
    assert reward.model is model


def test_an_error_of_the_classifier_is_the_reward_s(tokenizer):
    pool = Candidates.from_texts(["w10"], [[""]])
    with pytest.raises(RewardError, match="the reward raised TypeError"):
        score_candidates(pool, proxy=lambda texts: ClassifierReward(gpt2(), tokenizer, "LABEL_1")())
