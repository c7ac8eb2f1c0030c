"""TRL 0.24 without a network: a pip that is not one, a sampler that stands in for the old one, processes that end badly."""

import io
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from suite.benchmark import trl_0_24, trl_0_24_worker
from suite.benchmark.contenders import Drawing, drawn_tokens
from suite.benchmark.trl_0_24 import OldTRL, environment, requirements
from suite.benchmark.turns import UnavailableError
from suite.config.run import SamplingConfig


@pytest.fixture
def drawing(policy, prompts):
    return Drawing(policy, prompts[:3], SamplingConfig(max_new_tokens=4))


@pytest.fixture
def commands(monkeypatch):
    """Commands that `environment` starts, none of which does more than making the folder."""
    started = []

    def run(command, **_):
        started.append(command)
        if command[3] == "venv":
            Path(command[4]).mkdir()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(trl_0_24.subprocess, "run", run)
    return started


def test_the_environment_is_made_once(commands, tmp_path, capsys):
    python = environment(tmp_path / "trl")
    assert python == tmp_path / "trl" / "bin" / "python"
    assert commands == [
        [sys.executable, "-I", "-m", "venv", str(tmp_path / "trl")],
        [str(python), "-I", "-m", "pip", "install", "--quiet", *requirements()],
    ]
    assert environment(tmp_path / "trl") == python
    assert len(commands) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_environment_has_the_last_sampler_and_this_torch():
    assert requirements()[1:] == ["trl==0.24.0", "transformers<5"]
    assert requirements()[0] == "torch==" + torch.__version__.partition("+")[0]


@pytest.mark.parametrize("spoiled", ["removed", "other"])
def test_an_unfinished_or_other_environment_is_made_again(commands, tmp_path, spoiled):
    environment(tmp_path / "trl")
    (tmp_path / "trl" / "left over").touch()
    finished = tmp_path / "trl" / "finished.json"
    finished.unlink() if spoiled == "removed" else finished.write_text('["3.1", []]')
    environment(tmp_path / "trl")
    assert len(commands) == 4
    assert not (tmp_path / "trl" / "left over").exists()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("WARNING: retrying\nERROR: No matching distribution for trl==0.24.0\n", "No matching distribution for trl==0.24.0"),
        ("Traceback:\n  deep\nOSError: disk full\n\n", "OSError: disk full"),
        ("", "it said nothing"),
    ],
)
def test_pip_that_fails_is_one_line_and_tried_again(monkeypatch, tmp_path, said, told):
    tried = []

    def run(command, **_):
        tried.append(command)
        return subprocess.CompletedProcess(command, 0 if command[3] == "venv" else 1, "", said)

    monkeypatch.setattr(trl_0_24.subprocess, "run", run)
    for _ in range(2):
        with pytest.raises(UnavailableError) as caught:
            environment(tmp_path / "trl")
        assert str(caught.value) == f"pip failed: {told}"
    assert len(tried) == 4


ANSWERS = """
import json, sys
for line in sys.stdin:
    task = json.loads(line)
    print(json.dumps({"tokens": 10 * task["n"] * len(task["prompts"]), "seconds": 2.0}), flush=True)
"""
DIES = "import sys; print('deep down', file=sys.stderr); sys.exit('no such model')"


@pytest.fixture
def start(drawing, tmp_path):
    """start(code) -> OldTRL whose process runs that code; ended with the test."""
    started = []

    def made(code):
        script = tmp_path / "script.py"
        script.write_text(code)
        started.append(OldTRL(drawing, Path(sys.executable), tmp_path / "stderr.log", script))
        return started[-1]

    yield made
    for one in started:
        one.close()


def test_one_process_answers_every_round(start):
    rival = start(ANSWERS)
    pid = rival.process.pid
    assert [rival.speed(n) for n in (1, 8, 8)] == [15.0, 120.0, 120.0]
    assert rival.process.pid == pid
    rival.close()
    assert rival.process.returncode is not None


def test_a_process_that_ends_says_why(start):
    rival = start(DIES)
    for _ in range(2):  # whether it ended before it was asked or while it was
        with pytest.raises(UnavailableError, match=r"^its process ended: no such model$"):
            rival.speed(8)


def test_what_a_single_response_becomes_is_noted(start):
    rival = start(ANSWERS)
    assert rival.note(8) == "1 prompt a call"
    assert rival.note(1) == "1 prompt a call, returns a token for a text"


@pytest.fixture
def stand_in(monkeypatch):
    """A module in TRL's place, whose sampler goes about it as the old one did; what it was given and drew."""
    calls = types.SimpleNamespace(samplers=[], drawn=[], scores=[])

    class BestOfNSampler:
        def __init__(self, model, tokenizer, queries_to_scores, length_sampler, sample_size=4, generation_config=None):
            calls.samplers.append((sample_size, length_sampler(), generation_config))
            self.model, self.queries_to_scores, self.length_sampler = model, queries_to_scores, length_sampler
            self.sample_size, self.generation_config, self.tokenizer = sample_size, generation_config, tokenizer

        def generate(self, queries, device=None):
            print("chatter that is no answer")
            for query in queries:
                output = self.model.generate(
                    query.reshape(1, -1).repeat(self.sample_size, 1).to(device),
                    max_new_tokens=self.length_sampler(),
                    generation_config=self.generation_config,
                )
                calls.drawn.append(output[:, len(query) :])
                calls.scores.append(self.queries_to_scores(self.tokenizer.batch_decode(output)))

    class Wrapper(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.pretrained_model = model

        def generate(self, *arguments, **options):
            return self.pretrained_model.generate(*arguments, **options)

        @classmethod
        def from_pretrained(cls, model):
            return cls(model)

    extras = types.ModuleType("trl.extras")
    extras.BestOfNSampler = BestOfNSampler
    trl = types.ModuleType("trl")
    trl.AutoModelForCausalLMWithValueHead, trl.extras = Wrapper, extras
    monkeypatch.setitem(sys.modules, "trl", trl)
    monkeypatch.setitem(sys.modules, "trl.extras", extras)
    monkeypatch.setattr(trl_0_24_worker.torch, "set_num_threads", lambda threads: None)
    return calls


def test_the_script_answers_in_json(stand_in, drawing, capsys, start):
    task = start(ANSWERS).task
    answers = io.StringIO()
    trl_0_24_worker.main(io.StringIO("".join(json.dumps({**task, "n": n}) + "\n" for n in (2, 3))), answers)
    found = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert [sorted(answer) for answer in found] == [["seconds", "tokens"]] * 2
    assert [(size, length) for size, length, _ in stand_in.samplers] == [(2, 4), (3, 4)]
    assert [len(response) for response in stand_in.drawn] == [2] * 3 + [3] * 3
    assert stand_in.scores == [[0.0] * 2] * 3 + [[0.0] * 3] * 3
    eos = drawing.policy.tokenizer.eos_token_id
    tokens = [drawn_tokens(response, eos) for response in stand_in.drawn]
    assert [answer["tokens"] for answer in found] == [sum(tokens[:3]), sum(tokens[3:])]
    options = stand_in.samplers[0][2]
    assert (options.do_sample, options.top_k, options.min_length, options.eos_token_id) == (True, 0, -1, eos)
    assert capsys.readouterr().out == ""


def test_the_script_hides_padding_as_the_policy_does(stand_in, drawing, start):
    task = {**start(ANSWERS).task, "hide_pad": True}
    model, _ = trl_0_24_worker.load(task)
    ids = torch.tensor([list(drawing.prompts[0])])
    with torch.no_grad():
        torch.testing.assert_close(model.pretrained_model(ids).logits, drawing.policy.model(ids).logits)
