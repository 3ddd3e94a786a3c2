"""Models from checkpoints of the original layout."""

from __future__ import annotations

import hashlib
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch.nn import functional

from sdcli.errors import DeviceError, ModelError, ModelNotFound
from sdcli.models import checkpoint_file, conversion, families, find, find_for, recognition, renaming
from sdcli.models.model import Model, ModelRequest
from sdcli.models.original_yaml import OriginalConfig
from sdcli.models.sources.checkpoint import OriginalModel
from sdcli.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import SmallCheckpoint

GOLDEN = Path(__file__).parents[2] / "golden"
CPU = torch.device("cpu")
Tensors = dict[str, torch.Tensor]


def load(ckpt: Path, config: Path) -> Model:
    return find(ModelRequest(ckpt=str(ckpt), config=str(config))).load(CPU, lambda _: None)


def outputs(model: Model) -> list[torch.Tensor]:
    """The outputs of all parts for one input."""
    ids = torch.tensor(model.tokenizer(["a red apple"], padding="max_length", truncation=True).input_ids)
    with torch.inference_mode():
        embeddings = model.text_encoder(ids)[0]
        latents = torch.linspace(-2, 2, 4 * 64).reshape(1, 4, 8, 8)
        noise = model.unet(latents, torch.tensor([500]), embeddings).sample
        return [embeddings, noise, model.vae.decode(latents / model.vae.config.scaling_factor).sample]


@pytest.fixture(scope="module")
def v1(small_checkpoint: SmallCheckpoint) -> Model:
    return load(small_checkpoint.ckpt, small_checkpoint.config)


@pytest.fixture(scope="module")
def tensors(small_checkpoint: SmallCheckpoint) -> Tensors:
    return checkpoint_file.read_tensors(small_checkpoint.ckpt)


def config_with(old: str = "", new: str = "") -> OriginalConfig:
    """The small model's configuration with `old` replaced by `new`."""
    text = (GOLDEN / "v1-small.yaml").read_text()
    assert old in text
    return OriginalConfig.model_validate(yaml.safe_load(text.replace(old, new)))


def part(which: str, tensors: Tensors, config: OriginalConfig | None = None) -> Any:
    """One part, converted from tensors."""
    files = {"source": "m.ckpt", "config_name": "m.yaml"}
    if which == "text encoder":
        family, config = families.get("sd1"), config or config_with()
        described = family.text_config(config, GOLDEN / "clip", {})
        return family.convert_text_encoder(renaming.original_names(tensors), config, described, **files)
    return {"UNet": conversion.unet, "VAE": conversion.vae}[which](tensors, config or config_with(), **files)


def same(one: Any, other: Any) -> bool:
    """Whether two parts have the same weights."""
    actual, expected = one.state_dict(), other.state_dict()
    return actual.keys() == expected.keys() and all(torch.equal(actual[name], expected[name]) for name in actual)


def test_finding_imports_nothing_heavy(small_checkpoint: SmallCheckpoint) -> None:
    code = (
        f"import sys; from sdcli.models import find; from sdcli.models.model import ModelRequest; "
        f"find(ModelRequest(ckpt={str(small_checkpoint.ckpt)!r}, "
        f"config={str(small_checkpoint.config)!r})); "
        "assert not {'torch', 'diffusers', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_tensor_of_the_file_is_a_weight_of_the_model(small_checkpoint: SmallCheckpoint, v1: Model) -> None:
    """And every weight of the model comes from the file."""
    tensors = checkpoint_file.read_tensors(small_checkpoint.ckpt).values()
    expected = sorted(tensor.double().sum().item() for tensor in tensors)
    parts = (v1.unet, v1.vae, v1.text_encoder)
    actual = sorted(weight.double().sum().item() for part in parts for weight in part.state_dict().values())
    position_ids = 77 * 76 / 2
    if position_ids in expected:
        expected.remove(position_ids)
    assert actual == pytest.approx(expected)
    assert not any(tensor.is_meta for part in parts for tensor in [*part.parameters(), *part.buffers()])


def test_the_model_is_ready_for_inference(v1: Model) -> None:
    assert v1.spec.name == "v1-small.ckpt"
    assert v1.vae.config.scaling_factor == 0.18215
    assert v1.tokenizer.model_max_length == 77
    for part in (v1.unet, v1.vae, v1.text_encoder):
        assert not part.training and not any(weight.requires_grad for weight in part.parameters())
        assert {weight.dtype for weight in part.parameters()} == {torch.float32}
    embeddings, noise, image = outputs(v1)
    assert embeddings.shape == (1, 77, 64) and noise.shape == (1, 4, 8, 8) and image.shape == (1, 3, 64, 64)


def test_safetensors_give_the_same_images(
    small_checkpoint: SmallCheckpoint, tensors: Tensors, v1: Model, tmp_path: Path
) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "m.safetensors")
    model = load(tmp_path / "m.safetensors", small_checkpoint.config)
    for part in ("text_encoder", "unet", "vae"):
        weights = getattr(v1, part).state_dict()
        assert all(torch.equal(weight, weights[name]) for name, weight in getattr(model, part).state_dict().items())
    # Not bit-identical: on some processors the alignment of the weights in memory decides which kernels are used.
    torch.testing.assert_close(outputs(model), outputs(v1), rtol=1e-3, atol=1e-4)


def test_early_names_of_the_text_encoder_are_supported(tensors: Tensors, v1: Model) -> None:
    early = {name.replace("text_model.", ""): tensor for name, tensor in tensors.items()}
    assert same(part("text encoder", early), v1.text_encoder)
    names = renaming.original_names(dict.fromkeys(early, ()))
    assert recognition.family(names) == recognition.family(dict.fromkeys(tensors, ())) == "sd1"


def test_half_precision_becomes_full(tensors: Tensors, v1: Model) -> None:
    unet = part("UNet", {name: tensor.half() for name, tensor in tensors.items()})
    for actual, expected in zip(unet.parameters(), v1.unet.parameters(), strict=True):
        assert actual.dtype == torch.float32 and torch.equal(actual, expected.half().float())


def averaged(old: Tensors) -> Tensors:
    """The tensors with averaged weights in addition, under their names in checkpoints."""
    unet = {name: tensor for name, tensor in old.items() if name.startswith("model.")}
    ema = {"model_ema." + name[6:].replace(".", ""): tensor * 0.5 for name, tensor in unet.items()}
    return old | ema | {"model_ema.decay": torch.tensor(0.9999), "betas": torch.ones(1000)}


def test_averaged_weights_are_ignored_by_default(tensors: Tensors, v1: Model) -> None:
    assert same(part("UNet", averaged(tensors)), v1.unet)


def test_averaged_weights_are_used_if_the_configuration_enables_them(tensors: Tensors, v1: Model) -> None:
    config = config_with("use_ema: False", "use_ema: True")
    for actual, expected in zip(
        part("UNet", averaged(tensors), config).parameters(), v1.unet.parameters(), strict=True
    ):
        assert torch.equal(actual, expected * 0.5)
    assert same(part("UNet", tensors, config), v1.unet)  # without averaged weights


def test_tensors_of_training_are_ignored(tensors: Tensors, v1: Model) -> None:
    left = {
        "first_stage_model.loss.discriminator.main.0.weight": torch.ones(2),
        "first_stage_model.model_ema.decay": torch.ones(1),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "alphas_cumprod": torch.ones(1000),
    }
    assert same(part("VAE", tensors | left), v1.vae)
    assert same(part("text encoder", tensors | left), v1.text_encoder)


def x_transformer(tensors: Tensors, ids: torch.Tensor, layers: int) -> torch.Tensor:
    """The original text encoder of LAION-400M: normalization first and at the end, 8 heads of 64, no mask."""
    root = "cond_stage_model.transformer."

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], tensors[f"{root}{name}.weight"], tensors[f"{root}{name}.bias"])

    def heads(name: str, x: torch.Tensor) -> torch.Tensor:
        return (x @ tensors[f"{root}{name}.weight"].T).unflatten(-1, (8, 64)).transpose(1, 2)

    x = tensors[f"{root}token_emb.weight"][ids] + tensors[f"{root}pos_emb.emb.weight"]
    for layer in range(layers):
        attend, feed = f"attn_layers.layers.{2 * layer}", f"attn_layers.layers.{2 * layer + 1}"
        y = norm(f"{attend}.0", x)
        q, k, v = (heads(f"{attend}.1.to_{part}", y) for part in "qkv")
        y = ((q @ k.transpose(-1, -2) / math.sqrt(64)).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + y @ tensors[f"{root}{attend}.1.to_out.weight"].T + tensors[f"{root}{attend}.1.to_out.bias"]
        y = norm(f"{feed}.0", x) @ tensors[f"{root}{feed}.1.net.0.0.weight"].T
        y = functional.gelu(y + tensors[f"{root}{feed}.1.net.0.0.bias"])
        x = x + y @ tensors[f"{root}{feed}.1.net.2.weight"].T + tensors[f"{root}{feed}.1.net.2.bias"]
    return norm("norm", x)


def test_the_laion_text_encoder_matches_the_original(small_laion_checkpoint: SmallCheckpoint) -> None:
    model = load(small_laion_checkpoint.ckpt, small_laion_checkpoint.config)
    ids = torch.tensor(model.tokenizer(["a red apple"], padding="max_length", truncation=True).input_ids)
    expected = x_transformer(checkpoint_file.read_tensors(small_laion_checkpoint.ckpt), ids, layers=2)
    with torch.inference_mode():
        actual = model.text_encoder(ids)[0]
    assert ids.shape == (1, 77) and model.spec.family == "ldm"
    assert (actual - expected).abs().max() < 1e-5


def test_the_hash_is_that_of_the_file(small_checkpoint: SmallCheckpoint) -> None:
    source = find(ModelRequest(ckpt=str(small_checkpoint.ckpt), config=str(small_checkpoint.config)))
    assert source.hash() == hashlib.sha256(small_checkpoint.ckpt.read_bytes()).hexdigest()
    assert source.safety_checker(download=True) is None


def test_progress_names_the_parts(small_checkpoint: SmallCheckpoint) -> None:
    parts: list[str] = []
    find(ModelRequest(ckpt=str(small_checkpoint.ckpt), config=str(small_checkpoint.config))).load(CPU, parts.append)
    assert parts == ["checkpoint", "text encoder", "UNet", "VAE"]


# Names and beginnings of names that other programs write, all of the same weights.


def attention_of_diffusers(old: Tensors) -> Tensors:
    renamed = {}
    for name, tensor in old.items():
        new, weight = name, tensor
        if name.startswith("first_stage_model.") and ".mid.attn_1." in name:
            for original, other in (
                (".q.", ".to_q."),
                (".k.", ".to_k."),
                (".v.", ".to_v."),
                (".proj_out.", ".to_out.0."),
            ):
                new = new.replace(original, other)
            weight = tensor[:, :, 0, 0] if tensor.ndim == 4 else tensor
        renamed[new] = weight
    return renamed


def beginning(original: str, other: str) -> Callable[[Tensors], Tensors]:
    return lambda old: {
        other + name.removeprefix(original) if name.startswith(original) else name: t for name, t in old.items()
    }


def averages_alone(old: Tensors) -> Tensors:
    ema = {
        "model_ema." + name[6:].replace(".", "") if name.startswith("model.") else name: t for name, t in old.items()
    }
    return ema | {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(3)}


CLIP = "cond_stage_model.transformer."
VARIANTS: dict[str, Callable[[Tensors], Tensors]] = {
    "attention of the VAE as in diffusers": attention_of_diffusers,
    "a whole CLIP": lambda old: (
        old
        | {f"{CLIP}text_projection.weight": torch.zeros(64, 64), f"{CLIP}logit_scale": torch.tensor(4.6)}
        | {f"{CLIP}text_model.embeddings.position_ids": torch.arange(77.0)[None].half()}
        | {f"{CLIP}vision_model.post_layernorm.weight": torch.ones(4)}
    ),
    "averages alone": averages_alone,
    "model. twice": beginning("", "model."),
    "in a wrapper": beginning("", "_forward_module.module."),
    "compiled": beginning("model.diffusion_model.", "model.diffusion_model._orig_mod."),
    "conditioner": beginning(CLIP, "conditioner.embedders.0.transformer."),
    "clip_l": beginning("cond_stage_model.", "cond_stage_model.clip_l."),
    "state of training": lambda old: old | {"loss.logvar": torch.ones(2), "optimizer.0.exp_avg": torch.ones(2)},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_other_names_of_the_same_weights(tensors: Tensors, v1: Model, name: str) -> None:
    found = renaming.original_names(VARIANTS[name](tensors))
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    recognition.check(Path("m.ckpt"), shapes)
    assert recognition.family(shapes) == "sd1"
    for which, expected in (("text encoder", v1.text_encoder), ("UNet", v1.unet), ("VAE", v1.vae)):
        assert same(part(which, found), expected), which


def test_an_unlimited_number_of_tensors_is_refused_before_it_is_converted(tensors: Tensors) -> None:
    many = {f"model.diffusion_model.input_blocks.{i}.0.a": torch.ones(1) for i in range(20_000)}
    with pytest.raises(ModelError, match=r"It has 20,\d+ tensors"):
        part("UNet", tensors | many)


# Weights and configurations that do not fit.


def without(end: str) -> Callable[[Tensors], Tensors]:
    return lambda old: {name: tensor for name, tensor in old.items() if end not in name}


def with_(name: str, tensor: torch.Tensor) -> Callable[[Tensors], Tensors]:
    return lambda old: old | {name: tensor}


MISFITS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "UNet, missing": (without("model.out.2.bias"), "UNet in m.ckpt does not fit m.yaml.*1 missing: conv_out.bias"),
    "UNet, more": (with_("model.diffusion_model.extra.bias", torch.ones(2)), "1 not expected: .*extra.bias"),
    "UNet, larger": (
        with_("model.diffusion_model.out.2.weight", torch.ones(4, 64, 3, 3)),
        r"1 of another shape: conv_out.weight is \(4, 64, 3, 3\), by the configuration \(4, 32, 3, 3\)",
    ),
    "UNet, whole numbers": (
        with_("model.diffusion_model.out.2.weight", torch.ones(4, 32, 3, 3, dtype=torch.int8)),
        "not in floating point: conv_out.weight is torch.int8",
    ),
    "VAE, missing": (without("encoder.mid.attn_1.q"), "VAE in .* 2 missing"),
    "VAE, more": (with_("first_stage_model.encoder.extra", torch.ones(2)), "VAE in .*encoder.extra"),
    "text encoder, missing": (without("final_layer_norm.bias"), "text encoder in .*final_layer_norm.bias"),
    "text encoder, more": (
        with_("cond_stage_model.transformer.text_model.extra", torch.ones(2)),
        "text encoder in .*1 not expected: extra",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_weights_that_do_not_fit_are_refused_with_their_names(tensors: Tensors, name: str) -> None:
    change, what = MISFITS[name]
    with pytest.raises(ModelError, match=f"(?s){what}"):
        part(name.split(",")[0], change(tensors))


@pytest.mark.parametrize(
    ("which", "old", "new"),
    [
        ("UNet", "model_channels: 32", "model_channels: 64"),
        ("UNet", "num_res_blocks: 1\n        channel_mult", "num_res_blocks: 2\n        channel_mult"),
        ("UNet", "channel_mult: [ 1, 1, 2, 2 ]", "channel_mult: [ 1, 2 ]"),
        ("UNet", "context_dim: 64", "context_dim: 128"),
        ("VAE", "ch: 32", "ch: 64"),
        ("VAE", "ch_mult: [1, 1, 2, 2]", "ch_mult: [1, 2]"),
    ],
)
def test_a_configuration_of_other_sizes_is_refused(tensors: Tensors, which: str, old: str, new: str) -> None:
    with pytest.raises(ModelError, match=f"the {which} in m.ckpt does not fit m.yaml"):
        part(which, tensors, config_with(old, new))


def copied(tmp_path: Path, old: str, new: str) -> Path:
    """The small model's YAML with `old` replaced by `new`, next to a copy of its text encoder's folder."""
    shutil.copytree(GOLDEN / "clip", tmp_path / "clip")
    (tmp_path / "m.yaml").write_text((GOLDEN / "v1-small.yaml").read_text().replace(old, new))
    return tmp_path / "m.yaml"


def test_a_text_encoder_of_another_width_than_the_unet_is_refused(tensors: Tensors, tmp_path: Path) -> None:
    wider = {name: t.repeat(1, 2) if "attn2.to_k" in name or "attn2.to_v" in name else t for name, t in tensors.items()}
    torch.save({"state_dict": wider}, tmp_path / "m.ckpt")
    with pytest.raises(ModelError, match="returns embeddings of width 64, the UNet takes 128"):
        load(tmp_path / "m.ckpt", copied(tmp_path, "context_dim: 64", "context_dim: 128"))


def test_a_text_encoder_of_other_sizes_is_refused(small_checkpoint: SmallCheckpoint, tmp_path: Path) -> None:
    """Without `version` the YAML describes the text encoder of the real size."""
    with pytest.raises(ModelError, match=r"the text encoder in v1-small\.ckpt does not fit m\.yaml"):
        load(small_checkpoint.ckpt, copied(tmp_path, "{version: clip}", "{}"))


@pytest.mark.parametrize(("index", "layers"), [(-2, 1), (1, 1), (-1, 2), (2, 2)])
def test_the_layer_of_the_text_encoder_is_obeyed(tensors: Tensors, v1: Model, index: int, layers: int) -> None:
    """The final normalization follows the layer, as in diffusers' clip_skip."""
    text = f"{{version: clip, layer: hidden, layer_idx: {index}}}"
    encoder = part("text encoder", tensors, config_with("{version: clip}", text))
    ids = torch.tensor(v1.tokenizer(["a red apple"], padding="max_length", truncation=True).input_ids)
    with torch.inference_mode():
        hidden = v1.text_encoder(ids, output_hidden_states=True).hidden_states[layers]
        torch.testing.assert_close(encoder(ids)[0], v1.text_encoder.final_layer_norm(hidden))


def test_a_layer_that_the_text_encoder_does_not_have_is_refused(
    small_checkpoint: SmallCheckpoint, tmp_path: Path
) -> None:
    config = copied(tmp_path, "{version: clip}", "{version: clip, layer: hidden, layer_idx: -13}")
    with pytest.raises(ModelError, match="layer_idx to -13"):
        load(small_checkpoint.ckpt, config)


def test_the_number_of_tokens_is_obeyed(small_checkpoint: SmallCheckpoint, tmp_path: Path) -> None:
    config = copied(tmp_path, "{version: clip}", "{version: clip, max_length: 40}")
    source = find(ModelRequest(ckpt=str(small_checkpoint.ckpt), config=str(config)))
    assert source.tokenizer().model_max_length == 40
    config.write_text(config.read_text().replace("40", "78"))
    with pytest.raises(ModelError, match="max_length to 78"):
        find(ModelRequest(ckpt=str(small_checkpoint.ckpt), config=str(config))).tokenizer()


def test_scale_and_shift_of_the_time_are_obeyed(tensors: Tensors) -> None:
    twice = {name: t.repeat(2, *[1] * (t.ndim - 1)) if "emb_layers" in name else t for name, t in tensors.items()}
    config = config_with("legacy: False", "use_scale_shift_norm: True")
    assert part("UNet", twice, config).config.resnet_time_scale_shift == "scale_shift"
    with pytest.raises(ModelError, match="of another shape"):
        part("UNet", tensors, config)


def test_a_missing_text_encoder_is_refused(small_checkpoint: SmallCheckpoint, tmp_path: Path) -> None:
    config = copied(tmp_path, "{version: clip}", "{version: nowhere}")
    with pytest.raises(ModelError, match="names the text encoder nowhere"):
        find(ModelRequest(ckpt=str(small_checkpoint.ckpt), config=str(config)))


def test_the_wrong_text_encoder_is_refused_before_anything_loads(
    small_checkpoint: SmallCheckpoint, small_laion_checkpoint: SmallCheckpoint
) -> None:
    with pytest.raises(ModelError, match=r"contains a BERT text encoder.*\n.*txt2img-1p4B-eval.yaml"):
        find(ModelRequest(ckpt=str(small_laion_checkpoint.ckpt), config=str(small_checkpoint.config)))
    with pytest.raises(ModelError, match=r"contains a CLIP text encoder.*\n.*v1-inference.yaml"):
        find(ModelRequest(ckpt=str(small_checkpoint.ckpt), config=str(small_laion_checkpoint.config)))


@pytest.mark.parametrize("extension", ["ckpt", "safetensors"])
def test_an_inpainting_model_is_refused(tensors: Tensors, tmp_path: Path, extension: str) -> None:
    """Before anything loads."""
    path = tmp_path / f"m.{extension}"
    wide = tensors | {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(32, 9, 3, 3)}
    if extension == "ckpt":
        torch.save(wide, path)
    else:
        save_file({name: tensor.contiguous() for name, tensor in wide.items()}, path)
    with pytest.raises(ModelError, match=r"an inpainting model\n.*9 channels"):
        find(ModelRequest(ckpt=str(path), config=str(GOLDEN / "v1-small.yaml")))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: you tried to allocate 9 bytes")])
def test_out_of_memory_becomes_a_device_error(
    small_checkpoint: SmallCheckpoint, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: Any) -> None:
        raise error

    source = find(ModelRequest(ckpt=str(small_checkpoint.ckpt), config=str(small_checkpoint.config)))
    monkeypatch.setattr(checkpoint_file, "read_tensors", full)
    with pytest.raises(DeviceError, match=r"not enough memory to load v1-small\.ckpt"):
        source.load(CPU, lambda _: None)


def test_a_default_checkpoint_that_is_a_broken_link_is_not_replaced_by_the_builtin_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    default = Path("models/ldm/stable-diffusion-v1/model.ckpt")
    default.parent.mkdir(parents=True)
    default.symlink_to("nowhere")
    with pytest.raises(ModelNotFound, match="does not exist") as caught:
        find_for(Settings.of())
    assert caught.value.exit_code == 4


def test_names_in_the_models_folder(
    small_checkpoint: SmallCheckpoint, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models/old").mkdir(parents=True)
    (tmp_path / "models/old/Dreamy.ckpt").symlink_to(small_checkpoint.ckpt)
    (tmp_path / "models/whole").symlink_to(small_folder)
    monkeypatch.chdir(tmp_path)
    config = str(small_checkpoint.config)
    for name in ("dreamy", "Dreamy.ckpt", "old/dreamy"):
        assert find_for(Settings(ckpt=name, config=config)).spec.name == "Dreamy.ckpt"
    assert find_for(Settings(model="whole")).spec.name == small_folder.name
    (tmp_path / "elsewhere").symlink_to("models")
    assert find_for(Settings(ckpt="dreamy", config=config, models_folder="elsewhere")).spec.name == "Dreamy.ckpt"
    with pytest.raises(ModelNotFound, match="the checkpoint dreamier does not exist"):
        find_for(Settings(ckpt="dreamier"))
    Path("dreamy").write_bytes(b"a file of this name comes first")
    with pytest.raises(ModelError, match="dreamy is not a checkpoint"):
        find_for(Settings(ckpt="dreamy"))


# The configuration of a checkpoint that is given alone.


@pytest.fixture
def alone(small_checkpoint: SmallCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small checkpoint in an empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.ckpt").symlink_to(small_checkpoint.ckpt)
    return tmp_path / "m.ckpt"


def config_of(path: Path, config: str | None = None) -> OriginalModel:
    model = find(ModelRequest(ckpt=str(path), config=config))
    assert isinstance(model, OriginalModel)
    return model


@pytest.mark.parametrize("config", [None, "configs/stable-diffusion/v1-inference.yaml"])
def test_the_default_configuration_is_that_of_the_tensors(alone: Path, config: str | None) -> None:
    model = config_of(alone, config)
    assert model.config_path is None and model.spec.text_width == 64 and model.spec.notes == ()
    assert model.config.model.params.unet_config.params.channel_mult == [1, 1, 2, 2]


def test_a_shipped_configuration_that_is_named_is_obeyed(alone: Path) -> None:
    assert config_of(alone, "v1-inference-v.yaml").spec.schedule.prediction_type == "v_prediction"


def test_a_name_says_few_steps_with_a_configuration_too(alone: Path) -> None:
    path = alone.rename(alone.with_name("m_lightning_8step_vpred.ckpt"))
    spec = config_of(path, "v1-inference.yaml").spec
    assert (spec.default_steps, spec.default_scale, spec.schedule.prediction_type) == (8, 1.0, "epsilon")


def test_a_configuration_beside_the_file_is_obeyed(alone: Path) -> None:
    """As AUTOMATIC1111's web UI does."""
    copied(alone.parent, "linear_end: 0.0120", "linear_end: 0.05").rename(alone.with_suffix(".yaml"))
    model = config_of(alone)
    assert model.config_path == alone.with_suffix(".yaml") and model.spec.schedule.beta_end == 0.05
    alone.with_suffix(".yaml").write_text("prompts:\n- a cat\n")
    assert config_of(alone).config_path is None


def test_a_file_in_place_of_the_default_configuration_is_obeyed(
    alone: Path, small_laion_checkpoint: SmallCheckpoint
) -> None:
    """As in a copy of the original's repository. It is for Stable Diffusion 1 only."""
    local = alone.parent / "configs" / "stable-diffusion"
    local.mkdir(parents=True)
    copied(local, "linear_end: 0.0120", "linear_end: 0.05").rename(local / "v1-inference.yaml")
    assert config_of(alone).spec.schedule.beta_end == 0.05
    assert config_of(small_laion_checkpoint.ckpt).spec.schedule.beta_end == 0.012


def test_a_model_of_laion_is_recognized(small_laion_checkpoint: SmallCheckpoint) -> None:
    model = config_of(small_laion_checkpoint.ckpt)
    assert model.family.label == "BERT" and model.config.model.params.cond_stage_config.params.n_layer == 2
    with torch.inference_mode():
        ids = torch.zeros(1, 77, dtype=torch.int64)
        found, expected = (
            source.load(CPU, lambda _: None).text_encoder(ids)[0]
            for source in (model, config_of(small_laion_checkpoint.ckpt, str(small_laion_checkpoint.config)))
        )
    assert torch.equal(found, expected)
