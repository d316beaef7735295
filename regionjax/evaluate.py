"""Evaluation, told once from top to bottom: restore, ask, score, report.

The questions come from the records of the data's `eval_split`; where regions and images come from
is settled here, so that evaluators know neither the input pipeline nor a model. Several processes
share the work of the devices, and the first one writes the report.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json

import jax
import numpy as np

from input_pipeline import prepare, tasks
from input_pipeline.images import decode_image
from input_pipeline.leakage import count_photographs, overlaps
from input_pipeline.parts import eval_parts, train_parts
from input_pipeline.tokens import Tokenizer, check_size
from input_pipeline.transforms import encode_row, overflow
from regionjax import __version__, checkpoint, report, scoreboard, sharding, workdir
from regionjax.config import build
from regionjax.evaluators.answers import Answers
from regionjax.evaluators.captioning import captioning
from regionjax.evaluators.choices import choosing
from regionjax.evaluators.grounding import grounding
from regionjax.evaluators.looking import called, of_set, ways
from regionjax.evaluators.predictor import Predictor
from regionjax.evaluators.questions import make_questions
from regionjax.evaluators.referring import referring
from regionjax.evaluators.robustness import robustness
from regionjax.evaluators.settings import EvaluateConfig, with_lengths
from regionjax.evaluators.vqa import answering
from regionjax.journal import log, to_file
from regionjax.mesh import make_mesh
from regionjax.metrics import Tally
from regionjax.settings import Settings
from regionjax.step import init_model
from regionjax.systems import system as systems


def evaluate(config, folder, *, build_system=systems.build):
    """Evaluates the last checkpoint of a run; writes report.json and report.html beside it.

    Args:
      config: ConfigDict.
      folder: the run's, see regionjax/workdir.py.
      build_system: (config, BatchSpec) → System.

    Returns:
      {key: number, or None where the data has no such items}: the scores of report.json.

    Raises:
      ConfigError: a setting that cannot be used, or a folder of another config.
      checkpoint.CheckpointError: no checkpoint, or one of another model.
      DataError: data that cannot be used.
    """
    settings = build(Settings, config, "config")
    asked = build(EvaluateConfig, settings.evaluate, "config.evaluate")
    data, spec = settings.data, with_lengths(settings.batch, asked)

    # ---- mesh, shapes ------------------------------------------------------------------------
    mesh = make_mesh(settings.mesh)
    system = build_system(config, spec)
    model = jax.eval_shape(lambda: init_model(system, settings.seed, spec))
    places, _ = sharding.state_shardings(model, system.sharding_rules, mesh)

    # ---- restore -----------------------------------------------------------------------------
    folder = workdir.claim(folder, config)
    step = checkpoint.latest_step(folder / "checkpoints")
    if step is None:
        raise checkpoint.CheckpointError(f"{folder} has no checkpoint yet; train first")
    tally = Tally(checkpoint.load_meta(folder / "checkpoints", step)["tally"])
    with contextlib.ExitStack() as stack:
        chief = jax.process_index() == 0
        if chief:
            stack.enter_context(to_file(folder / "log.txt"))
        stack.enter_context(tally.phase("evaluate"))
        placed = sharding.placed(model["params"], places["params"])
        params = checkpoint.load_params(folder / "checkpoints", step, placed)

        # ---- questions -----------------------------------------------------------------------
        prepare.ensure(data, settings.batch, folder / "data")
        check_size(folder / "data" / "tokenizer", system.vocabulary)
        tokenizer = Tokenizer(folder / "data" / "tokenizer")
        evaluated = eval_parts(data, folder / "data")
        seen = overlaps(train_parts(data, folder / "data").values(), evaluated.values())
        records = {source: _drawn(part.records(), asked) for source, part in evaluated.items()}
        questions = questions_about(records, data, spec, tokenizer)
        log.info("evaluating step %d on split %s: %s", step, data.eval_split, questions.counts())
        for overlap in seen:
            log.warning("  %s", overlap)
        for source, found in records.items():
            if (every := len(evaluated[source].records())) > len(found):
                log.info("  %s: %d of %d images, by evaluate.max_images", source, len(found), every)
        for name, weight in data.mixture.items():
            if not weight and name not in records:
                log.info("  %s has no split %s and is not evaluated", name, data.eval_split)
        for source in questions.own_masks:
            log.warning(
                "  %s has no proposals: expressions are segmented among the annotated masks, which "
                "is easier; prepare it with --proposals",
                source,
            )

        # ---- answers -------------------------------------------------------------------------
        digest = _digest(records)
        asked_for = {"step": step, "split": data.eval_split, "prompts": data.prompts}
        asked_for |= {"normalize_text": data.normalize_text}
        kept = Answers(folder / "answers" / _key(asked_for, asked, spec, digest), writes=chief)
        if kept.begun:
            log.info("going on with the answers that an evaluation left behind when it stopped")
        predictor = Predictor(
            system.predict,
            params,
            spec=spec,
            encode=record_encoder(tokenizer, asked.seed),
            decode=tokenizer.decode,
            eos_id=tokenizer.eos_id,
            batch_size=asked.batch_size,
            sharding=sharding.batch_sharding(mesh),
            seed=asked.seed,
            answers=kept,
        )
        results = ask(questions, predictor, asked, tokenizer.location_bins)

        # ---- report --------------------------------------------------------------------------
        results.about.update(
            split=data.eval_split,
            held_out=not seen,
            trained_on=seen,
            images=count_photographs(itertools.chain(*records.values())),
            records={
                source: [len(found), len(evaluated[source].records())]  # asked about, in the split
                for source, found in records.items()
            },
            prompts={
                task: tasks.prompt(task, "…", data.prompts)
                for made in tasks.TASKS.values()
                for task in made
            },
            sha256=digest,
            settings=dataclasses.asdict(asked),
            predictor={name: dataclasses.asdict(used) for name, used in predictor.tallies.items()},
        )
        trained = tally.seconds("train", "input")
        results.scores.update(
            {
                "train/regions_per_second": tally.count("regions") / trained if trained else None,
                "train/steps": step,
                "time/total_seconds": tally.seconds(),
            }
        )
        for line in scoreboard.summary(results.scores).splitlines():
            log.info("  %s", line)
        if chief:
            page = report.write(
                folder,
                results,
                title=f"{settings.system} · {folder.name}",
                gallery=asked.gallery,
                seed=asked.seed,
            )
            log.info("report: %s", page)
        workdir.meet("evaluated")  # others may still be reading what was kept
        kept.clear()
        return results.scores


def ask(questions, predictor, settings, bins):
    """Runs every benchmark that there are questions for.

    Args:
      questions: Questions.
      predictor: Predictor.
      settings: EvaluateConfig.
      bins: of the location tokens.

    Returns:
      report.Results; `about` has the number of items of each benchmark.
    """
    scores = {}
    about, answers, choices, places = {"items": {}}, {}, [], []
    for name, items, shown in (
        ("region_caption", questions.regions, "as_is"),
        ("region_caption_box", questions.regions, "box"),
        ("region_caption_points", questions.regions, "points"),
        ("region_caption_click", questions.regions, "click"),
        ("no_region", questions.regions, "nothing"),
        ("narration", questions.narrations, "as_is"),
        ("narration_no_region", questions.narrations, "nothing"),
        ("image_caption", questions.captions, "as_is"),
    ):
        if items:
            found, answers[name] = captioning(name, items, predictor, settings, shown)
            scores |= found
            about["items"][name] = len(items)
    several = len(questions.expressions) > 1
    sets = {f"_{name}" if several else "": of for name, of in questions.expressions.items()}
    for suffix, items in sets.items():
        found, chosen = referring(items, predictor, settings)
        scores |= of_set(found, suffix)
        choices += chosen
        if predictor.has("heatmap"):
            found, pointed = grounding(items, predictor, settings, bins)
            scores |= of_set(found, suffix)
            places += pointed
        about["items"][f"expressions{suffix}"] = len(items)
    if sets and not predictor.has("heatmap"):
        about["skipped"] = {"grounding, pointing by heatmap": "the system has no heatmap"}
        log.info("pointing by heatmap and grounding: skipped, this system has no heatmap")
    replies, picks = {}, {}
    for source, items in questions.questions.items():
        about["items"][source] = len(items)
        for way in ways(items):
            name = called(source, way)
            found, replies[name] = answering(name, items, predictor, settings, way)
            scores |= found
    for source, items in questions.choices.items():
        about["items"][source] = about["items"].get(source, 0) + len(items)
        for method, way in itertools.product(settings.choices_by, ways(items)):
            name = called(source if method == "likelihood" else f"{source}_{method}", way)
            found, picks[name] = choosing(name, items, predictor, settings, way, method)
            scores |= found
    texts = {"region_caption": questions.regions, "narration": questions.narrations}
    scores |= robustness(texts, sets, predictor, settings)
    about["left_out"] = questions.left_out
    about["proposals_are_annotations"] = questions.own_masks
    for row in scoreboard.HEADLINE:  # a key without items is there, and says so
        for key in (row.key, row.baseline):
            scores |= {key + end: scores.get(key + end) for end in ("", "_low", "_high")}
    return report.Results(scores, about, answers, choices, places, replies, picks)


def _drawn(records, settings):
    """At most `max_images` records, the same ones every time, in the order of the files."""
    order = np.random.default_rng(settings.seed).permutation(len(records))
    return [records[int(index)] for index in sorted(order[: settings.max_images])]


def questions_about(records, data, spec, tokenizer):
    """The Questions about records, asked and worded as `data` (DataConfig) trains them."""
    return make_questions(
        records,
        functools.partial(tasks.prompt, prompts=data.prompts, normalize=data.normalize_text),
        lambda *texts: _fits(*texts, spec, tokenizer),
        functools.partial(tasks.worded, normalize=data.normalize_text),
    )


def _fits(prompt, target, spec, tokenizer):
    answer = len(tokenizer.encode(target)) + 1 if target else 0  # and eos
    return not overflow(len(tokenizer.encode(prompt)), answer, spec)


def record_encoder(tokenizer, seed):
    """(record, segments, spec) → a row; neighbouring rows of one image decode it once.

    With `texts_only` the image is left out.
    """
    latest = [None, None]  # record, its pixels

    def encode(record, segments, spec, texts_only=False):
        if not texts_only and record is not latest[0]:
            latest[:] = record, decode_image(record.image, spec.image_size, record.name)
        image = 0 if texts_only else latest[1]
        rng = np.random.default_rng(seed)
        return encode_row(image, segments, spec, tokenizer, rng=rng, name=record.name)

    return encode


def _key(facts, settings, spec, digest):
    """A name for an evaluation: all that decides what is asked and what is answered."""
    facts = {**facts, "settings": settings, "spec": spec, "data": digest, "version": __version__}
    text = json.dumps(facts, sort_keys=True, default=dataclasses.asdict)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _digest(records):
    """sha256 of the images and texts that were asked about."""
    digest = hashlib.sha256()
    for source, found in records.items():
        for record in found:
            texts = [
                f"{a.kind}\t{a.text}" + (f"\t{json.dumps(a.extra)}" if a.extra else "")
                for a in record.annotations
            ]
            digest.update("\n".join([source, record.image_id, *texts, ""]).encode())
            digest.update(record.image)
    return digest.hexdigest()
