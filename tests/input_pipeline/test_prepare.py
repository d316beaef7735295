"""Preparing data: what is written, doing it again, going on after a kill, refusing other inputs."""

import dataclasses
import json
import multiprocessing
import os
import signal

import pytest
from data_folder import write_folder

from input_pipeline import prepare
from input_pipeline.data_config import DataConfig, WorldConfig
from input_pipeline.errors import DataError
from input_pipeline.images import BadImage
from input_pipeline.records import open_records
from input_pipeline.tokens import Tokenizer
from regionjax.batch import BatchSpec

MIXTURE = {"coco": 1.0, "refer": 2.0, "localized_narratives": 1.0}
SPEC = BatchSpec(
    image_size=32,
    mask_size=8,
    regions=4,
    points=3,
    prompt_length=6,
    target_length=8,
    text_length=12,
)


def config(root, **changes):
    return DataConfig(**{"root": str(root), "mixture": MIXTURE, "location_bins": 16} | changes)


def ensure(data, directory, spec=SPEC, processes=1):
    return prepare.ensure(data, spec, directory, processes=processes, progress=False)


def contents(directory):
    """{path: (bytes, time of change)} of a folder."""
    files = (path for path in directory.rglob("[!.]*") if path.is_file())
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(prepare, "_SHARD", 5)


def test_what_is_prepared(folder, tmp_path, small_shards):
    facts = ensure(config(folder), tmp_path)
    assert facts == json.loads((tmp_path / "dataset.json").read_text())
    assert {part: summary["records"] for part, summary in facts["records"].items()} == {
        f"{source}-{split}": count
        for source in MIXTURE
        for split, count in (("train", 12), ("val", 4))
    }
    coco = facts["records"]["coco-train"]
    assert coco["annotations"] == {"phrase": 30, "expression": 18, "caption": 12}
    assert coco["files"] == [f"coco-train-{n:05d}.array_record" for n in range(3)]
    assert "top-left" in facts["coordinates"]
    records = open_records(tmp_path, "coco", "train")
    assert [record.image_id for record in records] == [str(n) for n in range(1, 13)]
    tokenizer = Tokenizer(tmp_path / "tokenizer")
    assert (tokenizer.size, tokenizer.location_bins) == (facts["tokenizer"]["size"], 16)
    for text in ("describe", "locate the red one", "Then comes blue", "2 blue on noise"):
        assert "<unk>" not in tokenizer.decode(tokenizer.encode(text))
    lengths = {(e["task"], e["prompt"], e["target"]): e["count"] for e in facts["lengths"]}
    assert lengths["locate", 4, 5] == 1 and lengths["narrate", 1, 4] == 2
    assert not list(tmp_path.rglob("*.part")) and not (tmp_path / "inputs.json").exists()


def test_again_does_nothing(folder, tmp_path):
    ensure(config(folder), tmp_path)
    before = contents(tmp_path)
    ensure(config(folder, workers=2, mixture=dict.fromkeys(MIXTURE, 9.0)), tmp_path)
    assert contents(tmp_path) == before


def test_number_of_processes_changes_nothing(folder, tmp_path, small_shards):
    data = config(folder, mixture={"coco": 1.0})
    ensure(data, tmp_path / "one")
    ensure(data, tmp_path / "two", processes=2)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert {name: data for name, (data, _) in one.items()} == {
        name: data for name, (data, _) in two.items()
    }


def _killed_after(shards, data, directory):
    write = prepare._write_shard

    def write_or_die(*arguments):
        nonlocal shards
        if shards == 0:
            arguments[2].with_name("half.array_record.part").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        shards -= 1
        return write(*arguments)

    prepare._SHARD, prepare._write_shard = 5, write_or_die
    ensure(data, directory)


def test_goes_on_after_a_kill(folder, tmp_path, small_shards):
    ensure(config(folder), tmp_path / "whole")
    directory = tmp_path / "killed"
    child = multiprocessing.get_context("spawn").Process(
        target=_killed_after, args=(4, config(folder), directory)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL and not (directory / "dataset.json").exists()
    written = {name: time for name, (_, time) in contents(directory / "records").items()}
    assert len(written) == 2 * 4 + 1  # four shards with their JSON, and a half one
    ensure(config(folder), directory)
    after = contents(directory)
    for name, time in written.items():
        assert after[name][1] == time or name.endswith(".part")
    whole = contents(tmp_path / "whole")
    assert {name: data for name, (data, _) in after.items() if ".part" not in name} == {
        name: data for name, (data, _) in whole.items()
    }


def test_half_prepared_from_other_inputs_starts_anew(folder, own_folder, tmp_path):
    directory = tmp_path / "prepared"
    data = config(own_folder, eval_split="train")
    (own_folder / "train2017/000000000003.jpg").rename(own_folder / "away.jpg")
    with pytest.raises(BadImage):
        ensure(data, directory)
    facts = ensure(config(folder), directory)
    assert facts["records"]["coco-train"]["records"] == 12


def test_other_inputs_are_refused(own_folder, tmp_path):
    directory = tmp_path / "prepared"
    data = config(own_folder, eval_split="train")
    ensure(data, directory)
    before = contents(directory)
    with pytest.raises(DataError, match="location_bins: 16 → 32.*delete it or prepare into"):
        ensure(dataclasses.replace(data, location_bins=32), directory)
    with pytest.raises(DataError, match=r"sources: \['coco', 'loc.* → \['coco'\]"):
        ensure(dataclasses.replace(data, mixture={"coco": 1.0}), directory)
    path = own_folder / "annotations/captions_train2017.json"
    path.write_text(path.read_text().replace("noise", "dust!"))
    with pytest.raises(DataError, match="captions_train2017.json: '.*' → '.*'"):
        ensure(data, directory)
    assert contents(directory) == before


def test_bad_images_stop_or_are_counted(own_folder, tmp_path):
    path = own_folder / "train2017/000000000002.jpg"
    path.write_bytes(path.read_bytes()[:500])
    data = config(own_folder, eval_split="train")
    with pytest.raises(BadImage, match=r"train2017/000000000002.jpg \(500 bytes\)"):
        ensure(data, tmp_path / "stop")
    facts = ensure(dataclasses.replace(data, on_bad="skip"), tmp_path / "skip")
    for source in MIXTURE:
        summary = facts["records"][f"{source}-train"]
        assert summary["records"] == 2 and summary["skipped_images"]["count"] == 1
        assert "000000000002.jpg" in summary["skipped_images"]["first"][0]
    with pytest.raises(DataError, match="leaves out 1 images of coco-train, .*000002.jpg"):
        ensure(data, tmp_path / "skip")


def test_empty_data_is_an_error(own_folder, tmp_path):
    path = own_folder / "annotations/instances_train2017.json"
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    (own_folder / "annotations/captions_train2017.json").unlink()
    with pytest.raises(DataError, match="coco-train of .* is empty"):
        ensure(config(own_folder, eval_split="train"), tmp_path / "prepared")


def test_long_texts_stop_or_are_left_out(folder, tmp_path):
    short = dataclasses.replace(SPEC, target_length=4, text_length=10)
    with pytest.raises(
        DataError, match="5 of 12 texts .* such as .*: a target of 5 tokens, target_length is 4"
    ):
        ensure(config(folder), tmp_path, short)
    ensure(config(folder, on_long="skip"), tmp_path, short)  # the folder itself is the same
    with pytest.raises(DataError, match="a text of 4 [+] 5 tokens, text_length is 8"):
        ensure(config(folder), tmp_path, dataclasses.replace(SPEC, text_length=8))


def test_tokenizer_directory(folder, shared_data, tmp_path):
    source = shared_data / "tokenizers" / "t5"
    facts = ensure(config(folder, tokenizer=str(source)), tmp_path, None)
    assert facts["tokenizer"] == {"size": 32116, "location_base": 32100}
    with pytest.raises(DataError, match="tokenizer: '.*' → None; vocabulary_size: None → 8192"):
        ensure(config(folder), tmp_path)


def test_the_built_in_world(tmp_path):
    world = WorldConfig(seed=0, train=3, val=2, test=0)
    facts = ensure(config(tmp_path / "world", world=world), tmp_path / "prepared", None)
    assert {part: summary["records"] for part, summary in facts["records"].items()} == {
        f"{source}-{split}": count
        for source in MIXTURE
        for split, count in (("train", 3), ("val", 2))
    }
    for source in ("coco", "refer"):
        for record in open_records(tmp_path / "prepared", source, "val"):
            masks = [proposal.mask for proposal in record.proposals]
            things = [a.region.mask for a in record.annotations if a.kind == "expression"]
            assert things and len(masks) > 1
    assert not open_records(tmp_path / "prepared", "refer", "train")[0].proposals


def test_world_is_written_first(tmp_path, monkeypatch):
    calls = []

    def write_world(root, **arguments):
        calls.append(arguments)
        write_folder(tmp_path / "world", 3)

    monkeypatch.setattr(prepare.scenes, "write_world", write_world)
    world = WorldConfig(seed=5, train=3, val=0, test=0, image_size=96)
    data = config(tmp_path / "world", world=world, eval_split="train")
    assert ensure(data, tmp_path / "prepared")["records"]["coco-train"]["records"] == 3
    expected = dict(seed=5, train=3, val=0, test=0, image_size=96, processes=1, progress=False)
    assert calls == [expected]


def test_command(own_folder, tmp_path, capsys):
    arguments = ["coco", "refer", "--root", str(own_folder), "--processes", "1"]
    with pytest.raises(SystemExit) as error:
        prepare.main(arguments)
    assert error.value.code == 2 and "--out is needed" in capsys.readouterr().err
    arguments += ["--out", str(tmp_path / "out"), "--location_bins", "16"]
    with pytest.raises(SystemExit) as error:
        prepare.main(arguments)
    assert error.value.code == 1 and "instances_val2017.json" in capsys.readouterr().err
    prepare.main([*arguments, "--eval_split", "train"])
    shown = capsys.readouterr().out
    assert 'refer-train: {"records": 3' in shown and "longest texts in tokens" in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixture": {}}, "mixture is empty"),
        ({"mixture": {"coco": 0}}, r"mixture\['coco'\] = 0"),
        ({"on_bad": "ignore"}, "on_bad = 'ignore'; expected 'stop' or 'skip'"),
        ({"as_mask": 0.7}, "must be shares of 1"),
        ({"location_bins": 1}, "location_bins = 1"),
        ({"threads": -1}, "workers and threads"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        config("somewhere", **change)
