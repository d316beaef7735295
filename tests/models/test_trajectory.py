"""Trajectories as words on the device, against the host's text and the published facts."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from input_pipeline.trajectory_text import REGIONVLM, TrajectoryText, read_bert
from regionjax.models import trajectory
from regionjax.models.trajectory import BERT, COMPACT, TrajectoryWords, room, words

SMALL = ["[PAD]", "[CLS]", "[SEP]", "[", "]", *map(str, range(101)), "[UNK]", "[MASK]"]
coordinates = st.floats(-1, 2, width=32)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """The compact vocabulary as word pieces."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "vocab.txt").write_text("\n".join(SMALL))
    return read_bert(folder)


def said(points, pieces=0, table=None):
    """Ids of one trajectory [K, 2]."""
    points, whole = np.asarray(points, np.float32)[None, None], np.zeros((1, 1), bool)
    return np.asarray(words(table or TrajectoryWords(), points, whole, pieces))[0, 0]


def test_every_float32_near_a_hundredth_is_cut_off_exactly():
    exact = np.arange(101, dtype=np.float32) / np.float32(100)
    near = [exact]
    for direction in (0, 2):
        step = exact
        for _ in range(3):
            step = np.nextafter(step, np.float32(direction))
            near.append(step)
    near = np.clip(np.concatenate(near), 0, 1)
    expected = np.trunc(near.astype(np.float64) * 100)
    np.testing.assert_array_equal(trajectory.hundredths(near), expected)
    assert set(expected.astype(int)) == set(range(101))
    # What float32 arithmetic alone would say is another thing.
    assert (np.trunc(near * np.float32(100)) != expected).any()


@pytest.mark.parametrize(("count", "pieces"), [(1, 6), (2, 9), (3, 20), (10, 32), (10, 42)])
def test_the_same_as_the_hosts_text(engine, count, pieces):
    text = TrajectoryText(count, pieces)
    device = jax.jit(lambda points, whole: words(TrajectoryWords(), points, whole, pieces))
    empty = text.encode(np.zeros((0, 2)), engine, None)

    @settings(max_examples=30, deadline=None)
    @given(arrays(np.float32, (count, 2), elements=coordinates))
    @example(np.array([[0.29, 0.57]] * count, np.float32))
    def same(points):
        host = text.encode(points, engine, np.random.default_rng(0))
        both = device(np.stack([points, points])[None], np.array([[False, True]]))
        np.testing.assert_array_equal(both[0], [host, empty])

    same()


def test_ten_points_are_42_pieces_and_the_released_model_reads_32():
    points = np.stack([np.arange(10) / 100, 1 - np.arange(10) / 10], axis=1) + 0.001
    everything = said(points)
    assert everything.shape == (42,) == (room(TrajectoryWords(), 10),)
    percent = [n for x, y in points for n in (3, 5 + int(100 * x), 5 + min(int(100 * y), 100), 4)]
    assert everything.tolist() == [1, *percent, 2]
    # Seven points, `[ x` of the eighth, and the end.
    assert said(points, 32).tolist() == [1, *percent[:30], 2]


def test_points_without_brackets_are_two_pieces():
    bare = TrajectoryWords(left=0, right=0)
    points = np.array([[0.295, 0.575], [1, 0]], np.float32)
    assert said(points, table=bare).tolist() == [1, 5 + 29, 5 + 57, 5 + 100, 5 + 0, 2]
    assert room(bare, 10) == 22
    # In the middle of a point too, if need be.
    assert said(points, 5, bare).tolist() == [1, 5 + 29, 5 + 57, 5 + 100, 2]
    empty = words(bare, points[None, None], np.ones((1, 1), bool))
    assert np.asarray(empty)[0, 0].tolist() == [1, 2, 0, 0, 0, 0]


def test_berts_ids_are_those_of_its_vocabulary(shared_data):
    engine = read_bert(shared_data / "tokenizers/bert_base_uncased")
    points = np.random.default_rng(3).random((10, 2), np.float32)
    host = REGIONVLM.encode(points, engine, np.random.default_rng(0))
    np.testing.assert_array_equal(said(points, 32, BERT), host)
    names = ["[CLS]", "[SEP]", "[", "]", *map(str, range(101))]
    assert BERT.ids == tuple(engine.token_to_id(name) for name in names)


def test_wrong_tables_are_refused():
    assert max(TrajectoryWords().ids) == COMPACT - 1
    with pytest.raises(ValueError, match="100 ids, expected 101"):
        dataclasses.replace(BERT, numbers=BERT.numbers[1:])
    with pytest.raises(ValueError, match="0 is padding"):
        TrajectoryWords(begin=0)
    with pytest.raises(ValueError, match="left is 0 and right 4"):
        TrajectoryWords(left=0)
