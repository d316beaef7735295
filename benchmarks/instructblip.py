"""InstructBLIP against PyTorch: forward pass, training step and greedy generation, in float32.

    python -m benchmarks.instructblip
    python -m benchmarks.instructblip --regions 8
    taskset -c 0 python -m benchmarks.instructblip --cpu_time

Needs torch. A random model of `transformers` is imported, so both compute with the same weights and
the same batch: PyTorch eagerly with the attention that transformers picks, ours compiled. They take
turns in one process, so that a busy machine harms both alike; times are the best of `--rounds`. The
training step is forward, backward and AdamW on all parameters, without dropout. Generation is
cached and never ends early. With `--regions R` every image has R questions, for which transformers
encodes it R times. On a busy machine PyTorch's threads wait for each other far longer than ours, so
the third command is fairer there: one thread each, and its processor time.
"""

import argparse
import dataclasses
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import transformers

from regionjax import decode
from regionjax.mesh import MeshConfig, make_mesh
from regionjax.models.t5 import shift_right
from regionjax.weights.importing import import_weights, load

LEARNING_RATE = 1e-4
IMAGE, QUERIES, PROMPT, INSTRUCTION, TARGET = 112, 16, 16, 16, 24
VOCABULARY = 8000


def reference():
    """A small random InstructBLIP without dropout."""
    vision = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4}
    vision |= {"num_hidden_layers": 6, "image_size": IMAGE, "patch_size": 14}
    former = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4}
    former |= {"num_hidden_layers": 4, "vocab_size": VOCABULARY}
    former |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    text = {"model_type": "t5", "d_model": 256, "d_kv": 64, "d_ff": 512, "num_heads": 4}
    text |= {"num_layers": 4, "feed_forward_proj": "gated-gelu", "vocab_size": VOCABULARY}
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
    return transformers.InstructBlipForConditionalGeneration(config)


def imported(model, unroll):
    """The same model here: module and variables."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(f"{folder}/theirs")
        import_weights(f"{folder}/theirs", f"{folder}/ours", mesh)
        module, variables = load(f"{folder}/ours", mesh)
    if unroll:
        c = module.config
        parts = {"vit": c.vit, "qformer": c.qformer, "t5": c.t5}
        parts = {name: dataclasses.replace(p, unroll=p.depth) for name, p in parts.items()}
        module = module.clone(config=dataclasses.replace(c, **parts))
    return module, jax.device_put(variables)


def batch_of(images, regions):
    """image uint8 [B, H, W, 3]; instruction, prompt, target i32 [B, R, …], full of tokens."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (images, IMAGE, IMAGE, 3), dtype=np.uint8)
    texts = [
        rng.integers(2, VOCABULARY - 1, (images, regions, length), dtype=np.int32)
        for length in (INSTRUCTION, PROMPT, TARGET)
    ]
    return image, *texts


def theirs(model, batch, config):
    """{name: function} of what PyTorch does."""
    image, instruction, prompt, target = batch
    regions = target.shape[1]
    pixels = (image / 255 - np.array(config.mean)) / np.array(config.std)
    pixels = np.repeat(pixels.transpose(0, 3, 1, 2), regions, axis=0)
    flat = lambda t: torch.from_numpy(t.reshape(-1, t.shape[-1])).long()  # noqa: E731
    marks = torch.full((pixels.shape[0], QUERIES), VOCABULARY - 1)
    tokens = torch.cat([marks, flat(prompt)], dim=1)
    inputs = {
        "pixel_values": torch.from_numpy(pixels.astype(np.float32)),
        "qformer_input_ids": flat(instruction),
        "qformer_attention_mask": torch.ones_like(flat(instruction)),
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
    }
    said = torch.from_numpy(np.array(shift_right(target, 0))).long().reshape(-1, TARGET)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)

    def forward():
        with torch.no_grad():
            return model(**inputs, decoder_input_ids=said).logits.numpy()

    def train():
        optimizer.zero_grad()
        logits = model(**inputs, decoder_input_ids=said).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), flat(target).flatten())
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def generate():
        with torch.no_grad():
            found = model.generate(
                **inputs, max_new_tokens=TARGET, do_sample=False, eos_token_id=None
            )
        return found[:, -TARGET:].numpy()

    return {"forward": forward, "training step": train, "generation": generate}


def ours(module, variables, batch):
    """{name: function} of what we do."""
    image, instruction, prompt, target = jax.device_put(batch)
    said = shift_right(target, 0)
    optimizer = optax.adamw(LEARNING_RATE, weight_decay=0.0)

    def logits(variables):
        hidden, _ = module.apply(variables, image, instruction, prompt, said)
        return module.apply(variables, hidden, method="logits")

    def loss(variables):
        losses = optax.softmax_cross_entropy_with_integer_labels(logits(variables), target)
        return losses.mean()

    def step(variables, slots):
        value, gradient = jax.value_and_grad(loss)(variables)
        updates, slots = optimizer.update(gradient, slots, variables)
        return optax.apply_updates(variables, updates), slots, value

    def generated(variables):
        first, cache = module.apply(variables, image, instruction, prompt, TARGET, method="prefill")
        advance = lambda cache, tokens: module.apply(  # noqa: E731
            variables, cache, tokens, method="advance"
        )
        config = decode.GenerationConfig("greedy", max_new_tokens=TARGET)
        rng = jax.random.key(0)
        return decode.generate(first, cache, advance, rng, eos_id=-1, config=config)

    forward, generate = jax.jit(logits), jax.jit(generated)
    update = jax.jit(step, donate_argnums=(0, 1))
    trained = jax.tree.map(jnp.copy, variables)
    state = [trained, jax.jit(optimizer.init)(trained)]

    def train():
        *state[:], value = update(*state)
        return float(jax.block_until_ready((state, value))[1])

    return {
        "forward": lambda: np.asarray(forward(variables)).reshape(-1, TARGET, VOCABULARY),
        "training step": train,
        "generation": lambda: np.asarray(generate(variables)).reshape(-1, TARGET),
    }


def main(arguments=None):
    """Prints a line for each of the three and returns {name: how many times as fast}."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--regions", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--unroll", action="store_true", help="layer after layer, not in a loop")
    parser.add_argument("--cpu_time", action="store_true", help="processor time of all threads")
    given = parser.parse_args(arguments)
    clock = time.process_time if given.cpu_time else time.perf_counter
    model = reference()
    module, variables = imported(model, given.unroll)
    batch = batch_of(given.images, given.regions)
    both = ours(module, variables, batch), theirs(model, batch, module.config.vit)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} million parameters")
    ratios = {}
    # Training comes last: it changes the weights.
    for name in ("forward", "generation", "training step"):
        first, second = (functions[name]() for functions in both)
        best = [float("inf")] * 2
        for _ in range(given.rounds):
            for side, functions in enumerate(both):
                start = clock()
                functions[name]()
                best[side] = min(best[side], clock() - start)
        if name == "generation":
            alike = f"{np.mean(first == second):.0%} of the tokens equal"
        else:
            error = np.abs(np.subtract(first, second)).max() / np.abs(second).max()
            alike = f"results differ by {error:.1e}"
        ratios[name] = best[1] / best[0]
        print(
            f"{name}: {1e3 * best[0]:.1f} ms, PyTorch {1e3 * best[1]:.1f} ms: "
            f"{ratios[name]:.2f} times as fast; {alike}"
        )
    return ratios


if __name__ == "__main__":
    main()
