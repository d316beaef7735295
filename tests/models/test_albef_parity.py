"""ALBEF against a ViT and a BERT of transformers that are made to compute the same.

transformers has no ALBEF. Its ViTModel is ALBEF's vision tower. Its BertForMaskedLM becomes the
text encoder: built as a decoder with cross-attention, then told that it is none, so that nothing is
causal; the layers below the fusion lose their cross-attention. What this does not cover are the
losses, queues and momentum copies around the network, which are no part of it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity import close, divergence, parameters, randomise, saved  # noqa: E402
from transformers import BertConfig, BertForMaskedLM, ViTConfig, ViTModel  # noqa: E402

from regionjax.models import albef  # noqa: E402
from regionjax.weights import table  # noqa: E402
from regionjax.weights.tables import albef as albef_table  # noqa: E402

pytestmark = pytest.mark.torch

B, R, T = 2, 3, 6
VOCABULARY, POSITIONS = 41, 20
# (head width, heads, layers of the ViT, image size, patch size, text layers, fusion layers)
MODELS = {
    "three_heads": (8, 3, 2, 12, 4, 2, 3),
    "five_heads": (4, 5, 1, 8, 2, 1, 2),
    "two_heads": (16, 2, 3, 24, 8, 3, 1),
}


def build(head_width, heads, vit_depth, image_size, patch_size, text_depth, fusion_depth, **text):
    """The two reference towers."""
    sizes = {
        "hidden_size": head_width * heads,
        "num_attention_heads": heads,
        "intermediate_size": 4 * head_width * heads,
    }
    vision = ViTModel(
        ViTConfig(
            **sizes,
            num_hidden_layers=vit_depth,
            image_size=image_size,
            patch_size=patch_size,
            layer_norm_eps=1e-6,
        ),
        add_pooling_layer=False,
    )
    bert = BertForMaskedLM(
        BertConfig(
            **sizes,
            num_hidden_layers=text_depth + fusion_depth,
            is_decoder=True,
            add_cross_attention=True,
            **text,
        )
    )
    for layer in bert.bert.encoder.layer[:text_depth]:
        layer.is_decoder = False
        del layer.crossattention
    bert.config.is_decoder = bert.bert.config.is_decoder = False  # no causal mask
    bert.set_attn_implementation("eager")
    return vision, bert


def file_of(vision, text, folder):
    """{name: array} as the ALBEF repository would save these towers, with all that is around."""
    rng = np.random.default_rng(3)
    tensors = {f"text_encoder.{name}": tensor for name, tensor in saved(text, folder).items()}
    renames = {
        "embeddings.cls_token": "cls_token",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "encoder.layer.": "blocks.",
        "attention.output.dense": "attn.proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "layernorm": "norm",
    }
    theirs = saved(vision, folder)
    for name, tensor in theirs.items():
        if ".key." in name or ".value." in name:
            continue
        if ".query." in name:
            parts = [theirs[name.replace("query", part)] for part in ("query", "key", "value")]
            name = name.replace("attention.attention.query", "attn.qkv")
            tensor = np.concatenate(parts)
        for old, new in renames.items():
            name = name.replace(old, new)
        tensors[f"visual_encoder.{name}"] = tensor
    width = vision.config.hidden_size
    heads = {"vision_proj": 10, "text_proj": 10, "itm_head": 2}
    for name, size in heads.items():
        tensors[f"{name}.weight"] = rng.normal(size=(size, width)).astype(np.float32)
        tensors[f"{name}.bias"] = rng.normal(size=size).astype(np.float32)
    tensors["temp"] = np.float32(0.06)
    towers = ("visual_encoder", "text_encoder", "vision_proj", "text_proj")
    copies = {
        name.replace(".", "_m.", 1): tensor + 1
        for name, tensor in tensors.items()
        if name.split(".")[0] in towers
    }
    queues = {"image_queue": np.zeros((10, 8)), "text_queue": np.zeros((10, 8))}
    return tensors, copies | queues | {"queue_ptr": np.zeros(1, np.int64)}


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    vision, text = build(
        *MODELS[request.param], vocab_size=VOCABULARY, max_position_embeddings=POSITIONS
    )
    vision, text = randomise(vision, 1), randomise(text, 2)
    tensors, others = file_of(vision, text, tmp_path_factory.mktemp("albef"))
    embedding = "text_encoder.bert.embeddings.word_embeddings.weight"
    tied = {
        "text_encoder.cls.predictions.decoder.weight": tensors[embedding],
        "text_encoder.bert.embeddings.position_ids": np.arange(POSITIONS)[None],
    }
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    config = albef_table.config_from(shapes, head_width=MODELS[request.param][0])
    rng = np.random.default_rng(4)
    size = config.vit.image_size
    image = rng.integers(0, 256, (B, size, size, 3), dtype=np.uint8)
    tokens = rng.integers(1, VOCABULARY, (B, R, T), dtype=np.int32)
    mask = np.arange(T) < 1 + np.arange(B * R).reshape(B, R, 1)
    shapes = jax.eval_shape(albef.Albef(config).init, jax.random.key(0), image, tokens)["params"]
    params = table.to_ours(tensors | others | tied, albef_table.rows(config), shapes)
    return vision, text, tensors, config, params, (image, tokens, mask)


def pixels(image, config):
    values = (image / 255 - np.array(config.vit.mean)) / np.array(config.vit.std)
    return torch.from_numpy(values.astype(np.float32)).permute(0, 3, 1, 2)


def reference(pair):
    """What the towers of transformers say, one pass for every text with its image.

    Returns:
      features of the image, the output of BertModel, and logits of words.
    """
    vision, text, _, config, _, (image, tokens, mask) = pair
    features = vision(pixels(image, config)).last_hidden_state
    out = text.bert(
        torch.from_numpy(tokens.reshape(B * R, T)).long(),
        attention_mask=torch.from_numpy(mask.reshape(B * R, T).copy()).long(),
        encoder_hidden_states=features.repeat_interleave(R, 0),
        output_hidden_states=True,
        output_attentions=True,
    )
    return features, out, text.cls(out.last_hidden_state)


def linear(tensors, name, x):
    return x @ torch.from_numpy(tensors[f"{name}.weight"]).T + torch.from_numpy(
        tensors[f"{name}.bias"]
    )


def apply(pair, method=None, dtype=jnp.float32):
    *_, config, params, inputs = pair
    network = albef.Albef(config, dtype)
    return jax.jit(lambda p, *x: network.apply({"params": p}, *x, method=method))(params, *inputs)


def all_hidden(network, image, tokens, mask):
    """Hidden states of every layer of both halves: [layers, B, R, T, D]."""
    features, _ = network.encode_image(image)
    text, lower = network.text(tokens, mask)
    _, upper = network.fuse(text, mask, features)
    return features, jnp.concatenate([lower["hidden"], upper["hidden"]])


def test_hidden_states_of_every_layer(pair):
    with torch.no_grad():
        expected, out, _ = reference(pair)
    features, hidden = apply(pair, all_hidden)
    close(features, expected)
    assert len(hidden) == len(out.hidden_states) - 1
    for got, state in zip(hidden, out.hidden_states[1:], strict=True):
        close(got.reshape(state.shape), state)


def test_heads_projections_and_probabilities(pair):
    _, _, tensors, config, _, _ = pair
    normal = torch.nn.functional.normalize
    with torch.no_grad():
        features, out, logits = reference(pair)
        matches = linear(tensors, "itm_head", out.hidden_states[-1][:, 0])
        image = normal(linear(tensors, "vision_proj", features[:, 0]), dim=-1)
        first = out.hidden_states[config.text.depth][:, 0]
        text = normal(linear(tensors, "text_proj", first), dim=-1)
    got, intermediates = apply(pair)
    close(got.reshape(matches.shape), matches)
    close(intermediates["image"], image)
    close(intermediates["text"].reshape(text.shape), text)
    close(intermediates["logits"].reshape(logits.shape), logits)
    assert len(intermediates["probabilities"]) == len(out.cross_attentions) == config.fusion.depth
    for seen, attention in zip(intermediates["probabilities"], out.cross_attentions, strict=True):
        close(np.moveaxis(seen, 2, 1).reshape(attention.shape), attention)


def test_gradients_of_a_match_with_respect_to_probabilities(pair):
    """What GradCAM needs: d matching logit / d probabilities, in every fusion layer."""
    _, _, tensors, config, params, (image, tokens, mask) = pair
    _, out, _ = reference(pair)
    for attention in out.cross_attentions:
        attention.retain_grad()
    linear(tensors, "itm_head", out.hidden_states[-1][:, 0])[:, 1].sum().backward()
    network = albef.Albef(config)

    def match(perturbation):
        matches, _ = network.apply({"params": params}, image, tokens, mask, perturbation)
        return matches[..., 1].sum()

    shape = (config.fusion.depth, B, config.fusion.heads, R, T, 1 + (config.vit.grid) ** 2)
    gradients = jax.jit(jax.grad(match))(jnp.zeros(shape))
    for got, attention in zip(gradients, out.cross_attentions, strict=True):
        close(np.moveaxis(got, 2, 1).reshape(attention.shape), attention.grad)


def test_bfloat16(pair):
    with torch.no_grad():
        _, _, logits = reference(pair)
    _, intermediates = apply(pair, dtype=jnp.bfloat16)
    assert divergence(intermediates["logits"].reshape(logits.shape), logits) <= 0.01


def test_there_and_back_is_bit_exact(pair):
    _, _, tensors, config, params, _ = pair
    back = table.to_theirs(params, albef_table.rows(config))
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        assert back[name].shape == tensor.shape and back[name].tobytes() == tensor.tobytes(), name


def test_the_published_sizes():
    """A ViT-B/16 of 85.8M and a BERT-base with cross-attention of 123.7M parameters (the paper)."""
    config = albef.PRESETS["albef-base"]
    with torch.device("meta"):
        vision, text = build(64, 12, 12, 256, 16, 6, 6)
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), np.uint8)
    tokens = jax.ShapeDtypeStruct((1, 1, 2), np.int32)
    shapes = jax.eval_shape(albef.Albef(config).init, jax.random.key(0), image, tokens)["params"]
    sizes = {name: parameters(tree) for name, tree in shapes.items()}
    count = lambda model: sum(p.numel() for p in model.parameters())  # noqa: E731
    assert sizes["vit"] == count(vision) and round(count(vision) / 1e6, 1) == 85.8
    assert sizes["text"] + sizes["fusion"] == count(text) and round(count(text) / 1e6, 1) == 123.7
    projections = sizes["vision_projection"] + sizes["text_projection"]
    assert projections == 2 * (768 * 256 + 256)
    assert sizes["match_head"] + sizes["temperature"] == 768 * 2 + 2 + 1
