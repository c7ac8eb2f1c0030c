"""The table of candidates: its invariants, moving columns together, and files that appear whole or not at all."""

import dataclasses
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from bon import Candidates
from bon.candidates import stacked


def assert_same(one, other, tokens=True):
    """Equal in everything but padding."""
    assert list(one.prompts) == list(other.prompts)
    assert [list(ids) for ids in one.prompt_token_ids] == [list(ids) for ids in other.prompt_token_ids]
    np.testing.assert_array_equal(one.texts, other.texts)
    np.testing.assert_array_equal(one.lengths, other.lengths)
    for p, c in np.ndindex(one.lengths.shape):
        np.testing.assert_array_equal(one.token_ids[p, c, : one.lengths[p, c]], other.token_ids[p, c, : one.lengths[p, c]])
    np.testing.assert_array_equal(one.logprobs, other.logprobs)
    np.testing.assert_array_equal(one.raw_logprobs, other.raw_logprobs)
    assert (one.ref_logprobs is None) == (other.ref_logprobs is None)
    if one.ref_logprobs is not None:
        np.testing.assert_array_equal(one.ref_logprobs, other.ref_logprobs)
    assert list(one.scores) == list(other.scores)
    for name in one.scores:
        np.testing.assert_array_equal(one.scores[name], other.scores[name])


@pytest.fixture
def pool(make_pool):
    scores = np.array([[0.5, -1.0, 2.0], [1e-30, 3.0, 3.0]])
    return make_pool(scores, metadata={"seed": 7, "sampling": {"temperature": 0.7}, "tokens": 14, "seconds": 0.5}).with_scores(
        gold=scores**2
    )


@pytest.mark.parametrize("with_reference", [False, True])
def test_save_and_load_give_the_same_pool(pool, tmp_path, with_reference):
    if with_reference:
        pool = pool.with_ref_logprobs(pool.logprobs - 0.25)
    pool.save(tmp_path / "deep" / "pool.parquet")
    loaded = Candidates.load(tmp_path / "deep" / "pool.parquet")
    assert_same(pool, loaded)
    assert loaded.metadata == pool.metadata
    assert loaded.lengths.dtype == loaded.token_ids.dtype == np.int32


def test_a_pool_without_scores_and_with_odd_texts_survives_the_file(make_pool, tmp_path):
    texts = np.array([["", "two\nlines"], ["ünï ☃ \x00", '"quoted"']], dtype=object)
    pool = make_pool(prompts=2, candidates=2, texts=texts)
    pool.save(tmp_path / "pool.parquet")
    assert_same(pool, Candidates.load(tmp_path / "pool.parquet"))


def test_columns_of_the_file_are_the_documented_ones_a_row_a_candidate(pool, tmp_path):
    pool.with_ref_logprobs(pool.logprobs).save(tmp_path / "pool.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "pool.parquet")
    assert set(table.column_names) == {
        "prompt_id", "candidate_id", "prompt", "response", "prompt_token_ids", "token_ids", "length", "logprob", "raw_logprob",
        "ref_logprob", "proxy", "gold",
    }  # fmt: skip
    row = table.slice(4, 1).to_pylist()[0]  # prompt 1, candidate 1
    assert (row["prompt_id"], row["candidate_id"], row["prompt"], row["response"]) == (1, 1, "prompt 1", " response 1.1")
    assert row["token_ids"] == [111, 112, 113]
    assert (row["length"], row["proxy"], row["gold"]) == (3, 3.0, 9.0)


@pytest.mark.parametrize("folder", ["seed=3", "length=24", "proxy=1,prompt=x"])
def test_a_folder_named_like_a_hydra_override_adds_nothing_to_the_pool(pool, tmp_path, folder):
    # pyarrow reads key=value folders as columns of a partitioned data set unless told not to.
    path = tmp_path / folder / "pool.parquet"
    pool.save(path)
    assert_same(pool, Candidates.load(path))


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "header", "other table"])
def test_a_damaged_file_is_refused_by_name(pool, tmp_path, damage):
    path = tmp_path / "pool.parquet"
    pool.save(path)
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("prompt,response\n")
    elif damage == "header":
        path.write_bytes(content[:-12] + b"\x00" * 8 + content[-4:])
    else:
        pyarrow.parquet.write_table(pa.table({"prompt": ["a"]}), path)
    with pytest.raises(ValueError, match=r"pool\.parquet is not a candidates file, or is damaged"):
        Candidates.load(path)


def test_another_format_version_is_refused(pool, tmp_path):
    path = tmp_path / "pool.parquet"
    pool.save(path)
    table = pyarrow.parquet.read_table(path)
    header = table.schema.metadata[b"bon"].replace(b"bon.candidates.1", b"bon.candidates.0")
    pyarrow.parquet.write_table(table.replace_schema_metadata({**table.schema.metadata, b"bon": header}), path)
    with pytest.raises(ValueError, match=r"has format 'bon\.candidates\.0'"):
        Candidates.load(path)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        Candidates.load(tmp_path / "none.parquet")


@pytest.mark.parametrize("where", ["write", "replace"])
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(pool, tmp_path, monkeypatch, where):
    path = tmp_path / "pool.parquet"
    pool.save(path)
    before = path.read_bytes()

    def half_written(table, target, **options):
        with open(target, "wb") as file:
            file.write(b"PAR1 half")
        raise OSError("disk full")

    def refused(*arguments):
        raise OSError("disk full")

    if where == "write":
        monkeypatch.setattr(pyarrow.parquet, "write_table", half_written)
    else:
        monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(OSError, match="disk full"):
        pool.first(1).save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["pool.parquet"]


def test_saving_over_a_pool_replaces_it(pool, tmp_path):
    pool.save(tmp_path / "pool.parquet")
    pool.first(2).save(tmp_path / "pool.parquet")
    assert_same(Candidates.load(tmp_path / "pool.parquet"), pool.first(2))


def test_a_score_cannot_take_the_name_of_a_column(pool, tmp_path):
    with pytest.raises(ValueError, match="a score cannot be named 'length'"):
        pool.with_scores(length=pool.logprobs).save(tmp_path / "pool.parquet")
    assert not list(tmp_path.iterdir())


def test_first_is_the_pool_of_the_first_n(pool):
    first = pool.first(2)
    assert (first.num_prompts, first.num_candidates) == (2, 2)
    np.testing.assert_array_equal(first.texts, pool.texts[:, :2])
    np.testing.assert_array_equal(first.scores["gold"], pool.scores["gold"][:, :2])
    for n in (0, 4):
        with pytest.raises(ValueError, match=rf"n must lie in 1\.\.3 .*got {n}"):
            pool.first(n)


def test_take_moves_every_column_together(pool):
    pool = pool.with_ref_logprobs(pool.logprobs - 5)
    order = np.array([[2, 0], [1, 1]])
    taken = pool.take(order)
    for p, k in np.ndindex(order.shape):
        c = order[p, k]
        assert taken.texts[p, k] == f" response {p}.{c}"
        np.testing.assert_array_equal(taken.token_ids[p, k], pool.token_ids[p, c])
        for name in ("lengths", "logprobs", "raw_logprobs", "ref_logprobs"):
            assert getattr(taken, name)[p, k] == getattr(pool, name)[p, c]
        for name in ("proxy", "gold"):
            assert taken.scores[name][p, k] == pool.scores[name][p, c]


def test_extended_puts_further_candidates_behind(pool, make_pool):
    more = make_pool(np.array([[9.0], [8.0]]), width=6, metadata={"tokens": 3, "seconds": 0.25, "seed": 99})
    both = pool.extended(more)
    assert both.num_candidates == 4
    assert_same(both.first(3), dataclasses.replace(pool, scores={"proxy": pool.scores["proxy"]}))
    assert_same(both.take(np.array([[3], [3]])), more)
    # Spent tokens and seconds add up, the rest is the first pool's; gold is unknown for the new ones and dropped.
    assert both.metadata == {"seed": 7, "sampling": {"temperature": 0.7}, "tokens": 17, "seconds": 0.75}
    assert list(both.scores) == ["proxy"]
    wider_first = more.extended(pool)
    assert_same(wider_first.take(np.array([[1, 2, 3]] * 2)), dataclasses.replace(pool, scores={"proxy": pool.scores["proxy"]}))


def test_extended_keeps_reference_logprobs_only_if_both_have_them(pool):
    known = pool.with_ref_logprobs(pool.logprobs)
    assert known.extended(pool).ref_logprobs is None
    np.testing.assert_array_equal(known.extended(known).ref_logprobs, np.tile(pool.logprobs, 2))


def test_extended_refuses_other_prompts(pool, make_pool):
    with pytest.raises(ValueError, match="other prompts"):
        pool.extended(make_pool(prompts=2, prompt_token_ids=[[5], [6]]))


def test_full_texts_are_prompt_and_response(pool):
    assert pool.full_texts[1][2] == "prompt 1 response 1.2"


def test_with_scores_leaves_the_original_alone(pool):
    changed = pool.with_scores(proxy=np.zeros((2, 3), dtype=np.float32), new=np.ones((2, 3)))
    assert list(pool.scores) == ["proxy", "gold"]
    assert pool.scores["proxy"][0, 0] == 0.5
    assert changed.scores["proxy"].dtype == np.float64
    assert set(changed.scores) == {"proxy", "gold", "new"}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("token_ids", np.zeros((2, 3), dtype=np.int32), r"token_ids must be \[prompts, candidates, tokens\]"),
        ("lengths", np.ones((2, 2), dtype=np.int32), r"lengths has shape \(2, 2\)"),
        ("lengths", np.zeros((2, 3), dtype=np.int32), r"lengths must lie in 1\.\.4, got 0\.\.0"),
        ("lengths", np.full((2, 3), 5, dtype=np.int32), r"lengths must lie in 1\.\.4, got 5\.\.5"),
        ("logprobs", np.zeros((3, 2)), r"logprobs has shape \(3, 2\)"),
        ("raw_logprobs", np.zeros(6), r"raw_logprobs has shape \(6,\)"),
        ("ref_logprobs", np.zeros((2, 1)), r"ref_logprobs has shape \(2, 1\)"),
        ("texts", np.full((2, 4), "", dtype=object), r"texts has shape \(2, 4\)"),
        ("scores", {"proxy": np.zeros((2, 2))}, r"scores\['proxy'\] has shape \(2, 2\)"),
        ("prompts", ["one"], "1 prompts and 2 prompt_token_ids, but 2 rows"),
        ("prompt_token_ids", [[1]], "2 prompts and 1 prompt_token_ids, but 2 rows"),
    ],
)
def test_fields_that_disagree_are_refused(make_pool, field, value, message):
    pool = make_pool(prompts=2, candidates=3)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(pool, **{field: value})


def test_a_pool_is_frozen(pool):
    with pytest.raises(dataclasses.FrozenInstanceError):
        pool.logprobs = pool.logprobs + 1


@pytest.mark.parametrize("positions", [np.array([2, 0]), np.array([True, False, True])], ids=["indices", "mask"])
def test_rows_are_the_prompts_asked_for_with_all_their_columns(make_pool, positions):
    pool = make_pool(np.arange(6.0).reshape(3, 2)).with_ref_logprobs(np.arange(6.0).reshape(3, 2))
    wanted = [2, 0] if positions.dtype != bool else [0, 2]
    rows = pool.rows(positions)
    assert rows.prompts == [f"prompt {p}" for p in wanted]
    assert [len(ids) for ids in rows.prompt_token_ids] == [p + 2 for p in wanted]
    assert rows.texts.tolist() == [[f" response {p}.0", f" response {p}.1"] for p in wanted]
    assert rows.scores["proxy"].tolist() == rows.ref_logprobs.tolist() == [[2.0 * p, 2.0 * p + 1] for p in wanted]
    np.testing.assert_array_equal(rows.token_ids, pool.token_ids[wanted])


def test_no_rows_are_a_pool_of_no_prompts(make_pool):
    assert make_pool(prompts=2).rows(np.zeros(2, dtype=bool)).num_prompts == 0


def test_stacking_undoes_taking_rows_and_adds_up_what_was_spent(make_pool):
    pool = make_pool(np.arange(6.0).reshape(3, 2), metadata={"seed": 3, "tokens": 5})
    apart = [pool.rows(np.array([p])) for p in range(3)]
    narrow = dataclasses.replace(apart[0], token_ids=apart[0].token_ids[..., :3])  # responses of at most 3 tokens
    together = stacked([narrow, *apart[1:]])
    assert_same(together, pool)
    assert together.metadata == {"seed": 3, "tokens": 15}


def test_stacking_keeps_only_columns_that_all_have(make_pool):
    one, two = make_pool([[1.0, 2.0]]), make_pool([[3.0, 4.0]])
    both = stacked([one.with_scores(gold=one.scores["proxy"]).with_ref_logprobs(one.logprobs), two])
    assert list(both.scores) == ["proxy"]
    assert both.ref_logprobs is None
    assert both.scores["proxy"].tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_pools_that_do_not_stack_are_refused(make_pool):
    for pools in ([], [make_pool(candidates=2), make_pool(candidates=3)]):
        with pytest.raises(ValueError, match="equally many candidates"):
            stacked(pools)


def test_pools_of_other_distributions_are_not_joined(make_pool):
    cool, warm = (make_pool(metadata={"sampling": {"temperature": t, "max_new_tokens": m}}) for t, m in ((0.7, 8), (1.0, 8)))
    longer = make_pool(metadata={"sampling": {"temperature": 0.7, "max_new_tokens": 16}})
    told = r"different distributions are not joined: temperature=0\.7 and 1\.0"
    with pytest.raises(ValueError, match=told):
        cool.extended(warm)
    with pytest.raises(ValueError, match=told):
        stacked([cool, warm])
    assert cool.extended(longer).num_candidates == 6


@pytest.mark.parametrize("by", ["response", "candidate_id", "length"])
def test_a_file_is_read_by_prompt_and_candidate_whatever_the_order_of_its_rows(pool, tmp_path, by):
    path = tmp_path / "pool.parquet"
    pool.save(path)
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.sort_by([(by, "descending")]), path)
    assert_same(pool, Candidates.load(path))


def test_a_file_that_lacks_a_row_or_has_one_twice_is_refused(pool, tmp_path):
    path = tmp_path / "pool.parquet"
    pool.save(path)
    table = pyarrow.parquet.read_table(path)
    for rows in (table.slice(1), pa.concat_tables([table.slice(1), table.slice(2, 1)])):
        pyarrow.parquet.write_table(rows, path)
        with pytest.raises(ValueError, match=r"pool\.parquet is not a whole candidates file"):
            Candidates.load(path)


def test_a_pool_owns_its_arrays(pool):
    mine = np.zeros((2, 3))
    scored = pool.with_scores(proxy=mine)
    mine[:] = 5.0
    assert (scored.scores["proxy"] == 0).all()
    with pytest.raises(ValueError, match="read-only"):
        scored.first(2).scores["proxy"][:] = -9.0
    assert np.shares_memory(scored.first(2).token_ids, scored.token_ids)  # parts of one's own need no copy


def test_metadata_is_json_from_the_start(make_pool):
    pool = make_pool(metadata={"seed": np.int64(3), "lengths": np.array([1, 2]), "at": (np.float32(0.5), None)})
    assert pool.metadata == {"seed": 3, "lengths": [1, 2], "at": [0.5, None]}
    assert type(pool.metadata["seed"]) is int
    with pytest.raises(ValueError, match=r"metadata\['model'\] is a object, which no file can hold"):
        make_pool(metadata={"model": object()})


def test_token_ids_that_are_not_whole_are_refused(make_pool):
    with pytest.raises(ValueError, match="token_ids must hold whole numbers, got float64"):
        make_pool(token_ids=np.ones((2, 3, 4)))


def test_saving_keeps_permissions_and_obeys_the_umask(pool, tmp_path):
    path = tmp_path / "pool.parquet"
    before = os.umask(0o027)
    try:
        pool.save(path)
        assert path.stat().st_mode & 0o777 == 0o640
        path.chmod(0o604)
        pool.save(path)
        assert path.stat().st_mode & 0o777 == 0o604
    finally:
        os.umask(before)


def test_a_flipped_bit_is_found(make_pool, tmp_path):
    path = tmp_path / "pool.parquet"
    pool = make_pool(np.random.default_rng(0).normal(size=(20, 30)))
    pool.save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a candidates file, or is damaged"):
        Candidates.load(path)
