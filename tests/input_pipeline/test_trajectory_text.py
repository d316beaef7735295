"""RegionVLM's trajectories, compared with the published facts on the public vocabulary."""

import io

import numpy as np
import pytest
from PIL import Image

from input_pipeline.data_config import DataConfig
from input_pipeline.errors import DataError
from input_pipeline.records import Annotation, Record
from input_pipeline.trajectory_text import REGIONVLM, TrajectoryText, normalized, picked, read_bert
from input_pipeline.transforms import EncodeExample, example_rng
from regionjax.batch import BatchSpec
from regionjax.regions import Region

PERCENT = [(3 * n, 100 - 9 * n) for n in range(10)]
POINTS = (np.array(PERCENT) + 0.4) / 100  # x.4 hundredths: rounding down and cutting agree
CUT = np.array([[0.129, 0.4099], [1.2, -0.3]])  # … and here they do not


@pytest.fixture
def bert(shared_data):
    directory = shared_data / "tokenizers/bert_base_uncased"
    words = (directory / "vocab.txt").read_text(encoding="utf-8").split("\n")
    return read_bert(directory), words


def pieces(points):
    return [piece for x, y in points for piece in ("[", str(x), str(y), "]")]


def test_ten_points_are_42_pieces(bert):
    engine, words = bert
    ids = TrajectoryText(10, 42).encode(POINTS, engine, np.random.default_rng(0))
    assert ids.shape == (42,) and ids.dtype == np.int32
    assert [words[id] for id in ids] == ["[CLS]", *pieces(PERCENT), "[SEP]"]


def test_the_released_model_reads_seven_and_a_half(bert):
    engine, words = bert
    ids = REGIONVLM.encode(POINTS, engine, np.random.default_rng(0))
    x = str(PERCENT[7][0])
    expected = ["[CLS]", *pieces(PERCENT[:7]), "[", x, "[SEP]"]
    assert [words[id] for id in ids] == expected and len(expected) == 32


def test_every_hundredth_is_one_piece(bert):
    engine, words = bert
    rng = np.random.default_rng(0)
    for percent in range(101):
        text = TrajectoryText(1, 6).encode([[percent / 100 + 1e-6] * 2], engine, rng)
        assert [words[id] for id in text[2:4]] == [str(percent)] * 2


def test_coordinates_are_cut_off_and_clipped(bert):
    engine, words = bert
    ids = TrajectoryText(2, 12).encode(CUT, engine, np.random.default_rng(0))
    said = [words[id] for id in ids]
    assert said == ["[CLS]", *pieces([(12, 40), (100, 0)]), "[SEP]", "[PAD]", "[PAD]"]


def test_the_whole_image_is_no_text(bert):
    engine, words = bert
    ids = REGIONVLM.encode(np.zeros((0, 2)), engine, None)
    assert [words[id] for id in ids] == ["[CLS]", "[SEP]"] + 30 * ["[PAD]"]


def test_points_are_picked_in_their_order():
    trace = np.stack([np.arange(20), np.zeros(20)], axis=1) / 20
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(50):
        number = np.rint(picked(trace, 10, rng)[:, 0] * 20).astype(int).tolist()
        assert len(set(number)) == 10 and number == sorted(number)
        seen |= set(number)
    assert seen == set(range(20))
    few = picked(trace[:3], 10, rng)[:, 0] * 20
    assert np.rint(few).tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 2]  # ⌊2j/9⌋
    np.testing.assert_array_equal(picked(trace[:1], 3, rng), np.repeat(trace[:1], 3, axis=0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[12 40] [13 42]", "[12 40] [13 42]"),
        ("A Cat, (black) and a dog.", "a cat, black and a dog"),
        ('"Hi!": #1 *2* ~3; four-legged', "hi 1 2 3 four-legged"),
        (" ".join(map(str, range(60))), " ".join(map(str, range(50)))),
        ("", ""),
    ],
)
def test_normalized(text, expected):
    assert normalized(text) == expected


def test_vocabulary_is_checked(tmp_path):
    with pytest.raises(DataError, match="has no vocab.txt"):
        read_bert(tmp_path)
    (tmp_path / "vocab.txt").write_text("[UNK]\n[PAD]\n[CLS]\n[SEP]\n[MASK]\n")
    with pytest.raises(DataError, match=r"does not begin with \[PAD\]"):
        read_bert(tmp_path)


@pytest.mark.parametrize("way", ["even", "random"])
def test_training_sees_other_points_of_a_trace_each_time_if_asked_to(way):
    """Ten of twenty, in their order; "random": each about half of the time."""
    trace = np.stack([np.linspace(0, 0.95, 20), np.full(20, 0.5)], axis=1).astype(np.float32)
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    said = Annotation("narration", "x", "1", Region.from_points(trace))
    record = Record("x", "x.png", "1", 8, 8, file.getvalue(), [said])
    spec = BatchSpec(8, 2, 1, 10, 4, 4, 8)
    data = DataConfig("", {"x": 1.0}, trace_points=way)
    encode = EncodeExample(spec, data, Words(), 0)
    seen = np.zeros(20)
    for index in range(200):
        (segment,) = encode.draw(record, example_rng(0, index)).segments
        points = segment.region.sample_points(10, None)
        places = np.rint(points[:, 0] * 20).astype(int)
        assert (np.diff(places) > 0).all()
        seen[places] += 1
    if way == "even":
        assert sorted(seen) == [0] * 10 + [200] * 10
    else:
        assert seen.min() > 70 and seen.max() < 130  # 100 with a deviation of 7


class Words:
    """A tokenizer of words."""

    location_bins, eos_id, pad_id = 2, 1, 0

    def encode(self, text):
        return [2] * len(text.split())
