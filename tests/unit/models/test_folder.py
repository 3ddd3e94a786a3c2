"""Models in diffusers' layout."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.autoencoders.vq_model import VQModel
from safetensors.torch import load_file, save_file

from sdcli.errors import ModelError, ModelNotFound
from sdcli.models import find, shipped, weight_files
from sdcli.models.model import ModelRequest
from sdcli.models.sources import builtin
from sdcli.models.sources.folder import FolderModel, files_in

if TYPE_CHECKING:
    from tests.conftest import SmallCheckpoint

CPU = torch.device("cpu")
Change = Callable[[Path], object]


@pytest.fixture
def folder(small_folder: Path, tmp_path: Path) -> Path:
    """A copy of the small model that a test may change."""
    return Path(shutil.copytree(small_folder, tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file; None removes a field."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def weights(model: Any) -> dict[str, torch.Tensor]:
    parts = {"unet": model.unet, "vae": model.vae, "text": model.text_encoder}
    return {f"{part}.{name}": weight for part, module in parts.items() for name, weight in module.state_dict().items()}


def same(one: Any, other: Any) -> bool:
    actual, expected = weights(one), weights(other)
    return actual.keys() == expected.keys() and all(torch.equal(actual[name], expected[name]) for name in actual)


def test_a_folder_loads_the_same_model_as_the_checkpoint(small_folder: Path, small_checkpoint: SmallCheckpoint) -> None:
    source = find(ModelRequest(model=str(small_folder)))
    original = find(ModelRequest(ckpt=str(small_checkpoint.ckpt), config=str(small_checkpoint.config)))
    parts: list[str] = []
    model = source.load(CPU, parts.append)
    assert parts == ["text encoder", "UNet", "VAE"]
    assert same(model, original.load(CPU, lambda _: None))
    assert source.spec.schedule == original.spec.schedule
    assert (source.spec.name, source.spec.family) == ("small", "sd1")
    assert (source.spec.downscale, source.spec.size_multiple, source.spec.latent_channels) == (8, 64, 4)
    assert (source.spec.default_height, source.spec.default_width, source.spec.default_scale) == (128, 128, 7.5)
    assert model.vae.config.scaling_factor == 0.18215 and model.tokenizer.model_max_length == 77
    assert not any(part.training for part in (model.unet, model.vae, model.text_encoder))
    assert not any(weight.requires_grad for weight in model.unet.parameters())


def test_laion(small_laion_folder: Path, small_laion_checkpoint: SmallCheckpoint) -> None:
    source = find(ModelRequest(model=str(small_laion_folder)))
    model = source.load(CPU, lambda _: None)
    original = find(ModelRequest(ckpt=str(small_laion_checkpoint.ckpt), config=str(small_laion_checkpoint.config)))
    assert source.spec.family == "ldm"
    assert same(model, original.load(CPU, lambda _: None))
    assert model.tokenizer("a red apple").input_ids == [101, 1037, 2417, 6207, 102]
    assert model.text_encoder(torch.zeros(1, 77, dtype=torch.long))[0].shape == (1, 77, 64)


def renamed(path: Path, change: Callable[[str, torch.Tensor], tuple[str, torch.Tensor]]) -> None:
    save_file(dict(change(name, tensor) for name, tensor in load_file(path).items()), path, {"format": "pt"})


OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def test_names_of_earlier_versions_are_supported(folder: Path, small_folder: Path) -> None:
    """Models on the hub have a prefix in the text encoder and other names in the VAE's attention."""
    renamed(folder / "text_encoder/model.safetensors", lambda name, tensor: (f"text_model.{name}", tensor))

    def old(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
        if "attentions" in name:
            for new, earlier in OLD_NAMES.items():
                name = name.replace(new, earlier)
        return name, tensor

    renamed(folder / "vae/diffusion_pytorch_model.safetensors", old)
    loaded = find(ModelRequest(model=str(folder))).load(CPU, lambda _: None)
    assert same(loaded, find(ModelRequest(model=str(small_folder))).load(CPU, lambda _: None))


def test_half_precision_is_used_if_there_is_no_other_and_becomes_full(folder: Path) -> None:
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        full = folder / part / f"{stem}.safetensors"
        half = {name: tensor.half() for name, tensor in load_file(full).items()}
        save_file(half, folder / part / f"{stem}.fp16.safetensors", {"format": "pt"})
        if part != "vae":
            full.unlink()
    source = find(ModelRequest(model=str(folder)))
    assert isinstance(source, FolderModel)
    assert [part.variant for part in source.parts.values()] == ["fp16", "fp16", None]
    model = source.load(CPU, lambda _: None)
    assert {weight.dtype for weight in weights(model).values()} == {torch.float32}


def test_weights_in_several_files_with_an_index(
    folder: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = find(ModelRequest(model=str(small_folder)))
    model = whole.load(CPU, lambda _: None)
    for name, part in (("unet", model.unet), ("text_encoder", model.text_encoder)):
        shutil.rmtree(folder / name)
        part.save_pretrained(folder / name, max_shard_size="1MB")
        assert len(list((folder / name).glob("*-of-*.safetensors"))) > 1
    capsys.readouterr()
    source = find(ModelRequest(model=str(folder)))
    assert source.weights() == whole.weights()
    assert same(source.load(CPU, lambda _: None), model)
    assert capsys.readouterr().err == "", "no progress bar of the library"


def test_pickled_weights_are_used_if_there_are_no_others(folder: Path, small_folder: Path) -> None:
    for part, old, new in (
        ("unet", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("text_encoder", "model.safetensors", "pytorch_model.bin"),
    ):
        torch.save(load_file(folder / part / old), folder / part / new)
        (folder / part / old).unlink()
    source = find(ModelRequest(model=str(folder)))
    assert same(source.load(CPU, lambda _: None), find(ModelRequest(model=str(small_folder))).load(CPU, lambda _: None))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["m.safetensors", "m.bin", "m.fp16.safetensors"], ["m.safetensors"]),
        (["m.bin", "m.fp16.safetensors", "m.fp16.bin"], ["m.bin"]),
        (["m.fp16.safetensors", "m.fp16.bin", "m.non_ema.safetensors"], ["m.fp16.safetensors"]),
        (
            ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors", "m.safetensors.index.json", "m.bin"],
            ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors", "m.safetensors.index.json"],
        ),
        (["m.non_ema.bin", "m.onnx", "m.msgpack", "config.json"], None),
    ],
)
def test_which_weights_are_used(names: list[str], expected: list[str] | None) -> None:
    def in_folder(name: str) -> str:
        return "unet/" + re.sub(r"^m\b", "diffusion_pytorch_model", name)

    found = weight_files.find([in_folder(name) for name in names], "unet")
    assert (None if found is None else list(found.files)) == (expected and [in_folder(name) for name in expected])


def test_other_vaes_have_other_sizes(folder: Path) -> None:
    """TAESD, and the VQ model of some latent diffusion models."""
    for vae, blocks in (
        (AutoencoderTiny(encoder_block_out_channels=(8,) * 3, decoder_block_out_channels=(8,) * 3,
                         num_encoder_blocks=(0, 1, 1), num_decoder_blocks=(1, 1, 0)), 3),
        (VQModel(block_out_channels=(32, 32), latent_channels=4, down_block_types=("DownEncoderBlock2D",) * 2,
                 up_block_types=("UpDecoderBlock2D",) * 2), 2),
    ):  # fmt: skip
        shutil.rmtree(folder / "vae")
        vae.save_pretrained(folder / "vae")
        edit(folder / "model_index.json", vae=["diffusers", type(vae).__name__])
        source = find(ModelRequest(model=str(folder)))
        f = 2 ** (blocks - 1)
        assert (source.spec.downscale, source.spec.size_multiple) == (f, f * 8)
        model = source.load(CPU, lambda _: None)
        assert type(model.vae) is type(vae)
        assert model.vae.decode(torch.zeros(1, 4, 8, 8)).sample.shape == (1, 3, 8 * f, 8 * f)


def test_the_default_size_is_that_of_the_unet(folder: Path) -> None:
    edit(folder / "unet/config.json", sample_size=[32, 16])
    spec = find(ModelRequest(model=str(folder))).spec
    assert (spec.default_height, spec.default_width) == (256, 128)
    edit(folder / "unet/config.json", sample_size=None)
    spec = find(ModelRequest(model=str(folder))).spec
    assert (spec.default_height, spec.default_width) == (512, 512)


def test_a_model_for_a_few_steps_has_their_defaults(folder: Path) -> None:
    edit(folder / "scheduler" / "scheduler_config.json", _class_name="LCMScheduler")
    spec = find(ModelRequest(model=str(folder))).spec
    assert (spec.few_steps_by, spec.default_steps, spec.default_scale) == ("lcm", 4, 1.0)
    assert spec.default_sampler == "lcm"
    edit(folder / "unet" / "config.json", time_cond_proj_dim=32)
    spec = find(ModelRequest(model=str(folder))).spec
    assert (spec.guidance_embedding, spec.default_scale) == (32, 8.5)
    edit(folder / "scheduler" / "scheduler_config.json", _class_name="DDIMScheduler")
    spec = find(ModelRequest(model=str(folder))).spec
    assert (spec.few_steps_by, spec.default_steps, spec.default_scale) == ("", 50, 7.5)
    assert spec.default_sampler == "ddim"


def test_a_model_whose_name_says_that_it_is_for_a_few_steps(folder: Path) -> None:
    for name, steps, sampler in (("xl-turbo", 4, "ddim"), ("x_Lightning_2step", 2, "ddim"), ("dmd2", 4, "lcm")):
        spec = FolderModel.read(folder, name=f"owner/{name}").spec
        assert (spec.default_steps, spec.default_scale, spec.default_sampler) == (steps, 1.0, sampler)
        (note,) = spec.notes
        assert f"by its name): the defaults are --steps {steps}" in note
        assert "--scale 1" in note
    assert FolderModel.read(folder, name="turbo/model").spec.notes == ()


def test_the_safety_checker_is_found_if_the_folder_has_one(folder: Path) -> None:
    assert find(ModelRequest(model=str(folder))).safety_checker(download=False) is None
    edit(folder / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    assert not find(ModelRequest(model=str(folder))).spec.has_safety_checker
    (folder / "safety_checker").mkdir()
    save_file({"a": torch.ones(1)}, folder / "safety_checker/model.safetensors")
    source = find(ModelRequest(model=str(folder)))
    assert source.spec.has_safety_checker and source.safety_checker(download=False) == folder / "safety_checker"


def test_the_hash_depends_on_the_weights_only(folder: Path) -> None:
    before = find(ModelRequest(model=str(folder))).hash()
    (folder / "README.md").write_text("text")
    assert find(ModelRequest(model=str(folder))).hash() == before and len(before) == 64
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    renamed(path, lambda name, tensor: (name, tensor + 1))
    assert find(ModelRequest(model=str(folder))).hash() != before


# Models that are refused before any weights are read.


def remove(name: str) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def index(**changes: Any) -> Change:
    return lambda folder: edit(folder / "model_index.json", **changes)


def config(part: str, **changes: Any) -> Change:
    return lambda folder: edit(folder / part / "config.json", **changes)


def scheduler(**changes: Any) -> Change:
    return lambda folder: edit(folder / "scheduler/scheduler_config.json", **changes)


def text(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content)


def pipe(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


XL: dict[str, Any] = {
    "_class_name": "StableDiffusionXLPipeline",
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
}
FILL = index(_class_name="FluxFillPipeline", unet=None, transformer=["diffusers", "FluxTransformer2DModel"])
REFUSED: dict[str, tuple[Change, str]] = {
    "XL, incomplete": (index(**XL), "folder text_encoder_2 has no weights"),
    "XL, another text encoder": (
        index(**XL | {"text_encoder_2": ["transformers", "T5EncoderModel"]}),
        "a Stable Diffusion XL model: its second text encoder is T5EncoderModel, not CLIPTextModelWithProjection",
    ),
    "XL refiner": (
        index(**XL, text_encoder=[None, None], requires_aesthetics_score=True),
        "a Stable Diffusion XL refiner model",
    ),
    "two text encoders and a BERT": (index(**XL, text_encoder=["x", "LDMBertModel"]), "parts besides these"),
    "Flux for inpainting": (FILL, "a Flux model"),
    "another pipeline": (index(_class_name="AudioLDMPipeline", vae=["diffusers", "Other"]), "AudioLDMPipeline.*Other"),
    "another text encoder": (index(text_encoder=["transformers", "T5EncoderModel"]), "T5EncoderModel"),
    "no tokenizer": (index(tokenizer=None), "no tokenizer"),
    "no text encoder": (index(text_encoder=[None, None]), "it has no text encoder"),
    "inpainting": (config("unet", in_channels=9), "9 channels and its VAE outputs 4, as for inpainting"),
    "other inputs": (config("unet", addition_embed_type="text_time"), "addition_embed_type"),
    "shifted latents": (config("vae", shift_factor=0.1), "shifts its latents"),
    "normalized latents": (config("vae", latents_mean=[0.1, 0, 0, 0], latents_std=[1, 1, 1, 1]), "shifts its latents"),
    "no UNet weights": (remove("unet/diffusion_pytorch_model.safetensors"), "folder unet has no weights"),
    "no VAE": (remove("vae"), "folder vae has no weights"),
    "no UNet configuration": (remove("unet/config.json"), "unet/config.json is missing"),
    "no scheduler": (remove("scheduler"), "scheduler_config.json is missing"),
    "no sizes": (config("unet", block_out_channels=None), "block_out_channels: Field required"),
    "no JSON": (lambda folder: (folder / "model_index.json").write_text("<html>"), "cannot be read as JSON"),
    "a list": (lambda folder: (folder / "model_index.json").write_text("[]"), "does not contain a JSON object"),
    "nothing": (remove("model_index.json"), "has no model_index.json"),
    "one side": (config("unet", sample_size=[1]), r"unet/config.json .*sample_size is \[1\]"),
    "no side": (config("unet", sample_size=0), "sample_size is 0"),
    "a long side": (config("unet", sample_size=10**9), "sample_size is 1000000000"),
    "a long image": (config("unet", sample_size=16_000), "sample_size 16000, which is 128000 pixels"),
    "no blocks": (config("unet", block_out_channels=[]), r"block_out_channels is \[\]"),
    "wide blocks": (config("unet", block_out_channels=[10**9]), "block_out_channels.0 is 1000000000|out of range"),
    "many layers": (config("unet", layers_per_block=10**7), "layers_per_block is 10000000"),
    "no heads": (config("unet", attention_head_dim=0), "attention_head_dim is 0"),
    "text for a number": (config("vae", scaling_factor="0.18215"), r"vae/config.json .*scaling_factor is '0.18215'"),
    "no scale": (config("vae", scaling_factor=0), "scaling_factor is 0"),
    "an infinite scale": (config("vae", scaling_factor=float("inf")), "scaling_factor is inf"),
    "a negative enlargement": (config("vae", upsampling_scaling_factor=-2), "upsampling_scaling_factor is -2"),
    "a large enlargement": (config("vae", block_out_channels=[32] * 12), "enlarges 2048 times"),
    "many text layers": (
        config("text_encoder", num_hidden_layers=10**7),
        r"text_encoder/config.*num_hidden_layers is 1",
    ),
    "text as length": (config("text_encoder", max_position_embeddings="x"), "max_position_embeddings is 'x'"),
    "numbers elsewhere": (config("text_encoder", text_config={"any": [10**30]}), "any is 1000.*out of range"),
    "no timesteps": (scheduler(num_train_timesteps=0), "scheduler_config.json .*num_train_timesteps is 0"),
    "many timesteps": (scheduler(num_train_timesteps=10**9), "num_train_timesteps is 1000000000"),
    "one timestep": (scheduler(num_train_timesteps=1), "num_train_timesteps is 1, and the first timestep is 1"),
    "a negative beta": (scheduler(beta_start=-0.1), "beta_start is -0.1"),
    "a large beta": (scheduler(beta_end=1.5), "beta_end is 1.5"),
    "deep nesting": (text("unet/config.json", "[" * 10_000), "cannot be read as JSON"),
    "many digits": (text("unet/config.json", '{"in_channels": ' + "9" * 5_000 + "}"), "cannot be read as JSON"),
    "a large file": (text("unet/config.json", " " * 2_000_000), "more than 1,000,000 bytes"),
    "a pipe": (pipe("unet/config.json"), "unet/config.json cannot be read as JSON"),
    "a part that is a number": (index(tokenizer=5), "no tokenizer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_models_are_refused_with_the_reason(folder: Path, name: str) -> None:
    change, what = REFUSED[name]
    change(folder)
    with pytest.raises(ModelError, match=f"(?s){what}") as raised:
        find(ModelRequest(model=str(folder)))
    message = str(raised.value)
    assert raised.value.why or raised.value.fix
    assert len(message) < 1000


def test_weights_that_do_not_fit_are_refused(folder: Path) -> None:
    renamed(folder / "vae/diffusion_pytorch_model.safetensors", lambda name, tensor: (f"x.{name}", tensor))
    with pytest.raises(ModelError, match=r"the VAE of model does not fit its configuration"):
        find(ModelRequest(model=str(folder))).load(CPU, lambda _: None)


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "text_encoder/model", "vae/diffusion_pytorch_model"])
def test_damaged_weights_are_refused(folder: Path, part: str) -> None:
    path = folder / f"{part}.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"of model cannot be loaded"):
        find(ModelRequest(model=str(folder))).load(CPU, lambda _: None)


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    edit(folder / "unet/config.json", cross_attention_dim=128)
    with pytest.raises(ModelError, match=r"the UNet of model"):
        find(ModelRequest(model=str(folder))).load(CPU, lambda _: None)


LOAD: dict[str, tuple[Change, str]] = {
    "a large text encoder": (
        config("text_encoder", num_hidden_layers=64, intermediate_size=2**16),
        "more than there are",
    ),
    "an even kernel": (config("unet", mid_block_scale_factor=1e-320, freq_shift="x"), "UNet of model does not work"),
    "a small vocabulary": (config("text_encoder", vocab_size=100), "contains no vocabulary"),
    "other shards": (
        text("unet/diffusion_pytorch_model.safetensors.index.json", '{"weight_map": {"a": "../../x.safetensors"}}'),
        r"names the weights '../../x.safetensors'",
    ),
    "no shards": (
        text("unet/diffusion_pytorch_model.safetensors.index.json", '{"weight_map": 5}'),
        "names the weights '5'",
    ),
}


@pytest.mark.parametrize("name", LOAD)
def test_configurations_that_do_not_work_are_refused_before_the_first_step(folder: Path, name: str) -> None:
    change, what = LOAD[name]
    change(folder)
    with pytest.raises(ModelError, match=f"(?s){what}"):
        find(ModelRequest(model=str(folder))).load(CPU, lambda _: None)


def test_only_the_folders_of_parts_are_listed(folder: Path) -> None:
    (folder / "unet/deep/deeper").mkdir(parents=True)
    (folder / "unet/deep/file").touch()
    os.mkfifo(folder / "unet/pipe")
    (folder / "unet/dangling").symlink_to("nowhere")
    found = files_in(folder)
    assert "unet/config.json" in found
    assert not {name for name in found if "deep" in name or "pipe" in name or "dangling" in name}
    (folder / "model_index.json").unlink()
    assert files_in(folder) == []


@pytest.mark.parametrize("name", ["/", "x" * 300, "x/" * 3000, "a\0b/c", "/dev/null", "~nosuchuser/x"])
def test_names_that_are_no_model_are_refused(name: str) -> None:
    with pytest.raises(ModelError):
        find(ModelRequest(model=name, offline=True))


def test_the_error_for_a_folder_with_a_checkpoint_suggests_it(tmp_path: Path) -> None:
    (tmp_path / "v1-5-pruned.ckpt").touch()
    with pytest.raises(ModelError, match=r"file v1-5-pruned\.ckpt: .* --ckpt"):
        find(ModelRequest(model=str(tmp_path)))


def test_the_error_for_one_part_of_a_model_suggests_the_parent_folder(small_folder: Path) -> None:
    with pytest.raises(ModelError, match="pass the parent folder"):
        find(ModelRequest(model=str(small_folder / "unet")))


def test_the_error_for_a_file_suggests_the_flag_for_files(small_checkpoint: SmallCheckpoint) -> None:
    with pytest.raises(ModelError, match="--ckpt"):
        find(ModelRequest(model=str(small_checkpoint.ckpt)))


@pytest.mark.parametrize(
    "path", ["nowhere", "./no/where", "/no/where", "a/b/c", "../a", "no where/x", "~/nowhere-at-all"]
)
def test_a_missing_folder_is_not_taken_for_a_hub_id(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ModelNotFound, match=f"folder {re.escape(path)} does not exist"):
        find(ModelRequest(model=path))


# The builtin model.


def test_the_builtin_model_is_a_folder_in_the_package(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shipped, "BUILTIN", folder)
    for source in (find(ModelRequest()), find(ModelRequest(model="builtin"))):
        assert (source.spec.name, source.spec.watermark_method) == ("builtin", "robust")
    monkeypatch.setattr(shipped, "BUILTIN", tmp_path / "nowhere")
    with pytest.raises(ModelNotFound, match="builtin model is missing"):
        find(ModelRequest())
    assert builtin.NAME == "builtin"


def test_the_few_step_model_has_its_own_unet_and_defaults_and_shares_the_rest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full, fast = find(ModelRequest()), find(ModelRequest(model="builtin-fast"))
    assert isinstance(fast, FolderModel)
    assert {path.name for path in shipped.FAST.iterdir()} <= {"README.md", "sheets", "unet"}
    own = {"name": "builtin-fast", "default_steps": 4, "default_scale": 1.0}
    assert fast.spec == full.spec.model_copy(update=own)
    assert (full.spec.default_steps, full.spec.default_scale) == (20, 2.0)
    assert fast.here()
    assert fast.weights() == full.weights()
    assert fast.hash() != full.hash()
    assert fast.tokenizer()("a cat").input_ids == full.tokenizer()("a cat").input_ids
    words = fast.vocabulary()
    assert words is not None
    assert words.read("ein Hund").text == "a dog"

    monkeypatch.setattr(shipped, "FAST", tmp_path / "nowhere")
    with pytest.raises(ModelNotFound, match="builtin-fast model is missing"):
        find(ModelRequest(model="builtin-fast"))


@pytest.mark.parametrize("typed", ["builtin_fast", "Builtin-Fast", "builtin-fst", "built-in-fast"])
def test_the_name_of_a_builtin_model_may_be_mistyped(typed: str) -> None:
    with pytest.raises(ModelNotFound, match="Did you mean builtin-fast"):
        find(ModelRequest(model=typed))
