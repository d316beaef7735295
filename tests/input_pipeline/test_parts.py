"""Prepared folders: which parts a config finds in them, and what is said where it does not."""

import dataclasses
import json

import pytest
from data_folder import write_folder

from input_pipeline import parts, prepare
from input_pipeline.data_config import DataConfig
from input_pipeline.errors import DataError
from input_pipeline.tokens import Tokenizer


def command(*arguments):
    prepare.main([*map(str, arguments), "--processes", "1"])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two prepared folders: `one` has coco (train, val) and refer (val), `two` has told (train)."""
    root = write_folder(write_folder(tmp_path_factory.mktemp("data"), 3), 2, "val", 1001)
    folder = tmp_path_factory.mktemp("prepared")
    command("coco", "--root", root, "--out", folder / "one")
    command("refer", "--root", root, "--out", folder / "one", "--split", "val")
    places = "--annotations", root / "localized_narratives", "--images", root
    out = "--out", folder / "two", "--split", "train", "--name", "told"
    command("localized_narratives", *places, *out)
    return folder


def config(folder, mixture, **changes):
    folders = tuple(str(folder / name) for name in ("one", "two"))
    return DataConfig(**{"mixture": mixture, "prepared": folders, "location_bins": 16} | changes)


def test_a_run_reads_what_was_prepared(prepared, tmp_path):
    data = config(prepared, {"coco": 1.0, "told": 1.0, "refer": 0.0})
    facts = prepare.ensure(data, None, tmp_path / "run", processes=1, progress=False)
    assert facts["parts"].keys() == {"coco-train", "told-train", "coco-val", "refer-val"}
    assert not (tmp_path / "run/records").exists()  # nothing was made of a root
    train = parts.train_parts(data, tmp_path / "run")
    assert list(train) == ["coco", "told"]  # refer has weight 0
    assert [record.image_id for record in train["told"].records()] == ["1", "2", "3"]
    assert train["told"].records()[0].source == "localized_narratives"
    evaluated = parts.eval_parts(data, tmp_path / "run")
    assert {name: len(part.records()) for name, part in evaluated.items()} == {
        "coco": 2,
        "refer": 2,
    }
    # Of several sets those are evaluated that have the split; of those of weight 0 one must.
    both = dataclasses.replace(data, mixture={"coco": 1.0, "told": 0.0, "refer": 0.0})
    assert list(parts.eval_parts(both, tmp_path / "run")) == ["coco", "refer"]
    without = dataclasses.replace(data, mixture={"coco": 1.0, "told": 0.0})
    with pytest.raises(DataError, match="told was prepared without the split val"):
        parts.eval_parts(without, tmp_path / "run")
    assert "narrate → Then comes blue" in {entry["example"] for entry in facts["lengths"]}
    again = dataclasses.replace(data, prepared=tuple(reversed(data.prepared)))
    assert prepare.ensure(again, None, tmp_path / "run", progress=False) == facts
    alone = DataConfig(mixture={"coco": 1.0}, prepared=str(prepared / "one"))
    assert alone.prepared == (str(prepared / "one"),)


def test_normalised_texts_are_counted_as_they_are_learnt(prepared, tmp_path):
    data = config(prepared, {"told": 1.0, "coco": 1.0}, normalize_text=True)
    facts = prepare.ensure(data, None, tmp_path / "run", processes=1, progress=False)
    assert "narrate → then comes blue" in {entry["example"] for entry in facts["lengths"]}
    tokenizer = Tokenizer(tmp_path / "run/tokenizer")
    assert tokenizer.decode(tokenizer.encode("Then then")) == "<unk> then"
    with pytest.raises(DataError, match="normalize_text: True → None"):
        data = dataclasses.replace(data, normalize_text=False)
        prepare.ensure(data, None, tmp_path / "run", processes=1, progress=False)


def test_prepared_and_root_together(prepared, own_folder, tmp_path):
    data = config(prepared, {"told": 1.0, "coco": 1.0, "refer": 1.0}, eval_split="train")
    data = dataclasses.replace(data, root=str(own_folder), prepared=data.prepared[1:])
    prepare.ensure(data, None, tmp_path, processes=1, progress=False)
    found = parts.train_parts(data, tmp_path)
    assert {name: part.folder.name for name, part in found.items()} == {
        "told": "two",
        "coco": tmp_path.name,
        "refer": tmp_path.name,
    }


def test_what_is_missing_is_named(prepared, tmp_path):
    def ensure(mixture, **changes):
        data = config(prepared, mixture, **changes)
        prepare.ensure(data, None, tmp_path / "run", processes=1, progress=False)

    with pytest.raises(DataError, match="coca is neither prepared in .*two nor a .*mean `coco`"):
        ensure({"coca": 1.0})
    with pytest.raises(DataError, match="refcoco_umc is .* = '/no'; did you mean `refcoco_unc`"):
        ensure({"refcoco_umc": 1.0}, root="/no")
    with pytest.raises(DataError, match="refer was prepared without its split train; known: val"):
        ensure({"refer": 1.0})
    with pytest.raises(DataError, match="told was prepared without the split val to evaluate on"):
        ensure({"told": 1.0})
    with pytest.raises(DataError, match="told was prepared without the split val to evaluate on"):
        ensure({"coco": 1.0, "told": 0.0})
    with pytest.raises(DataError, match="neither prepared in data.prepared, which is empty"):
        ensure({"coco": 1.0}, prepared=())


def test_a_name_in_two_folders_is_an_error(prepared, own_folder, tmp_path):
    out = "--out", tmp_path / "three", "--split", "train"
    command("coco", "--root", own_folder, *out)
    data = config(prepared, {"coco": 1.0})
    data = dataclasses.replace(data, prepared=(*data.prepared, str(tmp_path / "three")))
    with pytest.raises(DataError, match="coco is in .*one and in .*three; .* another --name"):
        prepare.ensure(data, None, tmp_path / "run", progress=False)


def test_a_run_keeps_to_its_records(own_folder, tmp_path):
    data = DataConfig(mixture={"coco": 1.0}, prepared=(str(tmp_path / "out"),), location_bins=16)
    data = dataclasses.replace(data, eval_split="train")
    where = "coco", "--root", own_folder, "--split", "train", "--out"
    command(*where, tmp_path / "out")
    prepare.ensure(data, None, tmp_path / "run", progress=False)
    path = own_folder / "annotations/captions_train2017.json"
    path.write_text(path.read_text().replace("noise", "dust!"))
    command(*where, tmp_path / "other")
    data = dataclasses.replace(data, prepared=(str(tmp_path / "other"),))
    with pytest.raises(DataError, match="on other records of coco-train .captions_train2017.json"):
        prepare.ensure(data, None, tmp_path / "run", progress=False)


def test_open_records_names_what_is_there(tmp_path):
    with pytest.raises(DataError, match="no prepared data"):
        parts.open_records(tmp_path, "coco", "train")
    facts = {"format": parts.FORMAT, "parts": {"coco-train": {}}}
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match="no records coco-trian; did you mean `coco-train`"):
        parts.open_records(tmp_path, "coco", "trian")
    (tmp_path / "dataset.json").write_text(json.dumps({"inputs": {"format": 2}}))
    with pytest.raises(DataError, match="in another format .None, now"):
        parts.open_records(tmp_path, "coco", "train")
