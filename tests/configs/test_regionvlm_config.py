"""configs/regionvlm.py by shapes alone: every argument builds, and freezes what it says."""

import json
import math
import pathlib

import jax
import pytest

from input_pipeline import tokens
from input_pipeline.data_config import DataConfig
from input_pipeline.records import Annotation, Record
from input_pipeline.trajectory_text import REGIONVLM
from regionjax import config as configs
from regionjax import tables
from regionjax.batch import BatchSpec
from regionjax.config import ConfigError, build
from regionjax.evaluate import questions_about
from regionjax.evaluators.settings import EvaluateConfig, with_lengths
from regionjax.plan import make_program
from regionjax.regions import WHOLE_IMAGE
from regionjax.systems import system as systems

CONFIG = pathlib.Path(__file__).parents[2] / "configs/regionvlm.py"


@pytest.fixture(scope="module", params=["xl", "parity", "base", "tiny"])
def made(request):
    config = configs.load(f"{CONFIG}:{request.param}")
    return request.param, config, make_program(config, jax.devices()[:8])


def sizes(program):
    """(parameters in all, {first name of the path: trained parameters})"""
    flat, trained = tables.flatten(program.state.params, "params"), {}
    for path, leaf in flat.items():
        if not program.optimizer.frozen[path]:
            name = path.split("/")[1]
            trained[name] = trained.get(name, 0) + math.prod(leaf.shape)
    return sum(math.prod(leaf.shape) for leaf in flat.values()), trained


def test_what_is_trained(made):
    arg, _, program = made
    every, trained = sizes(program)
    if arg == "tiny":
        assert set(trained) == {"vit", "qformer", "projection", "t5"}
        assert every == sum(trained.values()) < 3e6
        return
    width = program.settings.model["vit"]["width"]
    assert trained.pop("vit") == 2 * width  # the norm behind it
    assert set(trained) == {"qformer", "projection"}
    if arg != "base":
        assert 3.9e9 < every < 4.2e9 and 1.8e8 < sum(trained.values()) < 2e8
    slots = [leaf.shape for leaf in jax.tree.leaves(program.state.opt_state) if leaf.ndim]
    assert sum(map(math.prod, slots)) == 2 * (sum(trained.values()) + 2 * width)


def test_decay_spares_biases_and_norms_alone(made):
    arg, _, program = made
    if arg == "tiny":
        return
    for path, decay in program.optimizer.decay.items():
        spared = path.endswith(("bias", "scale"))
        assert decay == (0 if spared else 0.05), path


def test_evaluation_settings_are_known(made):
    arg, config, _ = made
    settings = build(EvaluateConfig, config.evaluate, "config.evaluate")
    assert settings.point_samplings == 5
    assert settings.proposals.rule == {"parity": "parity", "tiny": "all"}.get(arg, "sensible")


def test_what_the_config_says_of_regions_that_share_an_image():
    program = make_program(configs.load(f"{CONFIG}:xl"), jax.devices()[:1])

    def cost(regions):  # of training on one image
        config = configs.load(f"{CONFIG}:xl")
        config.batch.regions = regions
        work = systems.build(config, build(BatchSpec, config.batch, "config.batch")).flops()
        return sum(work.training(program.state.params, program.optimizer.frozen).values())

    assert cost(1) / (cost(8) / 8) == pytest.approx(2.7, abs=0.05)
    # 40 % of the answers are the only one of their image, which has R slots all the same.
    for regions, said in ((2, 0.90), (8, 1.4)):
        found = (0.6 / regions + 0.4) * cost(regions) / cost(1)
        assert found == pytest.approx(said, abs=0.01)


def test_the_released_text_and_the_right_one():
    words = {arg: configs.load(f"{CONFIG}:{arg}") for arg in ("xl", "parity")}
    points = {arg: config.batch.points for arg, config in words.items()}
    assert set(points.values()) == {REGIONVLM.points}
    assert words["parity"].model.max_point_tokens == REGIONVLM.pieces
    assert "max_point_tokens" not in words["xl"].model  # all points are read, however many


def test_texts_are_those_of_the_released_caption_processor():
    for arg in ("xl", "parity", "base"):
        assert configs.load(f"{CONFIG}:{arg}").data.normalize_text is True


@pytest.mark.parametrize("arg", ["xl", "parity", "base"])
def test_a_question_of_vcr_fits_in_every_way(arg, shared_data, tmp_path):
    """The public sample; numbered and as reasons to be scored, T5's own pieces."""
    config = configs.load(f"{CONFIG}:{arg}")
    spec = build(BatchSpec, config.batch, "config.batch")
    spec = with_lengths(spec, build(EvaluateConfig, config.evaluate, "config.evaluate"))
    data = build(DataConfig, config.data, "config.data")
    (line,) = (shared_data / "vcr/train_sample.jsonl").read_text().splitlines()
    content = json.loads(line)
    said = {
        name: [" ".join(map(str, text)) for text in content[name]]
        for name in ("answer_choices", "rationale_choices")
    }
    question = " ".join(map(str, content["question"]))
    extra = {"choices": said["answer_choices"], "answer": 0}
    extra |= {"rationales": said["rationale_choices"], "rationale": 0}
    asked = Annotation("choice", question, "1", WHOLE_IMAGE, extra)
    record = Record("vcr", "x.jpg", "1", 8, 8, b"", [asked])
    tokens.adopt(str(shared_data / "tokenizers/t5"), 2, tmp_path / "tokenizer")
    tokenizer = tokens.Tokenizer(tmp_path / "tokenizer")
    made = questions_about({"vcr": [record]}, data, spec, tokenizer)
    (item,) = made.choices["vcr"]
    numbered = [len(tokenizer.encode(text)) for text in item.numbered]
    assert min(numbered) > config.batch.prompt_length  # which is for training on captions


def test_published_schedule():
    program = make_program(configs.load(f"{CONFIG}:xl"), jax.devices()[:8])
    rate = program.optimizer.schedule
    assert float(rate(1000)) == pytest.approx(5e-6, rel=1e-3)
    assert float(rate(0)) == pytest.approx(5e-9, rel=1e-2)
    assert float(rate(program.settings.train.steps)) < 1e-11


def test_other_arguments_are_named():
    with pytest.raises(ConfigError, match="did you mean `parity`"):
        configs.load(f"{CONFIG}:party")
