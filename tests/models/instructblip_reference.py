"""Tiny random BLIP-2s and InstructBLIPs of `transformers`, and a golden file of one of either.

`PYTHONPATH=. python tests/models/instructblip_reference.py` writes the golden files anew (it needs
torch).
"""

import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from parity import randomise, saved
from t5_reference import generated

from regionjax.models.instructblip import InstructBlip
from regionjax.weights import table
from regionjax.weights.tables import instructblip as blip_table

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"  # a file a kind
GOLDEN_EOS = 47
VOCABULARY, WORDS = 53, 37  # of T5 and of the Q-Former
IMAGE_TOKEN = VOCABULARY - 1


def _settings(vision, qformer, language, queries):
    """Of (width, depth, heads, MLP width) of each part; the sizes of the image are those of ViT."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    vision = dict(zip(names, vision[:4], strict=True), image_size=vision[4], patch_size=vision[5])
    qformer = dict(zip(names, qformer, strict=True), vocab_size=WORDS, max_position_embeddings=12)
    language = {
        "model_type": "t5",
        "vocab_size": VOCABULARY,
        "decoder_start_token_id": 0,
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu",
        "eos_token_id": 1,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "pad_token_id": 0,
        **dict(zip(("d_model", "num_layers", "num_heads", "d_ff", "d_kv"), language, strict=True)),
    }
    return {
        "vision_config": vision,
        "qformer_config": qformer,
        "text_config": language,
        "num_query_tokens": queries,
        "image_token_index": IMAGE_TOKEN,
    }


# (kind, settings, whether lm_head is a tensor of its own)
CONFIGS = {
    "instructblip": (
        "InstructBlip",
        _settings((12, 3, 3, 20, 12, 4), (10, 4, 5, 14), (16, 2, 3, 24, 4), 4),
        True,
    ),
    "instructblip_every_layer": (
        "InstructBlip",
        _settings((8, 1, 1, 20, 10, 5), (14, 3, 7, 9), (12, 3, 2, 30, 5), 1),
        False,
    ),
    "instructblip_rest_of_pixels": (
        "InstructBlip",
        _settings((14, 2, 7, 10, 7, 3), (9, 2, 3, 12), (15, 1, 5, 18, 6), 2),
        True,
    ),
    "blip_2": (
        "Blip2",
        _settings((15, 2, 5, 18, 8, 2), (12, 2, 3, 16), (14, 1, 1, 18, 7), 3),
        True,
    ),
    "blip_2_every_layer": (
        "Blip2",
        _settings((6, 1, 2, 24, 9, 3), (10, 2, 5, 11), (18, 2, 3, 20, 8), 5),
        True,
    ),
    "blip_2_tied": (
        "Blip2",
        _settings((9, 3, 3, 12, 6, 3), (8, 4, 1, 20), (10, 2, 5, 16, 3), 1),
        False,
    ),
}
for _name in ("instructblip_every_layer", "blip_2_every_layer"):
    CONFIGS[_name][1]["qformer_config"]["cross_attention_frequency"] = 1
# What they are shown: height and width in sides of their own images, and lengths of the texts.
SHOWN = {
    "instructblip": ((1, 1), (7, 5, 6)),
    "instructblip_every_layer": ((2, 1), (1, 1, 1)),
    "instructblip_rest_of_pixels": ((1, 3), (12, 9, 4)),
    "blip_2": ((2, 1), (0, 8, 7)),
    "blip_2_every_layer": ((1, 1), (0, 1, 5)),
    "blip_2_tied": ((1, 2), (0, 5, 1)),
}
GOLDEN_CONFIGS = {
    kind: (name, _settings((6, 1, 3, 8, 4, 2), (6, 2, 2, 7), (8, 1, 2, 10, 3), 2), True)
    for kind, name in (("instructblip", "InstructBlip"), ("blip-2", "Blip2"))
}


def build(kind, settings, own_head, seed=0):
    """A random model, its tensors, and our config of it."""
    import torch
    import transformers

    config = getattr(transformers, f"{kind}Config")(**settings)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    if own_head:
        language = model.language_model
        language.lm_head.weight = torch.nn.Parameter(torch.empty_like(language.shared.weight))
    randomise(model, seed)
    with tempfile.TemporaryDirectory() as folder:
        tensors = saved(model, pathlib.Path(folder))
    return model, tensors, blip_table.config_from(config.to_dict(), tensors)


def ours(config, tensors, dtype=jnp.float32):
    """Our InstructBlip and its variables, of their tensors."""
    network = InstructBlip(config, dtype)
    shapes = jax.eval_shape(network.init, jax.random.key(0), *example(config))["params"]
    return network, {"params": table.to_ours(tensors, blip_table.rows(config), shapes)}


def example(config, images=1, regions=1):
    """Arguments of a forward pass."""
    size = config.vit.image_size
    tokens = jnp.zeros((images, regions, 2), jnp.int32)
    instruction = tokens if config.qformer.vocabulary else None
    return jnp.zeros((images, size, size, 3), jnp.uint8), instruction, tokens, tokens


def inputs(config, size, seed=0, images=2, regions=3, lengths=(7, 5, 6)):
    """Random images, instructions, prompts and decoder inputs, of `lengths`."""
    rng = np.random.default_rng(seed)
    shape = (images, regions)

    def text(vocabulary, length, side):
        tokens = rng.integers(2, vocabulary, (*shape, length), dtype=np.int32)
        real = rng.integers(1, length + 1, (*shape, 1))
        place = np.arange(length)
        return np.where((place if side == "right" else place[::-1]) < real, tokens, 0)

    image = rng.integers(0, 256, (images, *size, 3), dtype=np.uint8)
    instruction = text(WORDS, lengths[0], "left") if config.qformer.vocabulary else None
    prompt = text(VOCABULARY - 1, lengths[1], "right")
    tokens = rng.integers(2, VOCABULARY, (*shape, lengths[2]), dtype=np.int32)
    tokens[..., 0] = 0
    return image, instruction, prompt, tokens


def torch_arguments(config, image, instruction, prompt):
    """The same for theirs, which sees an image once for every region of it."""
    import torch

    regions, queries = prompt.shape[1], config.qformer.queries
    pixels = (image / 255 - np.array(config.vit.mean)) / np.array(config.vit.std)
    pixels = torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2)
    prompt = prompt.reshape(-1, prompt.shape[-1])
    marks = np.full((len(prompt), queries), IMAGE_TOKEN)
    tokens = np.concatenate([marks, prompt], axis=1)
    arguments = {
        "pixel_values": pixels.repeat_interleave(regions, 0),
        "input_ids": torch.from_numpy(tokens).long(),
        "attention_mask": torch.from_numpy(tokens > 0).long(),
        "interpolate_pos_encoding": True,
    }
    if instruction is not None:
        text = torch.from_numpy(instruction.reshape(-1, instruction.shape[-1])).long()
        arguments |= {"qformer_input_ids": text, "qformer_attention_mask": (text > 0).long()}
    return arguments


def torch_forward(model, config, image, instruction, prompt, tokens):
    """Logits [B·R, T, V] and what all layers of all parts say, of the reference."""
    import torch

    states, hooks = {}, []
    for name, stack in (
        ("vit", model.vision_model.encoder.layers),
        ("qformer", model.qformer.encoder.layer),
    ):
        states[name] = []
        for layer in stack:
            keep = lambda module, args, out, name=name: states[name].append(out.numpy())  # noqa: E731
            hooks.append(layer.register_forward_hook(keep))
    with torch.no_grad():
        out = model(
            **torch_arguments(config, image, instruction, prompt),
            decoder_input_ids=torch.from_numpy(tokens.reshape(-1, tokens.shape[-1])).long(),
            output_hidden_states=True,
        )
    for hook in hooks:
        hook.remove()
    said = out.language_model_outputs
    states["features"] = out.vision_outputs.last_hidden_state.numpy()
    states["encoder"] = [state.numpy() for state in said.encoder_hidden_states]
    states["decoder"] = [state.numpy() for state in said.decoder_hidden_states]
    return out.logits.numpy(), states


def torch_generate(model, config, image, instruction, prompt, **settings):
    """i32 [B·R, length]"""
    arguments = torch_arguments(config, image, instruction, prompt)
    return generated(model, **arguments, **settings)


def write_golden():
    """Weights, inputs and outputs of one small model a kind."""
    for kind, settings in GOLDEN_CONFIGS.items():
        model, tensors, config = build(*settings)
        arrays = inputs(config, (6, 4), lengths=(4, 3, 5))
        logits, states = torch_forward(model, config, *arrays)
        named = dict(zip(("image", "instruction", "prompt", "tokens"), arrays, strict=True))
        ends = dict(eos_id=GOLDEN_EOS, length=7)
        np.savez_compressed(
            GOLDEN / f"{kind}.npz",
            **{f"tensor/{name}": tensor for name, tensor in tensors.items()},
            **{name: array for name, array in named.items() if array is not None},
            **dict(logits=logits, soft_prompts=states["encoder"][0][:, : config.qformer.queries]),
            greedy=torch_generate(model, config, *arrays[:3], **ends),
            beam=torch_generate(model, config, *arrays[:3], **ends, num_beams=3),
        )


if __name__ == "__main__":
    write_golden()
