"""Tiny random PaliGemmas of `transformers`, and a golden file of what two of them said.

`PYTHONPATH=. python tests/models/paligemma_reference.py` writes the golden file (it needs torch).
"""

import functools
import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from parity import randomise, saved

from regionjax import decode
from regionjax.models.paligemma import PaliGemma
from regionjax.weights import table
from regionjax.weights.tables import paligemma as paligemma_table

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "paligemma.npz"
VOCABULARY, IMAGE_TOKEN, EOS = 53, 52, 7
IMAGES, QUESTIONS = 2, 2


def _vision(width, heads, depth, mlp, image, patch):
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_hidden_layers": depth,
        "intermediate_size": mlp,
        "image_size": image,
        "patch_size": patch,
        "vision_use_head": False,
    }


def _text(model_type, width, heads, kv_heads, head_width, depth, mlp, **more):
    return {
        "model_type": model_type,
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_width,
        "num_hidden_layers": depth,
        "intermediate_size": mlp,
        **more,
    }


def _caps(window, attention, final, divisor):
    return {
        "sliding_window": window,
        "attn_logit_softcapping": attention,
        "final_logit_softcapping": final,
        "query_pre_attn_scalar": divisor,
    }


# (vision, text). Windows are shorter than images.
MODELS = {
    "1_one_kv_head": (_vision(12, 3, 2, 20, 8, 4), _text("gemma", 15, 3, 1, 8, 3, 22)),
    "1_grouped": (_vision(10, 5, 1, 14, 9, 3), _text("gemma", 24, 6, 2, 4, 2, 30)),
    "1_rest_of_pixels": (_vision(14, 7, 2, 18, 11, 5), _text("gemma", 20, 5, 5, 6, 2, 16)),
    "2_alternating": (
        _vision(12, 3, 1, 20, 8, 4),
        _text("gemma2", 18, 3, 1, 8, 3, 26, **_caps(3, 2.0, 1.5, 8)),
    ),
    "2_grouped": (
        _vision(15, 3, 2, 16, 12, 4),
        _text("gemma2", 24, 6, 3, 4, 2, 30, **_caps(6, 0.7, 3.0, 11)),
    ),
    "2_uncapped": (
        _vision(8, 1, 1, 10, 6, 2),
        _text("gemma2", 20, 4, 4, 6, 2, 24, **_caps(11, None, None, 3)),
    ),
}
GOLDEN_MODELS = {
    "1": (_vision(6, 3, 1, 8, 4, 2), _text("gemma", 6, 3, 1, 4, 2, 8)),
    "2": (
        _vision(6, 3, 1, 8, 4, 2),
        _text("gemma2", 6, 3, 1, 4, 2, 8, **_caps(3, 2.0, 1.5, 8)),
    ),
}


def build(vision, text):
    """A random PaliGemmaForConditionalGeneration, and the values of its config.json."""
    import transformers

    width = text["hidden_size"]
    config = transformers.PaliGemmaConfig(
        vision_config=dict(vision),
        text_config=dict(text, eos_token_id=None, pad_token_id=0),
        **dict(projection_dim=width, hidden_size=width, image_token_index=IMAGE_TOKEN),
        attn_implementation="eager",
    )
    model = randomise(transformers.PaliGemmaForConditionalGeneration(config))
    return model, {"model_type": "paligemma", "text_config": text, "vision_config": vision}


def ours(values, tensors, dtype=jnp.float32):
    """Our PaliGemma and its variables, of a config.json and the tensors beside it."""
    config = paligemma_table.config_from(values)
    network = PaliGemma(config, dtype)
    image = jnp.zeros((1, config.vit.image_size, config.vit.image_size, 3), jnp.uint8)
    tokens = jnp.zeros((1, 1, 2), jnp.int32)
    init = lambda: network.init(jax.random.key(0), image, tokens, tokens)  # noqa: E731
    shapes = jax.eval_shape(init)["params"]
    return network, {"params": table.to_ours(tensors, paligemma_table.rows(config), shapes)}


def inputs(size, prompt, target, seed=0):
    """image uint8, prompt and target i32 [B, R, …] of several lengths, padded at the end."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (IMAGES, size, size, 3), dtype=np.uint8)
    texts = []
    for length in (prompt, target):
        text = rng.integers(2, IMAGE_TOKEN, (IMAGES, QUESTIONS, length), dtype=np.int32)
        real = length - np.arange(IMAGES * QUESTIONS).reshape(IMAGES, QUESTIONS) * length // 5
        texts.append(np.where(np.arange(length) < real[..., None], text, 0))
    return image, *texts


def pixels(image):
    """What the reference gets: normalised, channels first, an image for every question."""
    import torch

    image = np.repeat(image, QUESTIONS, axis=0)
    return torch.from_numpy((np.float32(image) / 127.5 - 1).transpose(0, 3, 1, 2).copy())


def sequences(patches, prompt, target, side):
    """Their inputs: tokens, mask and token types, one row a question, padded on one side.

    Returns:
      i64 arrays [B·R, S], and for each row where its image begins.
    """
    rows = []
    for asked, said in zip(*(t.reshape(-1, t.shape[-1]) for t in (prompt, target)), strict=True):
        asked, said = asked[asked > 0], said[said > 0]
        tokens = np.concatenate([np.full(patches, IMAGE_TOKEN), asked, said])
        rows.append((tokens, np.arange(tokens.size) >= patches + asked.size))
    size = max(tokens.size for tokens, _ in rows)
    out = np.zeros((3, len(rows), size), np.int64)
    begins = []
    for i, (tokens, suffix) in enumerate(rows):
        begins.append(size - tokens.size if side == "left" else 0)
        place = slice(begins[-1], begins[-1] + tokens.size)
        out[:, i, place] = tokens, np.ones_like(tokens), suffix
    return *out, begins


def torch_forward(model, image, prompt, target, side):
    """For every question the reference's logits, and what every layer of its Gemma returns.

    Both f32 [tokens, …] of image, prompt and target, without padding.
    """
    import torch

    vision = model.config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    tokens, mask, types, begins = sequences(patches, prompt, target, side)
    hidden = []
    hooks = [
        layer.register_forward_hook(
            lambda *a: hidden.append(a[-1][0] if isinstance(a[-1], tuple) else a[-1])
        )
        for layer in model.model.language_model.layers
    ]
    with torch.no_grad():
        logits = model(
            input_ids=torch.from_numpy(tokens),
            attention_mask=torch.from_numpy(mask),
            token_type_ids=torch.from_numpy(types),
            pixel_values=pixels(image),
        ).logits.numpy()
    for hook in hooks:
        hook.remove()
    hidden = np.stack([state.numpy() for state in hidden])
    places = [slice(begin, begin + n) for begin, n in zip(begins, mask.sum(1), strict=True)]
    return [logits[i, p] for i, p in enumerate(places)], [
        hidden[:, i, p] for i, p in enumerate(places)
    ]


def torch_generate(model, image, prompt, eos_id, length, **settings):
    """i32 [B·R, length], 0 after `eos_id`."""
    import torch

    vision = model.config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    tokens, mask, types, _ = sequences(patches, prompt, np.zeros_like(prompt), "left")
    out = model.generate(
        input_ids=torch.from_numpy(tokens),
        attention_mask=torch.from_numpy(mask),
        token_type_ids=torch.from_numpy(types),
        pixel_values=pixels(image),
        **dict(eos_token_id=eos_id, pad_token_id=0, max_new_tokens=length, do_sample=False),
        **settings,
    )[:, tokens.shape[1] :].numpy()
    out = np.pad(out, [(0, 0), (0, length - out.shape[1])]).astype(np.int32)
    ended = np.cumsum(out == eos_id, axis=1) - (out == eos_id) > 0  # beams repeat the end
    return np.where(ended, 0, out)


def generator(network, config):
    """(variables, image, prompt, eos_id) → i32 [B·R, max_new_tokens]; compiled."""

    @jax.jit
    def generate(variables, image, prompt, eos_id):
        logits, cache = network.apply(
            variables, image, prompt, config.max_new_tokens, method=PaliGemma.start
        )
        return decode.generate(
            *(logits, cache),
            lambda cache, token: network.apply(variables, cache, token, method=PaliGemma.advance),
            jax.random.key(0),
            **dict(eos_id=eos_id, config=config),
        ).reshape(IMAGES * QUESTIONS, -1)

    return generate


@functools.cache
def forward(network):
    """(variables, image, prompt, target) → logits of the targets, intermediates; compiled."""

    @jax.jit
    def run(variables, image, prompt, target):
        hidden, states = network.apply(variables, image, prompt, target, keep_hidden=True)
        return network.apply(variables, hidden, method=PaliGemma.logits), states

    return run


def write_golden():
    """Settings, weights, inputs and outputs of small models."""
    kept = {}
    for name, settings in GOLDEN_MODELS.items():
        model, values = build(*settings)
        image, prompt, target = inputs(4, 5, 4)
        logits, _ = torch_forward(model, image, prompt, target, "left")
        with tempfile.TemporaryDirectory() as folder:
            tensors = saved(model, pathlib.Path(folder))
        found = {
            "json": json.dumps(values),
            **{f"tensor/{key}": tensor for key, tensor in tensors.items()},
            **dict(image=image, prompt=prompt, target=target),
            **{f"logits/{i}": row for i, row in enumerate(logits)},
            "greedy": torch_generate(model, image, prompt, EOS, 7),
            "beam": torch_generate(model, image, prompt, EOS, 7, num_beams=3),
        }
        kept |= {f"{name}/{key}": value for key, value in found.items()}
    np.savez_compressed(GOLDEN, **kept)


def read_golden(name):
    """{key: array} of one of GOLDEN_MODELS, and {name: tensor}."""
    with np.load(GOLDEN) as file:
        kept = {key[len(name) + 1 :]: file[key] for key in file if key.startswith(f"{name}/")}
    return kept, {key[7:]: kept[key] for key in kept if key.startswith("tensor/")}


if __name__ == "__main__":
    write_golden()
