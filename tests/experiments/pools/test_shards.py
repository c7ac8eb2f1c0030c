"""Where shards are: a folder, a store behind a URL; read back, listed, never half there; bad places in one line."""

import pickle
import sys

import fsspec
import numpy as np
import pytest

from suite.pools.shards import LocalShards, open_shards, pieces
from suite.runtime.errors import UserError


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def place(request, tmp_path):
    """A place of every kind, empty."""
    if request.param == "s3":
        yield f"{request.getfixturevalue('s3_bucket')}/{tmp_path.name}/pools"
        return
    yield {"folder": str(tmp_path / "pools"), "file": f"file://{tmp_path}/pools", "memory": "memory://bucket/pools"}[
        request.param
    ]
    fsspec.filesystem("memory").store.clear()


def assert_same(one, two):
    for name in ("token_ids", "lengths", "logprobs", "raw_logprobs", "texts"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name
    assert one.prompts == two.prompts
    assert {k: v.tolist() for k, v in one.scores.items()} == {k: v.tolist() for k, v in two.scores.items()}
    assert one.metadata == two.metadata


def test_what_is_saved_is_found_and_loaded(place, hand_pool):
    shards, pool = open_shards(place), hand_pool([[0.1, 0.2], [0.3, 1e-17]])
    assert shards.found("key") == []
    size = shards.save("key", range(3, 5), pool)
    shards.save("key", range(0, 3), hand_pool([[1.0, 2.0, 3.0]]))
    shards.save("other", range(7, 9), pool)
    assert shards.found("key") == [range(0, 3), range(3, 5)]
    assert open_shards(place).found("other") == [range(7, 9)]
    assert_same(shards.load("key", range(3, 5)), pool)
    assert shards.path("key", range(3, 5)).endswith("pools/key/candidates-000003-000005.parquet")
    assert size == shards.size("key", range(3, 5)) > 1000


def test_it_travels_to_another_process(place, hand_pool):
    shards = pickle.loads(pickle.dumps(open_shards(place)))
    shards.save("key", range(2), hand_pool([[0.1, 0.2]]))
    assert open_shards(place).found("key") == [range(2)]


def test_a_bucket_that_is_not_there(s3_bucket, hand_pool):
    with pytest.raises(UserError, match=r"^engine\.shards=s3://nowhere-at-all/pools cannot be used \(.*check the bucket"):
        open_shards("s3://nowhere-at-all/pools").save("key", range(2), hand_pool([[0.1, 0.2]]))


def test_a_shard_is_replaced(place, hand_pool):
    shards = open_shards(place)
    shards.save("key", range(0, 2), hand_pool([[1.0, 2.0]]))
    shards.save("key", range(0, 2), hand_pool([[5.0, 6.0]]))
    assert shards.load("key", range(0, 2)).scores["proxy"].tolist() == [[5.0, 6.0]]
    assert shards.found("key") == [range(0, 2)]


def test_the_same_bytes_everywhere(tmp_path, hand_pool):
    pool = hand_pool([[0.1, 0.2]])
    LocalShards(tmp_path).save("key", range(2), pool)
    remote = open_shards("memory://same/pools")
    size = remote.save("key", range(2), pool)
    written = (tmp_path / "key" / "candidates-000000-000002.parquet").read_bytes()
    assert fsspec.filesystem("memory").cat("/same/pools/key/candidates-000000-000002.parquet") == written
    assert size == len(written)


def test_files_of_others_are_no_shards(tmp_path, hand_pool):
    shards = LocalShards(tmp_path)
    shards.save("key", range(2), hand_pool([[0.1, 0.2]]))
    for name in (".candidates-000002-000004.parquet.abc", "candidates-000002-000004.parquet.tmp", "notes.parquet"):
        (tmp_path / "key" / name).write_bytes(b"")
    assert shards.found("key") == [range(2)]


def test_a_damaged_shard_is_named(place, hand_pool, tmp_path):
    shards = open_shards(place)
    shards.save("key", range(2), hand_pool([[0.1, 0.2]]))
    path = shards.path("key", range(2))
    with fsspec.open(path, "wb") as file:
        file.write(b"PAR1 but no more")
    with pytest.raises(ValueError, match=r"candidates-000000-000002\.parquet is not a candidates file, or is damaged"):
        shards.load("key", range(2))


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        ([], 5, [(0, 3, False), (3, 5, False)]),
        ([(0, 8)], 5, [(0, 8, True)]),
        ([(0, 2), (0, 4)], 5, [(0, 4, True), (4, 5, False)]),
        ([(3, 6)], 6, [(0, 3, False), (3, 6, True)]),
        ([(2, 4)], 6, [(0, 2, False), (2, 4, True), (4, 6, False)]),
        ([(1, 2), (5, 6)], 4, [(0, 1, False), (1, 2, True), (2, 4, False)]),
    ],
)
def test_what_is_there_and_what_is_missing(found, wanted, expected):
    parts = pieces([range(*span) for span in found], wanted, most=3)
    assert [(part.start, part.stop, there) for part, there in parts] == expected


def test_a_file_system_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"^engine.shards=gs://bucket/pools needs the package gcsfs.*pip install gcsfs$"):
        open_shards("gs://bucket/pools")


def test_a_file_system_that_does_not_exist():
    with pytest.raises(UserError, match=r"^engine.shards=s4://bucket is not allowed: s4:// is no file system.*s3://BUCKET"):
        open_shards("s4://bucket")
