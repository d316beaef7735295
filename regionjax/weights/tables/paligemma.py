"""PaliGemma 1 and 2 of transformers: PaliGemmaForConditionalGeneration."""

from regionjax.models.paligemma import PaliGemmaConfig
from regionjax.weights.table import Row, WeightsError, prefixed
from regionjax.weights.tables import decoder, vit

TOWER = "siglip_vision_model"
LANGUAGES = ("gemma", "gemma2")
# Stands for a patch in their texts; the table of embeddings has no use for it.
IMAGE_TOKEN = 257_152


def rows(config):
    """Table of a PaliGemmaConfig."""
    tower = vit.rows(config.vit, TOWER)
    names = {
        row.theirs.replace("{i}", str(i)): None for row in tower for i in range(config.vit.depth)
    }
    public, short = "vision_tower.vision_model.", "vision_tower."
    return (
        *prefixed(tower, public, "vit/"),
        # Transformers 5 writes short names, unless it has read the public ones in a file.
        *(Row(short + name, None, tied=public + name) for name in names),
        Row("multi_modal_projector.linear.weight", "projector/kernel", "linear"),
        Row("multi_modal_projector.linear.bias", "projector/bias"),
        *prefixed(decoder.rows(config.decoder), "language_model.", "decoder/"),
    )


def config_from(values, processor=None):
    """PaliGemmaConfig of a config.json.

    Args:
      processor: of a preprocessor_config.json, for the mean and deviation of pixels.

    Raises:
      WeightsError: another architecture, or a setting that PaliGemma here does not have.
    """
    if values.get("model_type") != "paligemma":
        raise WeightsError(
            f"config.json: model_type {values.get('model_type')!r} is not 'paligemma'"
        )
    text = {"model_type": "gemma", **values["text_config"]}
    if text["model_type"] not in LANGUAGES:
        raise WeightsError(
            f"config.json: text_config.model_type {text['model_type']!r}; "
            f"known: {', '.join(LANGUAGES)}"
        )
    text["use_bidirectional_attention"] = None  # of the prefix, always
    tower = {"model_type": TOWER, "vision_use_head": False, **values["vision_config"]}
    return PaliGemmaConfig(vit.config_from(tower, processor), decoder.config_from(text))


def config_to(config):
    """The config.json of a PaliGemmaConfig; the inverse of `config_from` but remat, unroll."""
    text, tower = decoder.config_to(config.decoder), vit.config_to(config.vit, TOWER)
    if text["model_type"] not in LANGUAGES:
        raise WeightsError(f"no public PaliGemma has the language model of a {text['model_type']}")
    del text["architectures"], tower["architectures"]
    return {
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "model_type": "paligemma",
        "image_token_index": IMAGE_TOKEN,
        "hidden_size": config.decoder.width,
        "projection_dim": config.decoder.width,
        "tie_word_embeddings": config.decoder.tied,
        "text_config": text,
        "vision_config": tower | {"projection_dim": config.decoder.width},
    }
