"""RegionVLM against PyTorch: training and scoring regions that share an image, in float32.

    python -m benchmarks.regionvlm
    taskset -c 0 python -m benchmarks.regionvlm --cpu_time

Needs torch. A random InstructBLIP of `transformers`, small but with the shares of the published
model (of a training sample's FLOPs the ViT has 76 %, the Q-Former 5 %, T5 19 %), is imported, so
both compute with the same weights, images and regions. `transformers` has to repeat an image for
each of its regions. Frozen is what RegionVLM freezes, there as here; dropout is off.

training: forward, backward and AdamW of what is trained, with R = 1 and R = 8 regions an image and
  the same number of regions a step.
scoring: one expression against 20 proposals, 5 samplings of points each, of one image; there in
  five batches of 20 repeated images, as the released evaluation loops, but for its batches of one.
  Then `--expressions` of them, for which a region is read once here and every time there.

Both take turns in one process, so that a busy machine harms both alike, and freed memory is kept
for both, as the command of training does; times are the best of `--rounds`. What sharing allows by
count (regionjax/flops.py) is printed beside what was measured.
"""

import argparse
import copy
import time

import jax
import numpy as np
import torch
import transformers
from ml_collections import ConfigDict

from benchmarks.instructblip import imported
from regionjax import allocator, flops, optim, sharding
from regionjax.batch import TEXTS, BatchSpec
from regionjax.mesh import MeshConfig, make_mesh
from regionjax.models.trajectory import COMPACT, TrajectoryWords, words
from regionjax.step import init_state, make_train_step
from regionjax.systems import regionvlm, system

IMAGE, PATCH, QUERIES, POINTS, TARGET, VOCABULARY = 160, 16, 32, 10, 32, 4000
PROPOSALS, SAMPLINGS, EXPRESSION = 20, 5, 12
RATE = 5e-6
SAID = ("encoder", "decoder", "vocabulary")  # T5's parts
TRAINED = ("query_tokens", "qformer.", "language_projection.", "vision_model.post_layernorm.")


def reference():
    """The small random model, frozen as RegionVLM is."""
    vision = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6}
    vision |= {"num_hidden_layers": 8, "image_size": IMAGE, "patch_size": PATCH}
    former = {"hidden_size": 112, "intermediate_size": 448, "num_attention_heads": 4}
    former |= {"num_hidden_layers": 2, "vocab_size": COMPACT, "max_position_embeddings": 64}
    former |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    text = {"model_type": "t5", "d_model": 256, "d_kv": 32, "d_ff": 512, "num_heads": 8}
    text |= {"num_layers": 3, "feed_forward_proj": "gated-gelu", "vocab_size": VOCABULARY}
    text |= {"dropout_rate": 0.0, "decoder_start_token_id": 0, "pad_token_id": 0}
    text |= {"bos_token_id": 1, "eos_token_id": 1, "tie_word_embeddings": False}
    config = transformers.InstructBlipConfig(
        vision_config=vision,
        qformer_config=former,
        text_config=text,
        num_query_tokens=QUERIES,
        image_token_index=VOCABULARY - 1,
    )
    torch.manual_seed(0)
    model = transformers.InstructBlipForConditionalGeneration(config).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.removeprefix("model.").startswith(TRAINED))
    return model


def spec_of(regions, target=TARGET):
    """A batch without questions: T5 reads the soft prompt and </s>."""
    return BatchSpec(IMAGE, 2, regions, POINTS, 0, target, target)


def system_of(config, spec, unroll):
    """Our System of an imported InstructBlipConfig."""
    parts = {name: dict(vars(getattr(config, name))) for name in ("vit", "qformer", "t5")}
    parts["qformer"]["dropout"] = 0.0
    if unroll:
        for part in parts.values():
            part["unroll"] = part["depth"]
    return system.build(ConfigDict({"system": "regionvlm", "model": parts}), spec)


def batch_of(images, spec, same=False):
    """Full targets, the same one for all regions if asked for."""
    rng, batch = np.random.default_rng(0), spec.zeros(images)
    batch["image"][:] = rng.integers(0, 256, batch["image"].shape)
    batch["region_points"][:] = rng.random(batch["region_points"].shape)
    batch["region_box"][:] = (0.1, 0.1, 0.9, 0.9)
    said = rng.integers(2, VOCABULARY - 1, batch["target"].shape)
    batch["target"][:] = said[:1, :1] if same else said
    batch["target_weight"][:] = 1
    return batch


def inputs_of(batch, config):
    """Arguments for `transformers`, and labels: every region with its own copy of the image."""
    regions, length = batch["target"].shape[1:]
    mean, std = np.array(config.vit.mean), np.array(config.vit.std)
    pixels = ((batch["image"] / 255 - mean) / std).transpose(0, 3, 1, 2)
    pixels = torch.from_numpy(np.repeat(pixels.astype(np.float32), regions, axis=0))
    whole = np.zeros(batch["region_points"].shape[:2], bool)
    asked = np.array(words(TrajectoryWords(), batch["region_points"], whole))
    asked = torch.from_numpy(asked.reshape(-1, asked.shape[-1])).long()
    tokens = torch.full((len(asked), QUERIES + 1), VOCABULARY - 1)
    tokens[:, -1] = 1  # </s>
    labels = torch.from_numpy(batch["target"].reshape(-1, length)).long()
    return {
        "pixel_values": pixels,
        "qformer_input_ids": asked,
        "qformer_attention_mask": torch.ones_like(asked),
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "decoder_input_ids": torch.nn.functional.pad(labels[:, :-1], (1, 0)),
    }, labels


def nll_of(model, inputs, labels):
    """f32 [N, T]"""
    logits = model(**inputs).logits
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none"
    )
    return loss.reshape(labels.shape)


def their_training(model, batch, config):
    inputs, labels = inputs_of(batch, config)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.999), weight_decay=0.05)

    def step():
        optimizer.zero_grad()
        loss = nll_of(model, inputs, labels).mean()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def our_training(built, params, batch, spec):
    """A function that runs a step, and {part: training FLOPs of a region by count}."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    settings = optim.OptimConfig(
        RATE, 0.0, b2=0.999, clip_norm=1e9, weight_decay=((".*", 0.05),), frozen=regionvlm.FROZEN
    )
    optimizer = optim.make_optimizer(settings, 1000, params)
    shapes = jax.eval_shape(lambda: init_state(built, optimizer, 0, spec))
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    places, _ = sharding.state_shardings(shapes, built.sharding_rules, mesh)
    state = jax.device_put(state.replace(params=params), places)
    batch = jax.device_put(batch)
    train_step = make_train_step(
        built, optimizer, {"caption": 1.0}, seed=0, microbatches=1, shardings=places
    )
    update = jax.jit(train_step, donate_argnums=0)
    kept = [state]

    def step():
        with jax.set_mesh(mesh):
            kept[0], metrics = update(kept[0], batch)
        return float(jax.block_until_ready((kept[0], metrics))[1]["loss"])

    work = built.flops().training(params, optimizer.frozen)
    return step, {name: flops / spec.regions for name, flops in work.items()}


def our_scoring(built, params, batch, expressions=1):
    """f32 [expressions · 100]: what every proposal and sampling gives one expression, repeated."""
    texts = {name: np.repeat(batch[name][:, :, None], expressions, 2) for name in TEXTS}
    score, batch = jax.jit(built.predict["caption_nll"]), jax.device_put(batch | texts)
    return lambda: np.moveaxis(np.asarray(score(params, batch)), 2, 0).ravel()


def their_scoring(model, batch, config, expressions=1):
    inputs, labels = inputs_of(batch, config)

    def run():
        with torch.no_grad():
            parts = range(0, len(labels), PROPOSALS)
            found = [
                nll_of(
                    model,
                    {name: value[at : at + PROPOSALS] for name, value in inputs.items()},
                    labels[at : at + PROPOSALS],
                )
                for _ in range(expressions)
                for at in parts
            ]
        return torch.cat(found).mean(-1).numpy()

    return run


def in_turns(functions, rounds, clock):
    """Best seconds of each, and what each said first."""
    said = [function() for function in functions]
    best = [float("inf")] * len(functions)
    for _ in range(rounds):
        for number, function in enumerate(functions):
            start = clock()
            function()
            best[number] = min(best[number], clock() - start)
    return best, said


def main(arguments=None):
    """Prints shares and a line for each measurement; returns {name: times as fast}."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--regions", type=int, default=32, help="a training step; a multiple of 8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--expressions", type=int, default=8, help="of an image, to score")
    parser.add_argument("--scan", action="store_true", help="layers in a loop, as large models do")
    parser.add_argument("--cpu_time", action="store_true", help="processor time of all threads")
    given = parser.parse_args(arguments)
    clock = time.process_time if given.cpu_time else time.perf_counter
    model = reference()
    module, variables = imported(model, unroll=False)
    config, params = module.config, variables["params"]
    # Training first: what scoring leaves behind breaks up the memory that a step needs whole.
    ratios = train(model, config, params, given, clock)
    return ratios | score(model, config, params, given, clock)


def score(model, config, params, given, clock):
    """{"scoring": times as fast, "scoring several": the same with several expressions}"""
    many, several = PROPOSALS * SAMPLINGS, given.expressions
    alone, together = (
        system_of(config, spec_of(regions, EXPRESSION), not given.scan) for regions in (1, many)
    )
    batch = batch_of(1, spec_of(many, EXPRESSION), same=True)
    ratios = {}
    for name, count in (("scoring", 1), ("scoring several", several)):
        runs = (
            our_scoring(together, params, batch, count),
            their_scoring(model, batch, config, count),
        )
        (ours, theirs), (first, second) = in_turns(runs, given.rounds, clock)
        shared = [part for part in together.flops().parts if part.name not in SAID]
        asked, said = (many, QUERIES + 1), (many * count, EXPRESSION)
        work = [
            count * many * sum(part.forward for part in alone.flops().parts),
            sum(part.forward for part in (*shared, *flops.t5(config.t5, asked, said, "", ()))),
        ]
        error = np.abs(first - second).max() / np.abs(second).max()
        ratios[name] = theirs / ours
        print(
            f"scoring {count} × {PROPOSALS} proposals × {SAMPLINGS} samplings: {1e3 * ours:.0f} "
            f"ms, PyTorch {1e3 * theirs:.0f} ms: {ratios[name]:.2f} times as fast, by count "
            f"{work[0] / work[1]:.2f}; scores differ by {error:.1e}"
        )
    return ratios


def train(model, config, params, given, clock):
    """{R: times as fast}"""
    steps, works = [], {}
    for regions in (1, 8):
        spec = spec_of(regions)
        batch = batch_of(given.regions // regions, spec)
        built, own = system_of(config, spec, not given.scan), jax.tree.map(np.array, params)
        step, works[regions] = our_training(built, own, batch, spec)
        steps += [step, their_training(copy.deepcopy(model), batch, config)]
    count = {regions: sum(work.values()) for regions, work in works.items()}
    share = {name: flops / count[1] for name, flops in works[1].items()}
    t5 = sum(share[name] for name in ("encoder", "decoder", "vocabulary"))
    print(
        f"a training sample at R=1: {count[1] / 1e9:.2f} GFLOP, ViT {share['vit']:.0%}, "
        f"Q-Former {share['qformer']:.0%}, T5 {t5:.0%}"
    )
    best, said = in_turns(steps, given.rounds, clock)
    ratios = {}
    for number, regions in enumerate(count):
        (ours, theirs), (first, second) = (pair[2 * number :][:2] for pair in (best, said))
        ratios[regions] = theirs / ours
        print(
            f"training, R={regions}: {given.regions / ours:.1f} regions/s, PyTorch "
            f"{given.regions / theirs:.1f}: {theirs / ours:.2f} times as fast, by count "
            f"{count[1] / count[regions]:.2f}; first losses differ by {abs(first / second - 1):.1e}"
        )
    return ratios


if __name__ == "__main__":
    if allocator.computes_itself(jax.config.jax_platforms):
        allocator.keep_freed_memory()
    main()
