"""Questions from files to scores: the built-in world's, answered by a system that knows nothing."""

import json

import jax.numpy as jnp
import pytest
import test_evaluate
from jax.sharding import PartitionSpec

from input_pipeline import prepare, scenes
from regionjax import checkpoint, scoreboard, workdir
from regionjax.config import ConfigError, build
from regionjax.evaluate import evaluate
from regionjax.settings import Settings
from regionjax.step import TrainState
from regionjax.systems.system import System


def build_system(config, spec):
    """Says token 3; finds a text the likelier the brighter the image and the smaller the region."""

    def generate(params, batch, rng, *, eos_id, config):
        tokens = jnp.zeros((*batch["prompt"].shape[:2], config.max_new_tokens), jnp.int32)
        return tokens.at[:, :, 0].set(3).at[:, :, 1].set(eos_id)

    def caption_nll(params, batch):
        light = batch["image"].mean((1, 2, 3))[:, None, None] / 255
        area = batch["region_mask"].mean((2, 3))[..., None] / 255
        return batch["target"].max(-1) / 100 * (1 + area) - light

    return System(
        init=lambda rng, batch: ({"word": jnp.full((4,), 3.0)}, {}),
        losses=None,
        loss_names=("caption",),
        predict={"generate": generate, "caption_nll": caption_nll},
        sharding_rules=(("word", PartitionSpec("fsdp")),),
        vocabulary=1000,
        flops=dict,
    )


def configured(root, **changes):
    settings = {
        "data.mixture": {"vqav2": 1.0, "vcr": 1.0},
        "data.vocabulary_size": 400,
        "batch.prompt_length": 24,
        "batch.text_length": 44,
        "evaluate.max_images": 3,
        "evaluate.choices_by": ("likelihood", "digit"),
    }
    return test_evaluate.config(root, **(settings | changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder of a run, scores) of an evaluation of 3 images of the built-in world."""
    root, folder = (tmp_path_factory.mktemp(name) for name in ("world", "run"))
    scenes.write_world(
        root, seed=0, train=5, val=0, test=0, questions=True, processes=1, progress=False
    )
    config = configured(root)
    settings = build(Settings, config, "config")
    prepare.ensure(settings.data, settings.batch, folder / "data", processes=1, progress=False)
    count = jnp.zeros((), jnp.int32)
    state = TrainState(count, {"word": jnp.full((4,), 3.0)}, {}, (), count, count)
    saved = checkpoint.Checkpoints(folder / "checkpoints")
    saved.save(1, state, 0, {"step": 1, "tally": {"seconds": {}, "counts": {}}})
    saved.close()
    return root, folder, evaluate(config, folder, build_system=build_system)


def test_every_question_is_asked_in_every_way(run):
    _, folder, scores = run
    for key in ("vqav2/accuracy", "vqav2_no_image/accuracy", "vcr/q_a", "vcr_no_region/qa_r",
                "vcr_no_image/q_ar"):  # fmt: skip
        assert 0 <= scores[f"{key}_low"] <= scores[key] <= scores[f"{key}_high"] <= 1
    assert "vqav2_no_region/accuracy" not in scores  # VQAv2 points at nothing
    assert scores["vcr/chance_q_a"] == 1 / 4 and scores["vcr/chance_q_ar"] == 1 / 16
    items = json.loads((folder / "report.json").read_text())["about"]["items"]
    # prompts with four numbered texts do not fit
    assert scores["vcr_digit/left_out"] == items["vcr"] > 5 and "vcr_digit/q_a" not in scores


def test_questions_may_be_longer_than_in_training(run):
    root, folder, before = run
    config = configured(root, **{"evaluate.prompt_length": 250, "evaluate.target_length": 60})
    scores = evaluate(config, folder, build_system=build_system)
    about = json.loads((folder / "report.json").read_text())["about"]
    assert scores["vcr_digit/left_out"] == 0 and 0 <= scores["vcr_digit/q_a"] <= 1
    assert "vcr_digit/q_a " in scoreboard.summary(scores)
    assert not any("too_long" in why for why in about["left_out"])
    assert scores["vqav2/accuracy"] == before["vqav2/accuracy"]


def test_another_split_may_be_evaluated(run):
    root, folder, _ = run
    workdir.check(folder, configured(root, **{"data.eval_split": "val"}))
    with pytest.raises(ConfigError, match="data.train_split: absent -> val"):
        workdir.check(folder, configured(root, **{"data.train_split": "val"}))


def test_predictions_are_of_the_files_questions(run):
    root, folder, _ = run
    asked = json.loads((root / "vqav2/v2_OpenEnded_mscoco_train2014_questions.json").read_text())
    known = {question["question_id"]: question["image_id"] for question in asked["questions"]}
    predictions = json.loads((folder / "predictions/vqav2.json").read_text())
    found = [known[prediction["question_id"]] for prediction in predictions]
    assert len({*found}) == 3  # max_images
    assert len(found) == sum(image in found for image in known.values())
    assert len({prediction["answer"] for prediction in predictions}) == 1
