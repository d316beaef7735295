"""The training stream: the same whoever makes it, continued where it stopped, mixed by ratio."""

import collections
import json

import numpy as np
import pytest

from input_pipeline import loader, mixture, prepare
from input_pipeline.data_config import DataConfig
from input_pipeline.errors import DataError
from input_pipeline.images import BadImage, decode_image
from input_pipeline.parts import open_records
from input_pipeline.records import BadRecord, Record, write_shard
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
    shares = {"coco": 1, "localized_narratives": 1, "refer": 2}
    assert state == {"examples": 24, "phases": [[0, shares]]}


@pytest.fixture(scope="module")
def whole(prepared):
    """Ten batches of one process without threads; 12 records a component end at examples 24, 48."""
    return batches(prepared, 10, threads=0)[0]


def test_workers_and_threads_change_nothing(prepared, whole):
    for changes in ({"threads": 3}, {"workers": 2, "threads": 1}):
        same(batches(prepared, 4, **changes)[0], whole[:4])


@pytest.mark.parametrize(("done", "workers"), [(2, 1), (5, 3)])
def test_continues_with_any_number_of_workers(prepared, whole, done, workers):
    _, state = batches(prepared, done)
    same(batches(prepared, 2, state=state, workers=workers)[0], whole[done : done + 2])


@pytest.mark.parametrize("done", [2, 5])  # in the middle of an epoch, and across the end of two
@pytest.mark.parametrize(
    ("before", "after"), [(1, 1), (1, 2), (1, 4), (2, 1), (2, 4), (4, 1), (4, 2), (4, 4)]
)
def test_any_number_of_processes_makes_the_same_batches(prepared, whole, done, before, after):
    states = []
    for index in range(before):
        made, state = batches(prepared, done, process=(index, before), threads=0)
        same(made, [part(batch, index, before) for batch in whole[:done]])
        states.append(state)
    assert all(state == states[0] for state in states)
    for index in range(after):
        made, _ = batches(prepared, 3, state=states[-1], process=(index, after), threads=0)
        same(made, [part(batch, index, after) for batch in whole[done : done + 3]])


def test_processes_with_workers_continue_as_well(prepared, whole):
    _, state = batches(prepared, 5, process=(3, 4), threads=0)
    made, _ = batches(prepared, 2, state=state, process=(1, 2), workers=4, threads=1)
    same(made, [part(batch, 1, 2) for batch in whole[5:7]])


def part(batch, index, count):
    return {name: value[index::count] for name, value in batch.items()}


def test_a_mixture_changes_and_components_go_on(prepared, whole, caplog):
    _, state = batches(prepared, 3, threads=0)
    caplog.clear()
    changed = {"coco": 3.0, "refer": 1.0}
    made, later = batches(prepared, 4, state=state, mixture=changed)
    assert (
        "changes from example 24 on, from coco 25.00%, localized_narratives 25.00%, refer 50.00% "
        "to coco 75.00%, refer 25.00%"
    ) in caplog.text
    parts = loader.open_parts(config(""), prepared, 0)
    phases = mixture.Mixture(later["phases"])
    seen = collections.Counter()
    images = np.concatenate([batch["image"] for batch in [*whole[:3], *made]])
    for place, image in enumerate(images):
        name, _ = phases.locate(place)
        record = Record.decode(parts[name][seen[name]])  # the next one of its component
        np.testing.assert_array_equal(image, decode_image(record.image, 32, ""))
        seen[name] += 1
    assert seen == {"coco": 6 + 24, "refer": 12 + 8, "localized_narratives": 6}
    caplog.clear()
    again, state = batches(prepared, 2, state=later, mixture=changed)
    assert "changes" not in caplog.text and state["phases"] == later["phases"]
    back, state = batches(prepared, 2, state=later)  # and what was left out comes back
    assert "changes from example 56 on" in caplog.text
    names = [mixture.Mixture(state["phases"]).locate(56 + n) for n in range(16)]
    assert {index for name, index in names if name == "localized_narratives"} == {6, 7, 8, 9}
    assert (again[0]["image"] != back[0]["image"]).any()


def test_mixed_by_regions(prepared):
    """Slots of 3 that records fill: phrases and captions 3, two expressions 3, sentences 2."""
    made, state = batches(prepared, 9, mixture_by="regions", threads=0)
    assert state["phases"] == [[0, {"coco": 2, "localized_narratives": 3, "refer": 4}]]
    slots = collections.Counter()
    mixed = mixture.Mixture(state["phases"])
    filled = np.concatenate([batch["target_weight"].any(-1).sum(-1) for batch in made])
    for place, number in enumerate(filled.tolist()):
        slots[mixed.locate(place)[0]] += number
    assert slots == {"coco": 48, "localized_narratives": 48, "refer": 96}


def test_regions_of_a_mixture_are_those_that_are_trained(prepared):
    """Without names, a coco record is a caption, and a narrative's two sentences stay two."""
    changes = {"mixture_by": "regions", "threads": 0}
    few = dict.fromkeys(("describe", "locate", "refer"), 0)
    with pytest.raises(DataError, match="no record of refer has anything to say that is trained"):
        batches(prepared, 1, **changes, task_weights=few)
    both = {"coco": 1.0, "localized_narratives": 2.0}
    made, state = batches(prepared, 3, **changes, task_weights=few, mixture=both)
    assert state["phases"] == [[0, {"coco": 1, "localized_narratives": 1}]]
    filled = np.concatenate([batch["target_weight"].any(-1).sum(-1) for batch in made])
    assert filled.tolist() == [1, 2] * 12


def test_seeds_differ(prepared):
    one, two = (batches(prepared, 1, seed=seed)[0][0]["image"] for seed in (0, 1))
    assert (one != two).any()


def test_components_come_by_their_weights_and_epochs_are_whole(prepared):
    shares = mixture.whole_shares(MIXTURE)
    parts = loader.open_parts(config(""), prepared, 0)
    stream = mixture.MixedSource(mixture.Mixture([[0, shares]]), parts)
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


def test_the_order_in_a_config_decides_nothing(prepared):
    same(batches(prepared, 2, mixture=dict(reversed(MIXTURE.items())))[0], batches(prepared, 2)[0])


def test_batch_size_must_be_shared_evenly(prepared):
    with pytest.raises(ValueError, match="batch size 9 is not a multiple of 2 processes"):
        batches(prepared, 1, size=9, process=(0, 2))


def test_sources_must_be_prepared(prepared):
    with pytest.raises(DataError, match="nothing is called refcoco_unc in "):
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
    with pytest.raises(Exception, match=r"coco:train2017/0+5.jpg \(200 bytes\)") as error:
        batches(broken, 2, mixture={"coco": 1.0}, **changes)
    assert changes.get("workers") or isinstance(error.value, BadImage)  # Grain wraps a worker's


@pytest.fixture
def damaged(prepared, tmp_path):
    """The prepared folder with a few bytes of a file of records overwritten."""
    (tmp_path / "records").mkdir()
    for name in ("dataset.json", "tokenizer"):
        (tmp_path / name).symlink_to(prepared / name)
    name = "records/coco-train-00000.array_record"
    content = (prepared / name).read_bytes()
    place = content.index(open_records(prepared, "coco", "train")[4].image) + 100
    (tmp_path / name).write_bytes(content[:place] + bytes(20) + content[place + 20 :])
    return tmp_path


def test_damaged_records_stop_with_their_file_or_are_counted(damaged):
    with pytest.raises(BadRecord, match=r"coco-train-00000.array_record, record 4: .*hash"):
        batches(damaged, 2, mixture={"coco": 1.0})
    made, _ = batches(damaged, 3, mixture={"coco": 1.0}, on_bad="skip")
    assert np.concatenate([batch["bad"] for batch in made]).sum() == 2  # two epochs
    (damaged / "records/coco-train-00000.array_record").unlink()
    with pytest.raises(DataError, match="00000.array_record, which dataset.json names, is not th"):
        batches(damaged, 1, mixture={"coco": 1.0}, on_bad="skip")


def test_bad_image_is_counted_on_request(broken):
    made, _ = batches(broken, 3, mixture={"coco": 1.0}, on_bad="skip")
    wrong = np.concatenate([batch["bad"] for batch in made])
    weights = np.concatenate([batch["target_weight"].sum(axis=(1, 2)) for batch in made])
    assert wrong.sum() == 2  # 24 examples are two epochs
    assert (weights[wrong == 1] == 0).all() and (weights[wrong == 0] > 0).all()
