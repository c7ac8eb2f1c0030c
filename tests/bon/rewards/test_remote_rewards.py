"""Coroutine functions as rewards: bounds, order, further tries, time; inside a running loop as well."""

import asyncio

import pytest

from bon import Candidates, RewardError, score_candidates
from bon.rewards import RemoteReward

POOL = Candidates.from_texts(["p "], [[f"{index:02d}" for index in range(20)]])


class Judge:
    """Counts how many calls are under way."""

    def __init__(self):
        self.now = self.most = self.calls = 0

    async def __call__(self, responses):
        self.now, self.calls = self.now + 1, self.calls + 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001)
        self.now -= 1
        return [float(response) for response in responses]


def test_calls_are_bounded_and_answers_in_order():
    judge = Judge()
    scored = score_candidates(POOL, proxy=RemoteReward(judge, batch_size=2, concurrency=3))
    assert scored.scores["proxy"].tolist() == [list(range(20))]
    assert judge.most == 3
    assert judge.calls == 10


def test_a_bare_coroutine_function_or_an_awaitable_is_a_reward():
    async def reward(texts):
        return [float(text.split()[1]) for text in texts]

    for one in (reward, lambda texts: reward(texts)):
        assert score_candidates(POOL, proxy=one).scores["proxy"].tolist() == [list(range(20))]


def test_inside_a_running_loop():
    async def notebook():
        return score_candidates(POOL, proxy=Judge())

    assert asyncio.run(notebook()).scores["proxy"].shape == (1, 20)


def test_a_call_that_fails_is_tried_again():
    tried = []

    async def reward(responses):
        tried.append(responses[0])
        if tried.count(responses[0]) < 3:
            raise OSError("busy")
        return [0.0] * len(responses)

    score_candidates(POOL, proxy=RemoteReward(reward, batch_size=10, retries=2, wait=0.001))
    assert sorted(tried) == ["00"] * 3 + ["10"] * 3
    tried.clear()
    with pytest.raises(RewardError, match=r"raised OSError: busy, tried 2 times \(from text 0 on: 'p 00'\)"):
        score_candidates(POOL, proxy=RemoteReward(reward, batch_size=20, retries=1, wait=0.001))


def test_errors_of_the_program_are_not_tried_again():
    tried = []

    async def reward(responses):
        tried.append(1)
        raise TypeError("no")

    with pytest.raises(RewardError, match=r"raised TypeError: no \(from text 0 on"):
        score_candidates(POOL, proxy=RemoteReward(reward, batch_size=20))
    assert len(tried) == 1


def test_a_call_that_takes_too_long_is_given_up():
    async def reward(responses):
        await asyncio.sleep(60)

    with pytest.raises(RewardError, match=r"raised TimeoutError: no answer within 0.01 s"):
        score_candidates(POOL, proxy=RemoteReward(reward, retries=0, timeout=0.01))


def test_a_wrong_answer_names_the_text_it_is_about():
    async def reward(responses):
        return ["bad" if response == "13" else 1.0 for response in responses]

    with pytest.raises(RewardError, match="the reward of text 13 is 'bad', not a number: 'p 13'"):
        score_candidates(POOL, proxy=RemoteReward(reward, batch_size=5))


def test_bounds_are_checked():
    async def reward(responses):
        return [0.0]

    for option in ({"batch_size": 0}, {"concurrency": 0}, {"retries": -1}, {"timeout": 0}, {"wait": 0}):
        with pytest.raises(ValueError, match=next(iter(option))):
            RemoteReward(reward, **option)
    with pytest.raises(TypeError, match="needs a coroutine function"):
        RemoteReward(lambda texts: [])
