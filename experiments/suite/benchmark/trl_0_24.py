"""TRL 0.24's own sampler, the last release that had one: in a virtual environment of its own, spoken to line by line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from suite.benchmark.contenders import Drawing
from suite.benchmark.turns import UnavailableError

SCRIPT = Path(__file__).with_name("trl_0_24_worker.py")


def requirements() -> list[str]:
    """Packages that pip installs: the torch that runs here, so that the samplers alone differ."""
    return [f"torch=={torch.__version__.split('+')[0]}", "trl==0.24.0", "transformers<5"]


def environment(folder: Path) -> Path:
    """The interpreter of a virtual environment with TRL 0.24, made unless `folder` holds one that was finished.

    Args:
        folder: where it is kept between runs; about 1.5 GB.

    Raises:
        UnavailableError: pip cannot install it, for example without a network.
    """
    python, finished = folder / "bin" / "python", folder / "finished.json"
    made_of = json.dumps([sys.version, requirements()])
    if finished.is_file() and finished.read_text(encoding="utf-8") == made_of:
        return python
    if folder.exists():
        shutil.rmtree(folder)
    print(f"making a virtual environment with {' '.join(requirements())} in {folder}", file=sys.stderr)
    for command in (
        [sys.executable, "-I", "-m", "venv", str(folder)],
        [str(python), "-I", "-m", "pip", "install", "--quiet", *requirements()],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise UnavailableError(f"{command[3]} failed: {_last_line(done.stderr + done.stdout, 'ERROR:')}")
    finished.write_text(made_of, encoding="utf-8")
    return python


class OldTRL:
    """`trl.extras.BestOfNSampler` of TRL 0.24 with a reward of zeros, one process for all rounds.

    The process times itself: neither its start nor what is said to it counts.
    """

    name = "TRL 0.24 BestOfNSampler, fp32"
    dtype = torch.float32

    def __init__(self, drawing: Drawing, python: Path, log: Path, script: Path = SCRIPT) -> None:
        """Start the process.

        Args:
            drawing: what to draw.
            python: the interpreter, from `environment`.
            log: where its standard error goes.
            script: what it runs.
        """
        self.log = log
        with log.open("w") as errors:
            # -I: nothing of this environment, of PYTHONPATH or of the script's folder is imported there.
            self.process = subprocess.Popen(
                [str(python), "-I", str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
            )
        policy = drawing.policy
        self.task = {
            "model": policy.folder,
            "prompts": [list(ids) for ids in drawing.prompts],
            "options": drawing.options(),
            "hide_pad": policy.tokenizer.pad_token_id != policy.tokenizer.eos_token_id,
            "threads": torch.get_num_threads(),
            "device": str(policy.model.device),
        }

    def speed(self, n: int) -> float:
        """Tokens a second of drawing n responses for every prompt."""
        answer = self._ask({**self.task, "n": n})
        return answer["tokens"] / answer["seconds"]

    def note(self, n: int) -> str:
        """How it goes about it; and what its `squeeze()` does to a single response."""
        return "1 prompt a call" + (", returns a token for a text" if n == 1 else "")

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            answer = ""
        else:
            answer = self.process.stdout.readline()
        if not answer:
            raise UnavailableError(f"its process ended: {_last_line(self.log.read_text(encoding='utf-8'))}")
        return json.loads(answer)


def _last_line(text: str, marked: str = "") -> str:
    """The last line that begins with a mark, or the last of all, without it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    chosen = [line for line in lines if line.startswith(marked)] or lines or ["it said nothing"]
    return chosen[-1].removeprefix(marked).strip()[:160]
