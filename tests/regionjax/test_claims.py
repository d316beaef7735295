"""Many runs and their table: order, kills, what is repeated, and the config that there is."""

import dataclasses
import html.parser
import json
import pathlib

import numpy as np
import pytest
import toy

from input_pipeline import tasks
from regionjax import config as configs
from regionjax.claims import settings, study
from regionjax.config import ConfigError, build
from regionjax.evaluators.robustness import scribbled
from regionjax.evaluators.settings import EvaluateConfig
from regionjax.regions import Region
from regionjax.settings import Settings
from regionjax.systems import system as systems

CONFIG = pathlib.Path(__file__).parents[2] / "configs/claims/regionvlm.py"


def small(**changes):
    """Toy's config with a claim on two variants, two seeds each."""
    config = toy.config()
    config.claims = {
        "variants": {
            "base": {"says": "as it is"},
            "short": {"says": "fewer steps", "changes": {"train": {"steps": 5}}},
        },
        "parts": {
            "a": {
                "title": "Steps & <time>",
                "rows": {"1": {"says": "more", "score": "base:x/y", "than": "short:x/y"}},
                "curves": {
                    "y": {"x": "steps", "lines": {"y": ((9, "base:x/y"), (5, "short:x/y"))}}
                },
            }
        },
        "seeds": (3, 4),
    }
    config.claims.update(changes)
    return config


class Runs:
    """Stands for training and evaluation; stops in the middle on request."""

    def __init__(self, stop_at=None):
        self.trained, self.evaluated, self.stop_at = [], [], stop_at

    def train(self, config, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.trained.append((folder.name, config.seed, config.train.steps))
        if len(self.trained) == self.stop_at:
            raise KeyboardInterrupt

    def evaluate(self, config, folder):
        self.evaluated.append(folder.name)
        value = config.train.steps / 10 + config.seed / 100
        ends = {"x/y": value, "x/y_low": value - 0.01, "x/y_high": value + 0.02}
        counts = {"x/tied": 3, "x/none": None, "train/steps": config.train.steps}
        return {**ends, **counts, "time/total_seconds": 60.0}


@pytest.fixture(autouse=True)
def data_is_ready(monkeypatch):
    monkeypatch.setattr(study, "_prepare", lambda config, folder: {"data": {"prepared": ("p",)}})


def examine(config, folder, runs, **options):
    return study.study(config, folder, train=runs.train, evaluate=runs.evaluate, **options)


def test_all_runs_then_none_then_what_changed(tmp_path):
    runs = Runs()
    page = examine(small(), tmp_path / "w", runs)
    names = ["base-seed3", "short-seed3", "base-seed4", "short-seed4"]
    assert runs.trained == [(n, int(n[-1]), 9 if "base" in n else 5) for n in names]
    table = json.loads(page.with_suffix(".json").read_text())
    (row,) = table["rows"]
    assert row["verdict"] == "holds" and row["measured"]["each"] == pytest.approx([0.93, 0.94])
    assert [point["x"] for point in table["curves"]["a"]["y"]["y"]] == [9, 5]
    text = page.with_suffix(".txt").read_text()
    assert "HOLDS" in text and "93.5% [" in text and "runs: 4 of 4 finished" in text

    again = Runs()
    examine(small(), tmp_path / "w", again)
    assert not again.trained and not again.evaluated

    config = small()
    config.claims.variants.short.changes.train.steps = 6
    examine(config, tmp_path / "w", again)
    assert [name for name, _, _ in again.trained] == ["short-seed3", "short-seed4"]


def test_a_kill_loses_one_run_at_most(tmp_path):
    first, second = Runs(stop_at=3), Runs()
    with pytest.raises(KeyboardInterrupt):
        examine(small(), tmp_path, first)
    text = (tmp_path / "claims.txt").read_text()
    assert "2 of 4 finished" in text and "1 seed" in text
    examine(small(), tmp_path, second, table_only=True)
    assert not second.trained
    examine(small(), tmp_path, second)
    assert second.evaluated == ["base-seed4", "short-seed4"]
    log = (tmp_path / "log.txt").read_text()
    assert "run 3 of 4: base, seed 4; about 0 h 2 min to go" in log  # two runs of a minute


def test_some_variants_alone_and_a_table_of_all(tmp_path):
    runs = Runs()
    page = examine(small(only=("base",)), tmp_path, runs)
    assert {name for name, _, _ in runs.trained} == {"base-seed3", "base-seed4"}
    assert json.loads(page.with_suffix(".json").read_text())["rows"][0]["verdict"] == "not measured"
    log = (tmp_path / "log.txt").read_text()
    assert "run 2 of 2: base, seed 4; about 0 h 1 min to go" in log
    examine(small(only=("short",)), tmp_path, runs)
    whole = page.with_suffix(".txt").read_text()
    assert len(runs.trained) == 4 and "HOLDS" in whole and "4 of 4 finished" in whole
    examine(small(only=("base",)), tmp_path, runs, table_only=True)
    assert page.with_suffix(".txt").read_text() == whole


def with_row(says="more", score="base:x/y", than="short:x/y"):
    config = small()
    config.claims.parts.a.rows["1"].update({"says": says, "score": score, "than": than})
    return config


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_scores_without_intervals_are_shown_as_numbers(tmp_path):
    config = with_row(score="base:train/steps", than="short:train/steps")
    config.claims.parts.a.curves.y.lines.y = ((9, "base:x/tied"), (5, "short:x/none"))
    for _ in range(2):  # the second one finds all runs finished
        page = examine(config, tmp_path, Runs())
        assert "9.00 [9.00 to 9.00], 2 seeds" in page.with_suffix(".txt").read_text()
        assert "<b>5.00</b> 5.00 – 5.00" in page.read_text()
        [point] = json.loads(page.with_suffix(".json").read_text())["curves"]["a"]["y"]["y"]
        assert (point["x"], point["low"], point["high"]) == (9, 3, 3)


def test_a_key_that_there_is_not_is_told_after_the_first_run(tmp_path):
    runs, misspelt = Runs(), with_row(score="base:x/Y", than="short:x/none")
    misspelt.claims.parts.a.curves.y.lines.y = ((9, "base:x/teid"), (5, "short:x/y"))
    for _ in range(2):  # the same command again trains nothing
        with pytest.raises(ConfigError) as error:
            examine(misspelt, tmp_path, runs)
        assert "parts.a.rows.1.score = 'base:x/Y'; did you mean `x/y`?" in str(error.value)
        assert "lines.y = 'base:x/teid'; did you mean `x/tied`?" in str(error.value)
        assert "short" not in str(error.value)
        assert runs.evaluated == ["base-seed3"]
    mended = with_row(than="short:x/none")  # None: the data has no such items
    page = examine(mended, tmp_path, runs)
    assert runs.evaluated == ["base-seed3", "short-seed3", "base-seed4", "short-seed4"]
    assert "NOT MEASURED" in page.with_suffix(".txt").read_text()


def test_another_variants_key_is_told_after_its_own_first_run(tmp_path):
    runs = Runs()
    with pytest.raises(ConfigError, match="than = 'short:x/z'; did you mean `x/y`"):
        examine(with_row(than="short:x/z"), tmp_path, runs)
    assert runs.evaluated == ["base-seed3", "short-seed3"]


def test_a_table_of_runs_of_another_config_is_refused(tmp_path):
    examine(small(), tmp_path, Runs())
    before = contents(tmp_path)
    other = small()
    with other.unlocked():
        other.evaluate = {"gallery": 7}
        other.claims.variants.short.changes.train.steps = 6
    with pytest.raises(ConfigError) as error:
        examine(other, tmp_path, Runs(), table_only=True)
    base, short = str(error.value).split("short-seed3, short-seed4:")
    assert "base-seed3, base-seed4:\n    evaluate.gallery: absent -> 7\n" in base
    assert "evaluate.gallery: " in short and "train.steps: 5 -> 6" in short
    assert contents(tmp_path) == before
    reworded = with_row(says="still more")  # claims are no settings of a run
    page = examine(reworded, tmp_path, Runs(), table_only=True)
    text = page.with_suffix(".txt").read_text()
    assert "HOLDS          still more" in text and "4 of 4 finished" in text


class _Page(html.parser.HTMLParser):
    """Counts elements and checks that they are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes).get("class", "")))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes).get("class", "")))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page(tmp_path):
    page = _Page(examine(small(), tmp_path, Runs()).read_text())
    assert not page.open and "Steps & <time>" in page.text
    dots = [kind for tag, kind in page.seen if tag == "circle"]
    assert dots == ["dot series-0"] * 2
    assert ("span", "right") in page.seen and ("rect", "fill second") in page.seen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": {}}, "config.claims.variant is not a setting; did you mean `variants`"),
        ({"only": ("bse",)}, "only: 'bse' is no variant; did you mean `base`"),
        ({"seeds": (1, 1)}, "at least one, each once"),
        ({"margin": -0.1}, "margin"),
        ({"row": {"rule": "highr"}}, r"parts.a.rows.1.rule = 'highr'; did you mean `higher`"),
        ({"row": {"than": "shrt:x/y"}}, "'shrt' is no variant; did you mean `short`"),
        ({"row": {"score": "x/y"}}, "a score is VARIANT:KEY"),
    ],
)
def test_what_it_does_not_understand(tmp_path, changes, message):
    config = small()
    with config.unlocked():
        config.claims.parts.a.rows["1"].update(changes.pop("row", {}))
        config.claims.update(changes)
    with pytest.raises(ConfigError, match=message):
        examine(config, tmp_path / "w", Runs())
    assert not (tmp_path / "w").exists()


def test_a_variant_that_cannot_be_is_found_before_anything_runs(tmp_path):
    config = small()
    with config.unlocked():
        config.claims.variants.short.changes.train["step"] = 3
    with pytest.raises(ConfigError, match="config of short-seed3.train.step is not a setting"):
        examine(config, tmp_path / "w", Runs())
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(("arg", "count"), [("full", 30), ("quick", 18)])
def test_the_claims_of_regionvlm(arg, count, tmp_path):
    config = configs.load(f"{CONFIG}:{arg}")
    claims = settings.read(config.claims)
    runs = study.runs_of(config, claims, tmp_path)
    assert len(runs) == count and len({run.folder for run in runs}) == count
    made = {}
    for run in runs[: count // 3]:  # other seeds change nothing else
        whole = study.ConfigDict(run.config)
        made[run.variant] = build(Settings, whole, "config")
        systems.build(whole, made[run.variant].batch)  # points_20 has room for its words
    base = made["base"]
    local = sum(base.data.mixture[name] for name in ("coco_instances", "refer"))
    assert local + base.data.mixture["localized_narratives"] == pytest.approx(0.6)
    assert made["hidden"].data.show_regions == "hidden" and base.data.show_regions == "as_is"
    assert made["local_0"].data.mixture["refer"] == 0 < made["local_0"].data.mixture["vqav2"]
    assert made["points_1"].batch.points == 1 and base.batch.points == 10
    rows = [row for part in claims.parts.values() for row in part.rows.values()]
    used = {name.split(":")[0] for row in rows for name in (row.score, row.than)}
    assert used >= {"base", "hidden", "shuffled", "local_0", "local_100", "points_1"}
    asked = build(EvaluateConfig, base.evaluate, "config.evaluate").robustness
    for name in {name for row in rows for name in (row.score, row.than) if "robustness" in name}:
        variant, kind, value, key = name.replace(":robustness", "").split("/", 3)
        assert variant == "base" and value in [f"{each:g}" for each in getattr(asked, kind)]
        assert key in ("ris/miou", "region_caption/exact_match", "narration/cider")


def is_a_stroke(points):
    """Whether a line across the image meets the points in their order."""
    angles = np.linspace(0, 2 * np.pi, 3600)
    along = np.stack([np.cos(angles), np.sin(angles)], axis=1) @ points.T
    return bool((np.diff(along) > 0).all(axis=1).any())


def test_the_row_about_names_compares_what_differs_in_order():
    claims = settings.read(configs.load(f"{CONFIG}:full").claims)
    row = claims.parts["e"].rows["3"]
    mask = np.zeros((32, 32), bool)
    mask[4:28, 8:30] = True
    region, seen = Region.from_mask(mask), {}
    for name in (row.score, row.than):
        model, kind, value, key = name.replace(":robustness", "").split("/", 3)
        assert (model, key) == ("base", "region_caption/exact_match")
        drawn = np.random.default_rng(0)
        asked = {"kind": kind, "value": float(value), "settings": EvaluateConfig()}
        seen[name] = scribbled(region, drawn, **asked).points
    assert is_a_stroke(seen[row.than]) and not is_a_stroke(seen[row.score])
    assert sorted(seen[row.than].tolist()) == sorted(seen[row.score].tolist())
    assert not is_a_stroke(region.sample_points(10, np.random.default_rng(0)))  # as masks are shown


def test_the_claims_of_tiny_are_about_tiny_as_it_is(tmp_path):
    config = configs.load(f"{CONFIG}:tiny")
    runs = study.runs_of(config, settings.read(config.claims), tmp_path)
    compared = ("base", "hidden", "whole")
    names = [f"{variant}-seed{seed}" for seed in range(3) for variant in compared]
    assert [run.folder.name for run in runs] == names
    tiny = configs.load(f"{CONFIG.parents[1] / 'regionvlm.py'}:tiny").to_dict()
    tiny["data"]["root"] = ""  # the study's own folder
    tiny["data"]["world"] |= {"seed": 1}
    tiny["evaluate"]["max_images"] = 200
    for run in runs:
        if run.variant == "whole":
            continue
        hidden = {"show_regions": "hidden" if run.variant == "hidden" else "as_is"}
        assert run.config == tiny | {"seed": run.seed, "data": tiny["data"] | hidden}


def test_whole_images_alone_are_as_many_as_beside_regions(tmp_path):
    config = configs.load(f"{CONFIG}:tiny")
    runs = study.runs_of(config, settings.read(config.claims), tmp_path)
    base, _, whole = (build(Settings, study.ConfigDict(run.config), "config") for run in runs[:3])

    def images(run, name):
        share = run.data.mixture[name] / sum(run.data.mixture.values())
        return run.train.steps * run.train.batch_size * share

    for name in ("coco", "vqav2"):
        assert images(whole, name) == pytest.approx(images(base, name), rel=1e-3)
    for name in ("refer", "vcr", "localized_narratives"):
        assert images(whole, name) == 0 < images(base, name)
    trained = {task for task in tasks.ALL if whole.data.task_weights.get(task, 1)}
    assert trained == {"caption", "answer"}
    before, after = (dataclasses.asdict(run) for run in (base, whole))
    differing = {name for name in before if before[name] != after[name]}
    assert differing == {"data", "train"}


def test_a_config_is_not_a_claim():
    with pytest.raises(ConfigError, match="regionvlm.py:quik; did you mean `quick`"):
        configs.load(f"{CONFIG}:quik")
