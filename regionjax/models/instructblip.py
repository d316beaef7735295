"""BLIP-2 (Li et al. 2023) and InstructBLIP (Dai et al. 2023) with Flan-T5: ViT, Q-Former, T5.

The Q-Former's queries look at the image and become a soft prompt, which T5 reads before the tokens
of the prompt. InstructBLIP's queries read an instruction while they look; when it is the points of
a scribble, this is RegionVLM's architecture (Lee et al. 2024).

One image serves R regions: the ViT sees it once, each cross-attention of the Q-Former makes its
keys and values once, and the R·Q queries of all regions attend to them side by side.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from regionjax import sharding
from regionjax.models import bert, layers, t5, vit


@dataclasses.dataclass(frozen=True)
class InstructBlipConfig:
    """Three models; BLIP-2 is the one whose Q-Former has no vocabulary."""

    vit: vit.ViTConfig
    qformer: bert.BertConfig
    t5: t5.T5Config

    def __post_init__(self):
        if not (self.qformer.queries and self.qformer.cross_every):
            raise ValueError("qformer: queries and cross_every must be above 0")
        if self.qformer.encoder_width != self.vit.width:
            raise ValueError(
                f"qformer.encoder_width {self.qformer.encoder_width} is not vit.width "
                f"{self.vit.width}"
            )


class InstructBlip(nn.Module):
    """Image, instruction and prompt → text.

    Of all texts, i32 with 0 for padding on either side:
      instruction [B, R, Ti]: what the Q-Former reads; None: nothing, as always in BLIP-2. Then all
        regions of an image have the same soft prompt.
      prompt [B, R, Tp]: what T5 reads after the Q soft prompts.
    """

    config: InstructBlipConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        c = self.config
        self.vit = vit.ViT(c.vit, self.dtype)
        self.qformer = bert.Bert(c.qformer, self.dtype)
        self.projection = layers.dense(c.t5.width, self.dtype)()
        self.t5 = t5.T5(c.t5, self.dtype)

    def encode(self, image):
        """Features [B, P, E] of an image."""
        return self.vit(image)[0]

    def soft_prompts(self, features, instruction, keep_hidden=False):
        """Of an encoded image: [B, P, E] → [B, R, Q, D], R = 1 without instruction.

        Returns:
          the soft prompts, and the intermediates of the Q-Former, {} unless `keep_hidden`.
        """
        mask = None if instruction is None else instruction > 0
        queries, intermediates = self.config.qformer.queries, {}
        if keep_hidden:
            hidden, intermediates = self.qformer(instruction, mask, features)
            hidden = hidden[:, :, :queries]
        else:
            hidden = self.qformer.gathered(instruction, mask, features)
        return self.projection(hidden), intermediates

    def see(self, image, instruction):
        """Soft prompts [B, R, Q, D] of an image."""
        return self.soft_prompts(self.encode(image), instruction)[0]

    def read(self, soft, prompt):
        """What T5's encoder sees: [B, R, Q + Tp, D], and its mask bool [B, R, Q + Tp]."""
        soft = jnp.broadcast_to(soft, (*prompt.shape[:2], *soft.shape[2:]))
        mask = jnp.pad(prompt > 0, [(0, 0), (0, 0), (soft.shape[2], 0)], constant_values=True)
        return jnp.concatenate([soft, self.t5.embed(prompt)], axis=2), mask

    def __call__(self, image, instruction, prompt, tokens, keep_hidden=False):
        """Teacher forcing.

        Args:
          image: uint8 [B, H, W, 3]; instruction, prompt: see the class.
          tokens: decoder inputs i32 [B, R·W, T] (t5.shift_right), W in a row of the same region.
          keep_hidden: whether there are intermediates of the Q-Former, and those of the ViT hold
            its hidden states.

        Returns:
          hidden [B, R·W, T, D], of which `logits` makes logits, and a dictionary: `features`
          [B, P, E] of the image, `soft_prompts` [B, R, Q, D], and the intermediates of `vit`,
          `qformer` and `t5` (whose sequences lie in one axis B·R).
        """
        features, seen = self.vit(image, keep_hidden)
        soft, asked = self.soft_prompts(features, instruction, keep_hidden)
        inputs, mask = (t.reshape(-1, *t.shape[2:]) for t in self.read(soft, prompt))
        hidden, said = self.t5(inputs, tokens.reshape(-1, tokens.shape[-1]), mask)
        intermediates = {"features": features, "soft_prompts": soft}
        intermediates |= {"vit": seen, "qformer": asked, "t5": said}
        return hidden.reshape(*tokens.shape, -1), intermediates

    def prefill(self, image, instruction, prompt, room):
        """Logits f32 [B, R, V] of the first token, and a t5_cache.Cache for `room` tokens more."""
        return self.t5.prefill(*self.read(self.see(image, instruction), prompt), room)

    def converse(self, features, instruction, prompt, turns, room):
        """Like `prefill`, of an encoded image [B, P, E], with its R regions in one input.

        The input is soft prompt and prompt of one turn, then of the next, as RegionVLM talks.

        Args:
          turns: bool [B, R], which are taken.

        Returns:
          logits f32 [B, 1, V] and the cache.
        """
        inputs, mask = self.read(self.soft_prompts(features, instruction)[0], prompt)
        mask &= turns[..., None]
        inputs, mask = (x.reshape(x.shape[0], 1, -1, *x.shape[3:]) for x in (inputs, mask))
        # T5 counts places, so padding goes to the end.
        order = jnp.argsort(~mask, axis=-1, stable=True)
        inputs = jnp.take_along_axis(inputs, order[..., None], axis=2)
        return self.t5.prefill(inputs, jnp.take_along_axis(mask, order, axis=2), room)

    def advance(self, cache, tokens):
        """One more token: i32 [B, R·W] → logits f32 [B, R·W, V] and the grown cache."""
        return self.t5.advance(cache, tokens)

    def logits(self, hidden):
        """f32 [..., V]"""
        return self.t5.logits(hidden)

    def unembedding(self):
        """[V, D]"""
        return self.t5.unembedding()


def sharding_rules(config):
    """Rows for the parameters that this configuration has."""
    return (
        *sharding.prefixed(vit.SHARDING_RULES, "vit/"),
        *sharding.prefixed(bert.sharding_rules(config.qformer), "qformer/"),
        (r"projection/kernel", P("fsdp", None)),
        (r"projection/bias", P()),
        *sharding.prefixed(t5.SHARDING_RULES, "t5/"),
    )


def _preset(qformer, size):
    return InstructBlipConfig(
        vit.PRESETS["eva-clip-g-patch14-224"],
        bert.PRESETS[qformer],
        # These checkpoints run Flan-T5 with the exact GELU.
        dataclasses.replace(t5.PRESETS[f"flan-t5-{size}"], activation="gelu"),
    )


# By the names of the public checkpoints.
PRESETS = {
    "blip2-flan-t5-xl": _preset("blip2-qformer", "xl"),
    "blip2-flan-t5-xxl": _preset("blip2-qformer", "xxl"),
    "instructblip-flan-t5-xl": _preset("instructblip-qformer", "xl"),
    "instructblip-flan-t5-xxl": _preset("instructblip-qformer", "xxl"),
}
