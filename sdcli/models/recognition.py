"""Recognition of what a file is from the names and shapes of its tensors: a model of a family, or something else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sdcli.errors import ModelError
from sdcli.models import families, renaming
from sdcli.models.checkpoint_file import Shapes
from sdcli.models.renaming import TEXT, UNET, VAE
from sdcli.settings import flag

FIRST_LAYER = f"{UNET}input_blocks.0.0.weight"


class Kind(NamedTuple):
    """A kind of file that is not a model of a family.

    Attributes:
        name: with its article.
        pattern: found in the original name of a tensor of such a file.
        why: what it lacks, or what it needs beside a prompt.
        setting: the setting that takes it.
    """

    name: str
    pattern: str
    why: str = ""
    setting: str = ""


_TRANSFORMER = "It has a transformer in place of the UNet."
_INPUTS = "It needs an image beside the prompt."
_NOT_ALONE = "It changes what another model generates."

# Most specific first: the first match wins.
KINDS = (
    Kind(
        "a LoRA: a change to a model, not a model",
        r"^lora_(?:unet|te|transformer|prior)|^lycoris_|\.lora_|\.lora\.(?:up|down)\.|_lora\.(?:up|down)\.|\.hada_w1|"
        r"\.lokr_w|^(?:unet|text_encoder):\d+:",
        _NOT_ALONE,
        "lora",
    ),
    Kind(
        "a textual inversion: the embedding of a new token",
        r"^(?:string_to_(?:param|token)|emb_params$|clip_[lgh]$|\*$|<[^<>]*>$)",
        _NOT_ALONE,
        "embedding",
    ),
    Kind(
        "a ControlNet",
        r"^control_model\.|^controlnet_|controlnet_cond_embedding\.|^(?:zero_convs|input_hint_block|control_add)",
        _INPUTS,
    ),
    Kind("a T2I adapter", r"^(?:adapter\.)?body\.\d+\.(?:block[12]|in_conv|resnets)", _INPUTS),
    Kind("an IP adapter", r"^(?:ip_adapter|image_proj)\.", _INPUTS),
    Kind(
        "a Stable Diffusion XL refiner", r"^conditioner\.embedders\.0\.model\.", "It changes images of another model."
    ),
    Kind("a Stable Cascade model", r"clip_txt_(?:pooled_)?mapper\.|\.channelwise\."),
    Kind("a Stable Diffusion 3 model", r"joint_blocks\.", _TRANSFORMER),
    Kind("a Flux 2 model", r"(?:single|double)_stream_modulation", _TRANSFORMER),
    Kind("a Chroma model", r"distilled_guidance_layer\.", _TRANSFORMER),
    Kind("a HunyuanVideo model", r"txt_in\.individual_token_refiner", _TRANSFORMER),
    Kind("a Flux model", r"double_blocks\.|single_transformer_blocks\.", _TRANSFORMER),
    Kind("an AuraFlow model", r"double_layers\.|cond_seq_linear\.", _TRANSFORMER),
    Kind("a HunyuanDiT model", r"mlp_t5\.|text_embedding_padding", _TRANSFORMER),
    Kind("a HiDream model", r"double_stream_blocks\.", _TRANSFORMER),
    Kind("an LTX-Video model", r"patchify_proj\.", _TRANSFORMER),
    Kind("a Lumina 2 or Z-Image model", r"cap_embedder\.|context_refiner\.", _TRANSFORMER),
    Kind("a Qwen-Image model", r"transformer_blocks\.\d+\.img_mod\.", _TRANSFORMER),
    Kind("a Sana model", r"mlp\.inverted_conv\.|ff\.conv_inverted\.", _TRANSFORMER),
    Kind("a PixArt model", r"adaln_single\.|t_block\.1\.|csize_embedder", _TRANSFORMER),
    Kind("a Cosmos model", r"^net\.(?:x_embedder|blocks)\.", _TRANSFORMER),
    Kind("a Wan model", r"(?:^|\.)head\.modulation$|vace_blocks\.", _TRANSFORMER),
    Kind("a Mochi model", r"attn\.qkv_x\.", _TRANSFORMER),
    Kind(
        "a video model", r"motion_modules\.|temporal_transformer|time_stack\.|time_mixer", "It generates many images."
    ),
    Kind("a Kolors model", r"encoder_hid_proj\.", "Its text encoder is ChatGLM."),
    Kind(
        "an AltDiffusion model", rf"^{TEXT}(?:transformer\.)?(?:roberta|transformation)\.", "Its text encoder is XLM-R."
    ),
    Kind("a Playground 2.5 model", r"^edm_(?:mean|std)$", "sdcli has no samplers for its noise schedule."),
    Kind("a model of image variations", r"^embedder\.model\.visual\.|^noise_augmentor\.", _INPUTS),
    Kind("a depth-to-image model", r"^depth_model\.", _INPUTS),
    Kind(
        "an upscaler",
        rf"^low_scale_model\.|^{re.escape(UNET)}label_emb\.weight$|\.(?:rdb|RDB)\d\.|residual_group\.|^(?:upconv|conv_up)\d|"
        r"^model\.\d+\.sub\.|^params(?:_ema)?\.",
        _INPUTS,
    ),
    Kind("a safety checker", r"^(?:concept_embeds|special_care_embeds)$", "It judges images."),
)
# By the channels that the UNet takes. In diffusers' layout, too.
CHANNELS: Mapping[int, Kind] = {
    9: Kind("an inpainting model", "", "It needs an image and a mask beside the prompt: its UNet takes 9 channels."),
    8: Kind("a model that changes images, as InstructPix2Pix", "", f"{_INPUTS[:-1]}: its UNet takes 8 channels."),
    7: Kind("an upscaler", "", f"{_INPUTS[:-1]}: its UNet takes 7 channels."),
    5: Kind("a depth-to-image model", "", f"{_INPUTS[:-1]}: its UNet takes 5 channels."),
}
# Single parts of a model.
PARTS = (
    Kind("a UNet in diffusers' layout", r"^(?:down_blocks\.|time_embedding\.)"),
    Kind("a VAE in diffusers' layout", r"^decoder\.(?:up_blocks|layers)\.", setting="vae"),
    Kind("a VAE", r"^(?:decoder\.up|encoder\.down)\.", setting="vae"),
    Kind("a T5 text encoder", r"^(?:encoder|decoder)\.block\.\d+\.layer\.|^shared\.weight$"),
    Kind("a text encoder", r"^(?:text_model\.|encoder\.layers\.|transformer\.resblocks\.)"),
    Kind("an image encoder", r"^(?:vision_model|visual)\."),
    Kind("a UNet", r"^(?:input_blocks|output_blocks)\."),
)
WHOLE = {"UNet": UNET, "VAE": VAE, "text encoder": TEXT}
LABELS = {"VAE": "a VAE", "UNet": "a UNet", "text encoder": "a text encoder"}


def kind(shapes: Shapes) -> Kind | None:
    """What a file is that is not a whole model of a family; None if it is one, or is not known.

    Args:
        shapes: of its tensors, by their original names.
    """
    names = "\n".join(shapes)
    for each in KINDS:
        if re.search(each.pattern, names, re.MULTILINE):
            return each
    first = next((shapes[name] for name in (FIRST_LAYER, "conv_in.weight") if name in shapes), ())
    return CHANNELS.get(first[1]) if len(first) == 4 else None


def check(path: Path, shapes: Shapes) -> None:
    """Check that a file contains a UNet, a VAE and a text encoder, and nothing that needs more than a prompt.

    Args:
        path: the file, for errors.
        shapes: of its tensors, by their original names.

    Raises:
        ModelError: it does not; the error says what the file seems to be, and which flag takes it.
    """
    if found := kind(shapes):
        fix = f"Pass it with {flag(found.setting)}, beside a model." if found.setting else WHOLE_MODEL
        raise ModelError(f"{path} seems to be {found.name}", why=f"{found.why} {supported()}".strip(), fix=fix)
    names = "\n".join(shapes)
    missing = [part for part, prefix in WHOLE.items() if not any(name.startswith(prefix) for name in shapes)]
    if not missing:
        return
    parts = [each for each in PARTS if re.search(each.pattern, names, re.MULTILINE)][:1]
    alone = [part.name for part in parts] or [LABELS[part] for part in WHOLE if part not in missing]
    if not alone:
        raise ModelError(f"{path} contains no model that sdcli supports", why=supported(), fix=WHOLE_MODEL)
    setting = "vae" if alone == ["a VAE"] else next((part.setting for part in parts), "")
    raise ModelError(
        f"{path} seems to be part of a model: {' and '.join(alone)} alone",
        why="A checkpoint contains the UNet, the VAE and the text encoder together.",
        fix=f"Pass it with {flag(setting)}, beside a model." if setting else "Pass the file of the whole model.",
    )


def described(shapes: Shapes, given: str) -> tuple[str, str]:
    """What a file seems to be that an adapter was expected in, and what to do with it; empty if it is not known.

    Args:
        shapes: of its tensors, by their names in the file.
        given: the setting that names it.
    """
    names = renaming.original_names(shapes)
    if found := kind(names):
        if found.setting == given:
            return "", ""
        return found.name, f"Pass it with {flag(found.setting)}." if found.setting else ""
    if FIRST_LAYER in names and (own := family(names)):
        return f"a whole {families.get(own).checkpoint_models} model", "Pass it with --ckpt."
    joined = "\n".join(names)
    part = next((part for part in PARTS if re.search(part.pattern, joined, re.MULTILINE)), None)
    if part is None:
        part = next((Kind(LABELS[name], "") for name, prefix in WHOLE.items() if f"\n{prefix}" in f"\n{joined}"), None)
    if part is None or part.setting == given:
        return "", ""
    return part.name, f"Pass it with {flag(part.setting)}." if part.setting else ""


WHOLE_MODEL = "Pass a checkpoint of one of these."


def family(shapes: Shapes) -> str | None:
    """The name of the first family whose text encoder a checkpoint contains; None if it is unknown.

    Args:
        shapes: of its tensors, by their original names.
    """
    return families.first(
        lambda family: bool(family.tensor_prefixes) and any(name.startswith(family.tensor_prefixes) for name in shapes)
    )


def supported() -> str:
    """The models that sdcli reads in the original layout."""
    return f"Supported original checkpoints: {', '.join(families.each('checkpoint_models'))}."
