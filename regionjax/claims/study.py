"""Trains and evaluates every run that a config's claims need, and writes the table.

WORKDIR/VARIANT-seedN/    the runs, each one an ordinary run (regionjax/workdir.py) that goes on
                          where it stopped; `finished.json` in it holds its config and its scores
WORKDIR/data/             records and tokenizer, prepared once and read by all runs
WORKDIR/world/            the built-in world, where the config has one and names no folder for it
WORKDIR/compiled/         compiled programs, which runs that differ in seed or data share
WORKDIR/claims.json .txt .html    the table, of what is finished; written after every run

All variants come with one seed before any comes with the next, so that the table is soon whole.
"""

import contextlib
import dataclasses
import json
import pathlib

import jax
from ml_collections import ConfigDict

from input_pipeline import prepare
from regionjax import evaluate as evaluation
from regionjax import train as training
from regionjax import workdir
from regionjax.claims import page, settings
from regionjax.config import ConfigError, build
from regionjax.journal import log, to_file
from regionjax.report import replace_file
from regionjax.settings import Settings


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One variant with one seed.

    Attributes:
      variant, seed: which.
      folder: of the run.
      config: dict, before it is told where the data lies.
    """

    variant: str
    seed: int
    folder: pathlib.Path
    config: dict

    def finished(self):
        """The scores, or None where this very run has not been finished."""
        file = self.folder / "finished.json"
        if not file.is_file():
            return None
        found = json.loads(file.read_text(encoding="utf-8"))
        return found["scores"] if found["config"] == json.loads(json.dumps(self.config)) else None

    def finish(self, scores):
        """Notes the scores."""
        text = json.dumps({"config": self.config, "scores": scores}, indent=1) + "\n"
        replace_file(self.folder / "finished.json", text)


def study(
    config,
    folder,
    *,
    table_only=False,
    force_new=False,
    train=training.train,
    evaluate=evaluation.evaluate,
):
    """Runs what has not been finished, and writes the table.

    Args:
      config: ConfigDict with `claims`.
      folder: for everything, see the top of the file.
      table_only: train nothing; the table is of the runs that are finished.
      force_new: move an existing folder aside first.
      train: (config, folder), trains a run.
      evaluate: (config, folder) → scores.

    Returns:
      The path of the page.

    Raises:
      ConfigError: a setting that cannot be used, of any of the runs; nothing was begun.
      Whatever `train` and `evaluate` raise: the same command goes on from there.
    """
    if jax.process_count() > 1:
        raise ConfigError("a config with claims runs in one process")
    claims = settings.read(config.claims)
    runs = runs_of(config, claims, pathlib.Path(folder).absolute())
    for run in runs:
        build(Settings, ConfigDict(run.config), f"config of {run.folder.name}")
    folder = workdir.claim(folder, config, force_new=force_new)
    with to_file(folder / "log.txt"), _shared_programs(folder / "compiled"):
        found = {run: scores for run in runs if (scores := run.finished()) is not None}
        log.info("%d of %d runs are finished", len(found), len(runs))
        left = [] if table_only else [run for run in runs if run not in found]
        places = _prepare(config, folder) if left else {}
        for run in left:
            log.info("%s", _progress(runs.index(run) + 1, len(runs), run, list(found.values())))
            placed = ConfigDict(merged(run.config, places))
            train(placed, run.folder)
            found[run] = evaluate(placed, run.folder)
            run.finish(found[run])
            _write(folder, claims, found)
            jax.clear_caches()  # the next run's programs are others, or in `compiled`
        text = _write(folder, claims, found)
        for line in text.splitlines():
            log.info("  %s", line)
        log.info("claims: %s", folder / "claims.html")
    return folder / "claims.html"


def runs_of(config, claims, folder):
    """list of Run, all variants of the first seed first."""
    base = {name: value for name, value in config.to_dict().items() if name != "claims"}
    return [
        Run(
            name,
            seed,
            folder / f"{name}-seed{seed}",
            merged(base, {**variant.changes, "seed": seed}),
        )
        for seed in claims.seeds
        for name, variant in claims.variants.items()
        if not claims.only or name in claims.only
    ]


def merged(base, changes):
    """Nested dictionaries, the second one's values where both have one."""
    result = dict(base)
    for name, value in changes.items():
        nested = isinstance(value, dict) and isinstance(base.get(name), dict)
        result[name] = merged(base[name], value) if nested else value
    return result


def _prepare(config, folder):
    """Prepares the data of all runs; returns the changes that say where it lies."""
    made = build(Settings, config, "config")
    data, spec = made.data, made.batch
    if data.world is not None and not data.root:
        data = dataclasses.replace(data, root=str(folder / "world"))
    prepare.ensure(data, spec, folder / "data")
    prepared = data.prepared
    if (folder / "data" / "dataset.json").is_file():
        prepared = (*prepared, str(folder / "data"))
    place = {"root": "", "world": None, "prepared": prepared}
    return {"data": {**place, "tokenizer": str(folder / "data" / "tokenizer")}}


def _progress(number, count, run, done):
    """A line that says which run comes, and how long all that are left may take."""
    line = f"run {number} of {count}: {run.variant}, seed {run.seed}"
    if done:
        seconds = sum(scores["time/total_seconds"] for scores in done) / len(done)
        minutes = round(seconds * (count - len(done)) / 60)
        line += f"; about {minutes // 60} h {minutes % 60} min to go"
    return line


def _write(folder, claims, found):
    """Writes the three forms of the table; returns the text."""
    by_variant = {}
    for run, scores in found.items():
        by_variant.setdefault(run.variant, {})[run.seed] = scores
    forms = page.forms(claims, by_variant, title=f"claims · {folder.name}")
    for ending, text in forms.items():
        replace_file(folder / f"claims.{ending}", text)
    return forms["txt"]


@contextlib.contextmanager
def _shared_programs(folder):
    """While inside, compiled programs are kept on disk, unless the user keeps them elsewhere."""
    if jax.config.jax_compilation_cache_dir:
        yield
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
