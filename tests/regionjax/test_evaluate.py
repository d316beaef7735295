"""The whole evaluation: from a folder with data and a checkpoint to a report."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import toy_benchmark as toy
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from input_pipeline import prepare
from regionjax import checkpoint, report
from regionjax.config import ConfigError, build
from regionjax.evaluate import evaluate
from regionjax.masks import encode_rle, mask_bounds
from regionjax.settings import Settings
from regionjax.step import TrainState
from regionjax.systems.system import System

IMAGES = 6


def config(root, **changes):
    made = ConfigDict(
        {
            "seed": 0,
            "system": "toy",
            "model": {},
            "data": {
                "root": str(root),
                "mixture": {"coco": 1.0},
                "eval_split": "train",
                "vocabulary_size": 64,
                "location_bins": 16,
            },
            "batch": {
                "image_size": 16,
                "mask_size": 8,
                "regions": 3,
                "points": 2,
                "prompt_length": 6,
                "target_length": 20,
                "text_length": 24,
            },
            "losses": {"caption": 1.0},
            "optim": {"learning_rate": 0.01, "weight_decay": ((".*", 0.0),)},
            "train": {"steps": 9, "batch_size": 8},
            "mesh": {"data": 2, "fsdp": 2, "tensor": 2},
            "evaluate": {"max_images": 5, "batch_size": 4, "bootstrap_samples": 50},
        }
    )
    made.update_from_flattened_dict(changes)
    return made


def build_system(config, spec):
    """Says the first word it knows, likes the leftmost proposal and points at the middle."""

    def generate(params, batch, rng, *, eos_id, config):
        del rng
        tokens = jnp.zeros((*batch["prompt"].shape[:2], config.max_new_tokens), jnp.int32)
        return tokens.at[:, :, 0].set(params["word"][0].astype(jnp.int32)).at[:, :, 1].set(eos_id)

    def caption_nll(params, batch):
        del params
        left = batch["region_box"][..., :1] + batch["region_box"][..., 1:2] / 100
        return jnp.broadcast_to(left, batch["target"].shape[:3])

    def heatmap(params, batch):
        del params
        peak = jnp.zeros((4, 4)).at[1:3, 1:3].set(1)
        return jnp.broadcast_to(peak, (*batch["prompt"].shape[:2], 4, 4))

    return System(
        init=lambda rng, batch: ({"word": jnp.full((4,), 3.0)}, {}),
        losses=None,
        loss_names=("caption",),
        predict={"generate": generate, "caption_nll": caption_nll, "heatmap": heatmap},
        sharding_rules=(("word", PartitionSpec("fsdp")),),
        vocabulary=1000,
        flops=dict,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder in COCO's layout; names and captions are those of the toy images."""
    root = tmp_path_factory.mktemp("coco")
    records = [toy.record(index) for index in range(IMAGES)]
    names = sorted({name for record in records for name, _ in record.objects})
    images, instances, captions = [], [], []
    (root / "train2017").mkdir()
    for record in records:
        file = f"{record.image_id}.jpg"
        (root / "train2017" / file).write_bytes(record.image)
        image = int(record.image_id)
        images.append({"id": image, "file_name": file, "width": 96, "height": 96})
        captions.append({"id": image, "image_id": image, "caption": "a picture"})
        for name, mask in record.objects:
            instances.append(
                {
                    "id": len(instances),
                    "image_id": image,
                    "category_id": names.index(name),
                    "segmentation": encode_rle(mask),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    content = {"images": images, "annotations": instances, "categories": categories}
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    content = {"images": images, "annotations": captions}
    (root / "annotations" / "captions_train2017.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def folder(root, tmp_path_factory):
    """A run's folder with prepared data and a checkpoint of step 7."""
    folder = tmp_path_factory.mktemp("run")
    settings = build(Settings, config(root), "config")
    prepare.ensure(settings.data, settings.batch, folder / "data", processes=1, progress=False)
    count = jnp.zeros((), jnp.int32)
    state = TrainState(count, {"word": jnp.full((4,), 3.0)}, {}, (), count, count)
    saved = checkpoint.Checkpoints(folder / "checkpoints")
    tally = {"seconds": {"setup": 5, "train": 30, "input": 10}, "counts": {"regions": 2000}}
    saved.save(7, state, 0, {"step": 7, "tally": tally})
    saved.close()
    return folder


@pytest.fixture(scope="module")
def scores(root, folder):
    return evaluate(config(root), folder, build_system=build_system)


def test_report_is_complete(folder, scores):
    numbers = json.loads((folder / "report.json").read_text())
    about = numbers.pop("about")
    assert numbers == scores
    assert numbers["train/steps"] == 7
    assert numbers["train/regions_per_second"] == 50
    assert numbers["time/total_seconds"] > 45  # this evaluation counts too
    assert (about["images"], about["split"], about["held_out"]) == (5, "train", False)
    assert about["items"]["region_caption"] == 5 * 4
    told = f"coco-train is trained on and evaluated, all of its {IMAGES} photographs"
    assert [overlap.split(":")[0] for overlap in about["trained_on"]] == [told]
    assert told in (folder / "log.txt").read_text()
    assert (folder / "report.html").stat().st_size < 2_000_000
    assert "report: " in (folder / "log.txt").read_text()


def test_scores_by_hand(folder, scores):
    records = [toy.record(index) for index in range(IMAGES)]
    about = json.loads((folder / "report.json").read_text())["about"]
    drawn = sorted(np.random.default_rng(0).permutation(IMAGES)[:5])
    # Proposals are the image's own objects, so the leftmost is right for its own name alone.
    chosen, chance = [], []
    for record in (records[index] for index in drawn):
        names = [name for name, _ in record.objects]
        edges = [mask_bounds(mask)[:2] for _, mask in record.objects]
        for name, edge in zip(names, edges, strict=True):
            if names.count(name) == 1:
                chosen.append(edge == min(edges))
                chance.append(1 / len(names))
    assert about["items"]["expressions"] == len(chosen)
    assert scores["ris/miou"] == pytest.approx(np.mean(chosen))
    assert scores["ris/chance_miou"] == pytest.approx(np.mean(chance))
    assert scores["grounding/acc50"] == 0 and scores["grounding/malformed"] == len(chosen)
    assert scores["pointing/accuracy"] == 0  # the middle of a toy image is empty
    assert scores["image_caption/cider"] == 0
    assert scores["narration/cider"] is None


def test_another_mesh_and_batch_size_give_the_same_scores(root, folder, scores):
    changes = {"mesh.data": 8, "mesh.fsdp": 1, "mesh.tensor": 1, "evaluate.batch_size": 8}
    again = evaluate(config(root, **changes), folder, build_system=build_system)
    timeless = {key for key in scores if not key.startswith("time/")}
    assert {key: again[key] for key in timeless} == {key: scores[key] for key in timeless}


def test_it_goes_on_after_a_stop_and_tidies_up(root, folder, scores, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(report, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(config(root), folder, build_system=build_system)
    assert list((folder / "answers").glob("*/*-caption_nll.npy"))

    def used():
        return json.loads((folder / "report.json").read_text())["about"]["predictor"]

    def scored(**changes):
        found = evaluate(config(root, **changes), folder, build_system=build_system)
        return {key: value for key, value in found.items() if not key.startswith("time/")}

    other = scored(**{"evaluate.seed": 1})  # another evaluation; the first one's answers stay
    assert all(tally["kept"] == 0 for tally in used().values())
    assert len(list((folder / "answers").iterdir())) == 1
    again = scored()
    assert all(tally["kept"] == tally["queries"] > 0 for tally in used().values())
    assert again == {key: scores[key] for key in again} != other
    assert not (folder / "answers").exists()


def test_a_system_without_a_heatmap_points_by_its_scores(root, folder, scores):
    def without_heatmap(config, spec):
        system = build_system(config, spec)
        predict = {name: f for name, f in system.predict.items() if name != "heatmap"}
        return dataclasses.replace(system, predict=predict)

    found = evaluate(config(root), folder, build_system=without_heatmap)
    about = json.loads((folder / "report.json").read_text())["about"]
    assert found["pointing/accuracy"] is None and found["grounding/acc50"] is None
    assert "no heatmap" in str(about["skipped"])
    # Proposals are the objects themselves, so a choice is all right or all wrong.
    assert found["rec/pointing"] == found["rec/acc50"] == found["ris/miou"] == scores["ris/miou"]
    assert found["rec/chance_acc50"] == pytest.approx(found["ris/chance_miou"])


def test_scribbles_and_samplings(root, folder, scores):
    """Everything about proposals and points that a config can ask for, in one evaluation."""
    changes = {
        "evaluate.robustness": {"outside": (0, 0.5), "points": (2,)},
        "evaluate.point_samplings": 2,
        "evaluate.scored_together": 20,
        "evaluate.proposals": {"rule": "sensible", "least_area": 0.0, "most": 3},
    }
    found = evaluate(config(root, **changes), folder, build_system=build_system)
    asked = {"outside/0", "outside/0.5", "points/2"}
    keys = {key for key in found if key.startswith("robustness/")}
    assert {"/".join(key.split("/")[1:3]) for key in keys} == asked
    for end in ("region_caption/exact_match", "ris/miou_low"):
        assert all(f"robustness/{kind}/{end}" in keys for kind in asked)
    # Three of four objects are left to choose from.
    assert found["ris/best_miou"] < 1 == scores["ris/best_miou"]
    text = (folder / "report.html").read_text()
    assert "Careless scribbles" in text
    about = json.loads((folder / "report.json").read_text())["about"]
    assert about["settings"]["proposals"]["most"] == 3
    tally = about["predictor"]["caption_nll"]
    # Each of 3 proposals twice, once for all expressions of an image; of 20 texts that share an
    # encoding of it, 4 are those of a proposal.
    assert about["items"]["expressions"] == 5 * 4
    assert tally["queries"] == 5 * 3 * 2 * (1 + len(asked))
    assert tally["rows"] == 5 * 2 * (1 + len(asked))


def test_no_checkpoint(root, tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match="has no checkpoint yet; train first"):
        evaluate(config(root), tmp_path, build_system=build_system)


def test_settings_are_checked(root, folder):
    with pytest.raises(ConfigError, match="config.evaluate.batchsize .* mean `batch_size`"):
        wrong = config(root)
        wrong.evaluate = {"batchsize": 3}
        evaluate(wrong, folder, build_system=build_system)
    with pytest.raises(ConfigError, match="config.evaluate.batch_size = 6 .* use 8"):
        evaluate(config(root, **{"evaluate.batch_size": 6}), folder, build_system=build_system)


def test_a_failed_write_leaves_the_last_report(folder, scores, monkeypatch):
    before = (folder / "report.json").read_text()
    broken = report.Results({**scores, "x": float("nan")}, {}, {}, [], [])
    with pytest.raises(ValueError, match="JSON compliant"):
        report.write(folder, broken, title="x", gallery=1, seed=0)
    assert (folder / "report.json").read_text() == before
