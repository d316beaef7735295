"""What training prepares: parts, tokenizer, lengths; again, after a kill, from other inputs."""

import dataclasses
import json
import multiprocessing
import os
import pathlib
import signal
import time

import pytest
from data_folder import write_folder

from input_pipeline import prepare, shards, tasks
from input_pipeline.data_config import DataConfig, WorldConfig
from input_pipeline.errors import DataError
from input_pipeline.images import BadImage
from input_pipeline.mixture import wanted
from input_pipeline.parts import open_records
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
    monkeypatch.setattr(shards, "SHARD", 5)
    monkeypatch.setattr(shards, "FEW", 5)


def test_what_is_prepared(folder, tmp_path, small_shards):
    facts = ensure(config(folder), tmp_path)
    written = json.loads((tmp_path / "dataset.json").read_text())
    assert facts["parts"] == written["parts"]
    assert {part: about["records"] for part, about in facts["parts"].items()} == {
        f"{source}-{split}": count
        for source in MIXTURE
        for split, count in (("train", 12), ("val", 4))
    }
    coco = facts["parts"]["coco-train"]
    assert coco["annotations"] == {"phrase": 30, "expression": 18, "caption": 12}
    # Two things and a caption, of which both things are without a twin, or three and a caption,
    # of which one is: an expression can be named and looked for.
    assert coco["candidates"] == {
        "1 caption, 2 describe, 2 locate, 2 refer": 6,
        "1 caption, 3 describe, 1 locate, 1 refer": 6,
    }
    assert coco["files"] == {
        f"coco-train-{n:05d}.array_record": count for n, count in enumerate((5, 5, 2))
    }
    assert coco["photographs"] == {"coco": 12, "other": 0}
    assert coco["licence"].startswith("COCO") and set(coco["versions"]) == {
        "python",
        "regionjax",
        "array_record",
        "pillow",
    }
    assert "top-left" in written["coordinates"]
    records = open_records(tmp_path, "coco", "train")
    assert [record.image_id for record in records] == [str(n) for n in range(1, 13)]
    tokenizer = Tokenizer(tmp_path / "tokenizer")
    assert (tokenizer.size, tokenizer.location_bins) == (facts["tokenizer"]["size"], 16)
    for text in ("describe", "locate the red one", "Then comes blue", "2 blue on noise"):
        assert "<unk>" not in tokenizer.decode(tokenizer.encode(text))
    lengths = {(e["task"], e["prompt"], e["target"]): e["count"] for e in facts["lengths"]}
    # "locate the red one" (and "locate red box") of 16 images; two sentences of a narrative.
    assert lengths["locate", 4, 5] == 16
    assert lengths["narrate", 1, 4] == 2 * 16
    assert sum(lengths.values()) == sum(
        number * count
        for about in facts["parts"].values()
        for number, count in wanted(about["candidates"], {}).items()
    )
    names = {path.name for path in tmp_path.rglob("*")}
    assert not {name for name in names if name.endswith((".part", ".inputs.json"))}


def test_again_does_nothing(folder, tmp_path):
    facts = ensure(config(folder), tmp_path)
    before = contents(tmp_path)
    assert ensure(config(folder, workers=2, mixture=dict.fromkeys(MIXTURE, 9.0)), tmp_path) == facts
    after = contents(tmp_path)
    assert after.pop("texts.json")[0] == before.pop("texts.json")[0]
    assert after == before


def test_number_of_processes_changes_nothing(folder, tmp_path, small_shards):
    data = config(folder, mixture={"coco": 1.0})
    ensure(data, tmp_path / "one")
    ensure(data, tmp_path / "two", processes=2)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert {name: data for name, (data, _) in one.items()} == {
        name: data for name, (data, _) in two.items()
    }


def _killed_after(whole, data, directory):
    write = shards.write_shard

    def write_or_die(path, records):
        nonlocal whole
        if whole == 0:
            path.with_name(f"{path.name}.part").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        whole -= 1
        return write(path, records)

    shards.SHARD, shards.write_shard = 5, write_or_die
    ensure(data, directory)


def test_goes_on_after_a_kill(folder, tmp_path, small_shards):
    ensure(config(folder), tmp_path / "whole")
    directory = tmp_path / "killed"
    child = multiprocessing.get_context("spawn").Process(
        target=_killed_after, args=(2, config(folder), directory)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL and not (directory / "dataset.json").exists()
    written = {name: time for name, (_, time) in contents(directory / "records").items()}
    shards_left = {name for name in written if "-0000" in name and ".part" not in name}
    assert shards_left == {f"coco-train-0000{n}.{end}" for n in (0, 1) for end in _ENDS}
    (directory / "records/coco-train-00007.array_record.items.part").write_bytes(b"waiting")
    ensure(config(folder), directory)
    after = contents(directory)
    for name in shards_left:
        assert after[name][1] == written[name]
    whole = contents(tmp_path / "whole")
    assert {name: data for name, (data, _) in after.items()} == {
        name: data for name, (data, _) in whole.items()
    }


_ENDS = ("array_record", "json")


def _in_two_processes(data, directory):
    shards.SHARD = shards.FEW = 2
    ensure(data, directory, processes=2)


def test_workers_end_with_a_killed_command(folder, tmp_path, monkeypatch):
    child = multiprocessing.get_context("spawn").Process(
        target=_in_two_processes, args=(config(folder), tmp_path / "killed")
    )
    child.start()
    while child.is_alive() and not list(tmp_path.glob("killed/records/*-00000.json")):
        time.sleep(0.01)
    children = pathlib.Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    child.kill()
    child.join()
    began = time.monotonic()
    while any(map(_runs, children)) and time.monotonic() - began < 20:
        time.sleep(0.05)
    assert len(children) >= 2 and not any(map(_runs, children))
    monkeypatch.setattr(shards, "SHARD", 2)
    ensure(config(folder), tmp_path / "killed")
    ensure(config(folder), tmp_path / "whole")
    one, two = contents(tmp_path / "killed"), contents(tmp_path / "whole")
    assert {name: data for name, (data, _) in one.items()} == {
        name: data for name, (data, _) in two.items()
    }


def _runs(process):
    """Whether a process is there and is not only waiting to be noticed as ended."""
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_half_prepared_from_other_inputs_starts_anew(folder, own_folder, tmp_path, small_shards):
    directory = tmp_path / "prepared"
    data = config(own_folder, eval_split="train", mixture={"coco": 1.0})
    (own_folder / "train2017/000000000003.jpg").rename(own_folder / "away.jpg")
    shard = directory / "records/coco-train-00000.json"
    with pytest.raises(BadImage):
        ensure(data, directory)
    shard.write_text("{}")  # as if it had been complete, and from these inputs
    facts = ensure(config(folder), directory)
    assert facts["parts"]["coco-train"]["records"] == 12


def test_other_inputs_are_refused(own_folder, tmp_path):
    directory = tmp_path / "prepared"
    data = config(own_folder, eval_split="train")
    ensure(data, directory)
    before = contents(directory)
    with pytest.raises(DataError, match="location_bins: 16 → 32.*delete it or prepare into"):
        ensure(dataclasses.replace(data, location_bins=32), directory)
    with pytest.raises(DataError, match="vocabulary_size: 8192 → 4096"):
        ensure(dataclasses.replace(data, vocabulary_size=4096), directory)
    path = own_folder / "annotations/captions_train2017.json"
    path.write_text(path.read_text().replace("noise", "dust!"))
    with pytest.raises(DataError, match="coco-train was .*captions_train2017.json: '.*' → '.*'"):
        ensure(data, directory)
    after = contents(directory)
    assert {n: b for n, (b, _) in after.items()} == {n: b for n, (b, _) in before.items()}


def test_an_option_that_was_not_known_had_its_default(own_folder, tmp_path):
    """What was prepared before its source learnt an option is taken as it is."""
    data = config(own_folder, eval_split="train", mixture={"refer": 1.0})
    ensure(data, tmp_path)

    def note(options):
        """As an earlier version would have noted it, here and in the run's texts."""
        for name in ("dataset.json", "texts.json"):
            noted = json.loads((tmp_path / name).read_text())
            noted["parts"]["refer-train"]["inputs"]["options"] = options
            (tmp_path / name).write_text(json.dumps(noted))

    note({})
    ensure(data, tmp_path)
    note({"sentences": "raw"})
    with pytest.raises(DataError, match="sentences: 'raw' → 'sent'"):
        ensure(data, tmp_path)


def test_a_mixture_may_grow(own_folder, tmp_path):
    one = config(own_folder, eval_split="train", mixture={"coco": 1.0})
    ensure(one, tmp_path / "run")
    tokenizer = contents(tmp_path / "run/tokenizer")
    both = dataclasses.replace(one, mixture={"coco": 1.0, "localized_narratives": 1.0})
    facts = ensure(both, tmp_path / "run")
    assert {entry["task"] for entry in facts["lengths"]} >= {"caption", "narrate"}
    assert contents(tmp_path / "run/tokenizer") == tokenizer
    assert {entry["task"] for entry in ensure(one, tmp_path / "run")["lengths"]} == {
        "describe",
        "caption",
        "refer",
        "locate",
    }


def test_bad_images_stop_or_are_counted(own_folder, tmp_path, monkeypatch):
    path = own_folder / "train2017/000000000002.jpg"
    path.write_bytes(path.read_bytes()[:500])
    data = config(own_folder, eval_split="train")
    monkeypatch.setattr(shards, "FEW", 2)
    for processes in (1, 2):
        with pytest.raises(BadImage, match=r"train2017/000000000002.jpg \(500 bytes\)"):
            ensure(data, tmp_path / f"stop-{processes}", processes=processes)
    facts = ensure(dataclasses.replace(data, on_bad="skip"), tmp_path / "skip")
    for source in MIXTURE:
        about = facts["parts"][f"{source}-train"]
        assert about["records"] == 2 and about["skipped_images"]["count"] == 1
        assert "000000000002.jpg" in about["skipped_images"]["first"][0]
    with pytest.raises(DataError, match="leaves out 1 images of coco-train, .*000002.jpg"):
        ensure(data, tmp_path / "skip")


def test_empty_data_is_an_error(own_folder, tmp_path):
    path = own_folder / "annotations/instances_train2017.json"
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    (own_folder / "annotations/captions_train2017.json").unlink()
    with pytest.raises(DataError, match="coco-train is empty: no usable record in .*data"):
        ensure(config(own_folder, eval_split="train"), tmp_path / "prepared")


def test_long_texts_stop_or_are_left_out(folder, tmp_path):
    short = dataclasses.replace(SPEC, target_length=4, text_length=10)
    # Captions such as "1 blue on noise", with eos: 16; four numbers of a box: 24 + 32 expressions.
    # In all 16 captions, 40 names, 24 and 32 expressions of two tasks, 32 sentences.
    with pytest.raises(
        DataError, match="72 of 200 texts .* such as .*: a target of 5 tokens, target_length is 4"
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
    assert {part: about["records"] for part, about in facts["parts"].items()} == {
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
    assert ensure(data, tmp_path / "prepared")["parts"]["coco-train"]["records"] == 3
    expected = dataclasses.asdict(world) | {"processes": 1, "progress": False}
    assert calls == [expected]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixture": {}}, "mixture is empty"),
        ({"mixture": {"coco": -1.0}}, r"mixture\['coco'\] = -1.0; a weight is a number from 0 up"),
        ({"mixture": {"coco": "much"}}, r"mixture\['coco'\] = 'much'; a weight is a number"),
        ({"mixture": {"coco": 0.0}}, "mixture = .* every weight is 0"),
        ({"task_weights": {"refr": 0.0}}, r"\['refr'\] is the weight of no task.* mean `refer`"),
        ({"task_weights": {"refer": -1}}, r"task_weights\['refer'\] = -1; a weight is a number"),
        ({"task_weights": {"refer": "much"}}, "= 'much'; a weight is a number from 0 up"),
        ({"task_weights": dict.fromkeys(tasks.ALL, 0)}, "task_weights: every weight is 0"),
        ({"on_bad": "ignore"}, "on_bad = 'ignore'; expected 'stop' or 'skip'"),
        ({"as_mask": 0.7}, "must be shares of 1"),
        ({"location_bins": 1}, "location_bins = 1"),
        ({"threads": -1}, "workers and threads"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        config("somewhere", **change)
