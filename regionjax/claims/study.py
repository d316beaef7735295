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
        found = self._noted()
        return found["scores"] if found and not self.differences() else None

    def differences(self):
        """How the run that was finished in this folder differs from this one: list of str."""
        found = self._noted()
        config = json.loads(json.dumps(self.config))
        return workdir.differences(found["config"], config) if found else []

    def _noted(self):
        file = self.folder / "finished.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

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
      ConfigError: a setting that cannot be used, of any of the runs; nothing was begun. With
        `table_only`, a run that was finished with another config; nothing was written. A claim on
        a score that a finished run does not have, as soon as there is one; the run stays finished.
      Whatever `train` and `evaluate` raise: the same command goes on from there.
    """
    if jax.process_count() > 1:
        raise ConfigError("a config with claims runs in one process")
    claims = settings.read(config.claims)
    runs = runs_of(config, claims, pathlib.Path(folder).absolute())
    for run in runs:
        build(Settings, ConfigDict(run.config), f"config of {run.folder.name}")
    if table_only:
        _check_finished(runs)
    folder = workdir.claim(folder, config, force_new=force_new)
    with to_file(folder / "log.txt"), _shared_programs(folder / "compiled"):
        found = {run: scores for run in runs if (scores := run.finished()) is not None}
        log.info("%d of %d runs are finished", len(found), len(runs))
        settings.check_keys(claims, _by_variant(found))
        named = claims.only or claims.variants
        chosen = [] if table_only else [run for run in runs if run.variant in named]
        left = [run for run in chosen if run not in found]
        places = _prepare(config, folder) if left else {}
        for done, run in enumerate(left):
            which = f"run {chosen.index(run) + 1} of {len(chosen)}: {run.variant}, seed {run.seed}"
            log.info("%s%s", which, _time_left(len(left) - done, list(found.values())))
            placed = ConfigDict(merged(run.config, places))
            train(placed, run.folder)
            found[run] = evaluate(placed, run.folder)
            run.finish(found[run])
            settings.check_keys(claims, _by_variant(found))
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


def _check_finished(runs):
    """Raises ConfigError where a run was finished with another config; says how they differ."""
    others = {}
    for run in runs:
        if differences := run.differences():
            others.setdefault("\n    ".join(differences), []).append(run.folder.name)
    if others:
        told = "".join(f"\n  {', '.join(names)}:\n    {how}" for how, names in others.items())
        raise ConfigError(
            f"these runs were finished with another config:{told}\n"
            "The table is of runs as they are; use their settings. Without --mode evaluate the "
            "same command goes on with the new ones, as far as a run may."
        )


def _time_left(count, done):
    """How long so many runs may take, in words: as long as those that are done."""
    if not done:
        return ""
    seconds = sum(scores["time/total_seconds"] for scores in done) / len(done)
    minutes = round(seconds * count / 60)
    return f"; about {minutes // 60} h {minutes % 60} min to go"


def _by_variant(found):
    """{variant: {seed: scores}} of {Run: scores}."""
    result = {}
    for run, scores in found.items():
        result.setdefault(run.variant, {})[run.seed] = scores
    return result


def _write(folder, claims, found):
    """Writes the three forms of the table; returns the text."""
    forms = page.forms(claims, _by_variant(found), title=f"claims · {folder.name}")
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
