"""Windows of a corpus whose tokens say where they come from."""

import pytest
import torch

from suite.data.corpus import Corpus


@pytest.fixture(scope="module")
def numbered():
    """40 reviews of 3 to 120 tokens and their end; every token is its place in the stream."""
    lengths = torch.randint(3, 121, (40,), generator=torch.Generator().manual_seed(0)) + 1
    starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    return Corpus(torch.arange(int(starts[-1])), (torch.arange(40) % 2).repeat_interleave(lengths), starts)


def test_windows_tile_the_stream(numbered):
    batches = numbered.stream_windows(16, 8, seed=0)
    shifts = []
    for _ in range(3):  # epochs
        first = next(batches)
        shift = int(first[0, 0]) % 16
        tiles = (len(numbered.tokens) - shift) // 16
        epoch = [first, *(next(batches) for _ in range(-(-tiles // 8) - 1))]
        assert sum(map(len, epoch)) == tiles
        places = []
        for batch in epoch:
            assert (batch.diff() == 1).all()  # 16 tokens in a row
            openings = len(batch) // 4
            own, opening = batch[: len(batch) - openings, 0], batch[len(batch) - openings :, 0]
            assert (own % 16 == shift).all()
            assert set(opening.tolist()) <= set(numbered.starts.tolist())
            places += own.tolist()
        assert len(set(places)) == len(places)  # nothing twice
        assert places != sorted(places)
        shifts.append(shift)
    assert len(set(shifts)) > 1


@pytest.mark.parametrize("length", [8, 48, 400])
def test_crops_are_of_single_reviews(numbered, length):
    tokens, labels, inside = numbered.crops(length, torch.Generator().manual_seed(0), 600)
    assert tokens.shape == inside.shape == (600, length)
    first = tokens[:, 0].contiguous()
    review = torch.searchsorted(numbered.starts, first, right=True) - 1
    begin, end = numbered.starts[review], numbered.starts[review + 1] - 1
    # A review comes up in proportion to the part of it that a window shows.
    shown = (numbered.starts.diff() - 1).clamp(max=length).float()
    share = torch.bincount(review, minlength=40) / 600
    assert (share - shown / shown.sum()).abs().max() < 5 * (0.1 / 600) ** 0.5
    assert torch.equal(labels, review % 2)
    places = first[:, None] + torch.arange(length)
    assert torch.equal(inside, places < end[:, None])
    assert torch.equal(tokens, torch.where(inside, places, end[:, None]))  # the tail repeats the end of text
    kept = inside.sum(1)
    assert (kept >= torch.minimum(end - begin, torch.tensor(length // 4))).all()
    openings = (first == begin).float().mean()
    assert openings > 0.2
    assert length == 400 or openings < 0.7
