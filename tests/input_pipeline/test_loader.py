"""The training stream: the same whoever makes it, continued where it stopped, mixed by ratio."""

import collections
import json

import numpy as np
import pytest

from input_pipeline import loader, prepare
from input_pipeline.data_config import DataConfig
from input_pipeline.errors import DataError
from input_pipeline.images import BadImage
from input_pipeline.records import Record, open_records, write_shard
from regionjax.batch import BatchSpec

MIXTURE = {"coco": 1.0, "refer": 2.0, "localized_narratives": 1.0}
SPEC = BatchSpec(
    image_size=32,
    mask_size=8,
    regions=3,
    points=4,
    prompt_length=6,
    target_length=8,
    text_length=14,
)


def config(root, **changes):
    return DataConfig(**{"root": str(root), "mixture": MIXTURE, "location_bins": 16} | changes)


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    directory = tmp_path_factory.mktemp("prepared")
    prepare.ensure(config(folder), SPEC, directory, processes=1, progress=False)
    return directory


def batches(prepared, count, *, state=None, size=8, seed=0, process=(0, 1), **changes):
    """(batches copied, state after them)"""
    stream = loader.training_loader(
        config("", **changes),
        SPEC,
        prepared,
        seed=seed,
        batch_size=size,
        process_index=process[0],
        process_count=process[1],
    )
    if state is not None:
        stream.set_state(json.loads(json.dumps(state)))
    made = [{name: np.array(value) for name, value in next(stream).items()} for _ in range(count)]
    state = stream.get_state()
    stream.close()
    return made, state


def same(left, right):
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_batches_have_their_shapes(prepared):
    made, state = batches(prepared, 3)
    for number, batch in enumerate(made):
        SPEC.check(batch)
        assert batch["example"].tolist() == list(range(8 * number, 8 * number + 8))
        assert batch["target_weight"].any(axis=(1, 2)).all() and not batch["bad"].any()
    assert state == {"global_next_index": 24}


def test_workers_and_threads_change_nothing(prepared):
    expected, _ = batches(prepared, 4, threads=0)
    for changes in ({"threads": 3}, {"workers": 2, "threads": 1}):
        same(batches(prepared, 4, **changes)[0], expected)


def test_continues_where_it_stopped_with_any_number_of_workers(prepared):
    expected, _ = batches(prepared, 5)
    _, state = batches(prepared, 2)
    same(batches(prepared, 3, state=state)[0], expected[2:])
    same(batches(prepared, 3, state=state, workers=1)[0], expected[2:])


def test_hosts_share_a_batch(prepared):
    expected, state = batches(prepared, 2)
    after, _ = batches(prepared, 1, state=state)
    hosts = [batches(prepared, 2, process=(index, 2)) for index in range(2)]
    assert hosts[0][1] == hosts[1][1] == state
    for number, whole in enumerate(expected):
        for index, (made, _) in enumerate(hosts):
            same([made[number]], [{name: value[index::2] for name, value in whole.items()}])
    one_host_more = batches(prepared, 1, state=state, process=(1, 2))[0][0]
    np.testing.assert_array_equal(one_host_more["example"], after[0]["example"][1::2])


def test_seeds_differ(prepared):
    one, two = (batches(prepared, 1, seed=seed)[0][0]["image"] for seed in (0, 1))
    assert (one != two).any()


def test_mixture_and_epochs(prepared):
    stream = loader.example_stream(config(""), prepared, 0)
    seen = collections.defaultdict(list)
    for place in range(96):
        record = Record.decode(stream[place])
        seen[record.source].append(record.image_id)
    assert {source: len(ids) for source, ids in seen.items()} == {
        "coco": 24,
        "refer": 48,
        "localized_narratives": 24,
    }
    for ids in seen.values():
        epochs = [ids[start : start + 12] for start in range(0, len(ids), 12)]
        assert all(sorted(epoch, key=int) == [str(n) for n in range(1, 13)] for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    assert seen["coco"] != seen["localized_narratives"]
    other = loader.example_stream(config("", mixture=dict(reversed(MIXTURE.items()))), prepared, 0)
    assert [other[place] for place in range(8)] == [stream[place] for place in range(8)]


def test_batch_size_must_be_shared_evenly(prepared):
    with pytest.raises(ValueError, match="batch size 9 is not a multiple of 2 processes"):
        batches(prepared, 1, size=9, process=(0, 2))


def test_sources_must_be_prepared(prepared):
    with pytest.raises(DataError, match="holds no records refcoco_unc-train"):
        batches(prepared, 1, mixture={"refcoco_unc": 1.0})


@pytest.fixture
def broken(prepared, tmp_path):
    """The prepared folder with half an image in its fifth record of coco."""
    records = open_records(prepared, "coco", "train")
    half = Record(**{**vars(records[4]), "image": records[4].image[:200], "annotations": []})
    (tmp_path / "records").mkdir()
    for name in ("dataset.json", "tokenizer"):
        (tmp_path / name).symlink_to(prepared / name)
    payloads = [half.encode() if n == 4 else records.payloads[n] for n in range(12)]
    write_shard(tmp_path / "records/coco-train-00000.array_record", payloads)
    return tmp_path


@pytest.mark.parametrize("changes", [{"threads": 0}, {"threads": 2}, {"workers": 1}])
def test_bad_image_names_its_file(broken, changes):
    with pytest.raises(Exception, match=r"image coco:train2017/0+5.jpg \(200 bytes\)") as error:
        batches(broken, 2, mixture={"coco": 1.0}, **changes)
    assert changes.get("workers") or isinstance(error.value, BadImage)  # Grain wraps a worker's


def test_bad_image_is_counted_on_request(broken):
    made, _ = batches(broken, 3, mixture={"coco": 1.0}, on_bad="skip")
    wrong = np.concatenate([batch["bad"] for batch in made])
    weights = np.concatenate([batch["target_weight"].sum(axis=(1, 2)) for batch in made])
    assert wrong.sum() == 2  # 24 examples are two epochs
    assert (weights[wrong == 1] == 0).all() and (weights[wrong == 0] > 0).all()
