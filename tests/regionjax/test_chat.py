"""Which parameters and words a conversation has, and that it leaves nothing behind."""

import dataclasses
import io
import logging
import sys

import jax.numpy as jnp
import pytest
import toy_dialogue as toy
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from input_pipeline.images import BadImage
from input_pipeline.tokens import Tokenizer
from regionjax import checkpoint
from regionjax.chat import chat, open_speaker
from regionjax.config import ConfigError
from regionjax.dialogue import Session
from regionjax.journal import log
from regionjax.regions import WHOLE_IMAGE, Region
from regionjax.step import TrainState
from regionjax.systems.system import System


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Folder of a tokenizer."""
    return toy.tokenizer(tmp_path_factory.mktemp("words")).directory


def config(words="", **changes):
    made = ConfigDict(
        {
            "seed": 0,
            "system": "toy",
            "model": {},
            "data": {"root": "none", "mixture": {"toy": 1.0}, "location_bins": 2},
            "batch": {name: getattr(toy.SPEC, name) for name in toy.SPEC.__dataclass_fields__},
            "losses": {"caption": 1.0},
            "optim": {"learning_rate": 0.01, "weight_decay": ((".*", 0.0),)},
            "train": {"steps": 9, "batch_size": 8},
            "mesh": {"data": 2, "fsdp": 2, "tensor": 2},
            "evaluate": {"generation": {"max_new_tokens": 4}},
        }
    )
    made.data.tokenizer = str(words)
    made.update_from_flattened_dict(changes)
    return made


def build_system(words, broken=0.0):
    """The toy as a system; a tower of 0 sees everything dark. `broken` is its tower untrained."""

    def build(config, spec):
        return System(
            init=lambda rng, batch: (parameters(broken), {}),
            losses=None,
            loss_names=("caption",),
            predict={
                **toy.functions(Tokenizer(words)),
                "see": lambda params, batch: (
                    batch["image"].astype(jnp.float32).mean((1, 2, 3))
                    * params["tower"]["scale"].mean()
                ),
            },
            sharding_rules=(("tower|head", PartitionSpec("fsdp")),),
            vocabulary=toy.VOCABULARY,
            flops=dict,
        )

    return build


def parameters(tower):
    return {"tower": {"scale": jnp.full((4,), tower)}, "head": {"bias": jnp.ones(4)}}


def save(folder, params, step):
    count = jnp.zeros((), jnp.int32)
    saved = checkpoint.Checkpoints(folder / "checkpoints", keep_latest=2)
    saved.save(step, TrainState(count, params, {}, (), count, count), 0, {"step": step})
    saved.close()


@pytest.fixture(scope="module")
def run(words, tmp_path_factory):
    """The folder of a run: checkpoints of steps 3 and 7, its config, its words."""
    folder = tmp_path_factory.mktemp("run")
    save(folder, parameters(0.0), 3)
    save(folder, parameters(1.0), 7)
    (folder / "config.json").write_text(config().to_json())
    (folder / "data").mkdir()
    (folder / "data" / "tokenizer").symlink_to(words)
    return folder


@pytest.fixture
def told():
    """What the journal says."""
    lines, handler = [], logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    log.addHandler(handler)
    yield lines
    log.removeHandler(handler)


def converse(monkeypatch, capsys, lines, *arguments, **settings):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    chat(*arguments, **settings)
    return capsys.readouterr().out


@pytest.fixture
def bright(tmp_path):
    (tmp_path / "bright.png").write_bytes(toy.photograph(200).data)
    return tmp_path / "bright.png"


def test_the_newest_checkpoint_answers(run, words, bright, told, monkeypatch, capsys):
    before = sorted(run.rglob("*"))
    said = converse(
        *(monkeypatch, capsys, ["@12,5 what is it", "what", "/quit", "what"]),
        *(config(**{"evaluate.seed": 3, "dialogue": {"turns": 2}}), run, bright),
        build_system=build_system(words),
    )
    assert said == (
        f"{bright}: 40 x 20 pixels\n"
        "@ points at something, /help says how.\n"
        "whole image> @12,5 what is it\n"
        "one left bright\n"
        "point 12,5> what\n"
        "two left bright\n"
        "point 12,5> /quit\n"
    )
    assert told == [f"weights: step 7 of {run}"]
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    ("longest", "short", "texts"),
    [
        (4, None, ("one right bright", "two left bright")),
        (4, 1, ("one", "two left bright")),
        (1, 4, ("one right bright", "two")),
    ],
)
def test_questions_are_answered_by_short_answers(run, words, longest, short, texts):
    evaluate = {
        "generation": {"max_new_tokens": longest},
        "short_answers": short and {"max_new_tokens": short},
    }
    speaker = open_speaker(config(evaluate=evaluate), run, build_system=build_system(words))
    session = Session(speaker, toy.photograph(200))
    asked = ("what is it", WHOLE_IMAGE), ("", Region(points=[[0.2, 0.5]]))
    assert tuple("".join(session.ask(*turn)) for turn in asked) == texts
    # A turn of 5 + 3 tokens is told, whichever way made it.
    turn, _ = speaker.turn("what is it what", WHOLE_IMAGE)
    before = dataclasses.replace(turn, answer="one left dark")
    assert speaker.together([before], turn, speaker.pixels(session.photograph))[1] == 1


def test_without_a_checkpoint_those_of_init_from_answer(run, words, bright, told, tmp_path):
    """The end of the input ends the conversation too."""
    folder = tmp_path / "not made yet"
    asked = config(words, init_from={"all": {"path": str(run), "step": 3}})
    speaker = open_speaker(asked, folder, build_system=build_system(words, broken=1.0))
    assert float(speaker.params["tower"]["scale"].mean()) == 0
    assert f"{folder} has no checkpoint" in told[0]
    assert told[1].startswith("all: 8 parameters in 2 arrays from") and "step 3" in told[1]
    assert len(told) == 2 and not folder.exists()


@pytest.mark.parametrize(("normalize", "said"), [(True, "answer what is"),
                                                 (False, "answer WHAT is!")])  # fmt: skip
def test_questions_are_asked_as_they_are_learnt(run, words, told, tmp_path, normalize, said):
    start = {"all": {"path": str(run)}}
    asked = config(words, init_from=start, **{"data.normalize_text": normalize})
    speaker = open_speaker(asked, tmp_path, build_system=build_system(words))
    turn, _ = speaker.turn("WHAT is!", WHOLE_IMAGE)
    assert turn.prompt == said


def test_parameters_at_random_are_named(run, words, told, tmp_path):
    asked = config(words, init_from={"tower": {"path": str(run), "part": "tower"}})
    open_speaker(asked, tmp_path, build_system=build_system(words))
    assert told[-1].startswith("1 arrays are at random, such as head/bias; ")


def test_nothing_to_talk_to(run, words, bright, tmp_path):
    build = build_system(words)
    with pytest.raises(ConfigError, match="has no checkpoint and config.init_from names none"):
        open_speaker(config(words), tmp_path, build_system=build)
    with pytest.raises(ConfigError, match="tokenizer is not there: training makes it"):
        open_speaker(config(), tmp_path, build_system=build)
    with pytest.raises(ConfigError, match="another config:\n  seed: 0 -> 1"):
        open_speaker(config(seed=1), run, build_system=build)
    with pytest.raises(ConfigError, match="config.dialogue.turn is not .* did you mean `turns`"):
        open_speaker(config(dialogue={"turn": 1}), run, build_system=build)
    with pytest.raises(BadImage, match="absent.png"):
        chat(config(), run, bright.with_name("absent.png"), build_system=build)
