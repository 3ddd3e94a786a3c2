"""Conversions of models, there and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from originals import SMALL
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sdcli.errors import ModelError, OutputError, UsageError
from sdcli.inventory import convert, description
from sdcli.inventory.convert import Conversion
from sdcli.models import checkpoint_file, find, safetensors_writer
from sdcli.models.model import Model, ModelRequest

if TYPE_CHECKING:
    from tests.conftest import SmallCheckpoint

CPU = torch.device("cpu")
UNUSED = "cond_stage_model.transformer.text_model.embeddings.position_ids"


def converted(source: Path, target: Path, **how: str) -> Path:
    convert.convert(Conversion(source, target, **how), lambda note: None)
    assert not [path for path in target.parent.iterdir() if path.name.startswith(".sdcli-")]
    return target


def load(config: Path | None = None, **where: str) -> Model:
    return find(ModelRequest(config=config and str(config), **where)).load(CPU, lambda _: None)


def same(one: Model, other: Model) -> bool:
    """Whether all parts have the same weights."""
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        pair = getattr(one, part), getattr(other, part)
        if pair == (None, None):
            continue
        actual, expected = (each.state_dict() for each in pair)
        if actual.keys() != expected.keys() or not all(torch.equal(actual[name], expected[name]) for name in actual):
            return False
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: SmallCheckpoint) -> Path:
    """The small Stable Diffusion v1 as a folder."""
    target = tmp_path_factory.mktemp("converted") / "folder"
    return converted(small_checkpoint.ckpt, target, config=str(small_checkpoint.config))


@pytest.mark.parametrize("family", ["v1", pytest.param("laion", marks=pytest.mark.slow)])
def test_a_checkpoint_becomes_a_folder_and_a_checkpoint_again(
    family: str, small_checkpoint: SmallCheckpoint, small_laion_checkpoint: SmallCheckpoint, tmp_path: Path
) -> None:
    small = small_checkpoint if family == "v1" else small_laion_checkpoint
    folder = converted(small.ckpt, tmp_path / "folder", config=str(small.config))
    again = converted(folder, tmp_path / "again.safetensors", config=str(small.config))
    before = load(small.config, ckpt=str(small.ckpt))
    assert same(load(model=str(folder)), before)
    assert same(load(small.config, ckpt=str(again)), before)
    original, found = checkpoint_file.read_tensors(small.ckpt), load_file(again)
    weights = {name: each for name, each in original.items() if name.startswith(("model.d", "first", "cond"))}
    assert found.keys() == weights.keys() - {UNUSED}
    assert all(torch.equal(found[name], weights[name]) for name in found)
    spec = find(ModelRequest(model=str(folder))).spec
    assert (spec.default_height, spec.schedule.prediction_type) == (before.spec.default_height, "epsilon")
    assert spec.schedule == before.spec.schedule


@pytest.mark.parametrize(
    "name", ["Stable Diffusion XL, v-prediction", pytest.param("Stable Diffusion 2", marks=pytest.mark.slow)]
)
def test_other_families(name: str, tmp_path: Path) -> None:
    kind, schedule = SMALL[name]
    small = kind(tmp_path / "small", schedule)
    folder = converted(small.path, tmp_path / "folder")
    loaded = load(model=str(folder))
    assert same(loaded, small.model)
    specs = [each.spec.model_dump(exclude={"name", "family", "notes"}) for each in (loaded, small.model)]
    for spec in specs:
        assert not spec["schedule"]["spacing_is_given"], "each sampler keeps the one of its own"
        spec["schedule"].pop("timestep_spacing")
    assert specs[0] == specs[1]
    for tokenizer in ("tokenizer", "tokenizer_2"):
        if getattr(small.model, tokenizer) is not None:
            own, expected = (
                getattr(each, tokenizer)("a toy", padding="max_length").input_ids for each in (loaded, small.model)
            )
            assert own == expected
    if name == "Stable Diffusion 2":  # without the last layer, which no image needs, the real one has 23
        file = folder / "text_encoder/model.safetensors"
        text = load_file(file)
        first = {key: each for key, each in text.items() if ".layers.0." in key}
        for layer in range(2, 23):
            text |= {key.replace(".layers.0.", f".layers.{layer}."): each + layer for key, each in first.items()}
        save_file(text, file)
        config = folder / "text_encoder/config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 23}))
    again = converted(folder, tmp_path / "again.safetensors")
    assert same(load(ckpt=str(again)), load(model=str(folder)))
    found = load_file(again)
    known = {key: each for key, each in small.tensors.items() if ".resblocks.2." not in key or "XL" in name}
    unused = {"cond_stage_model.model.text_projection"} | {key for key in known if key.endswith("logit_scale")}
    assert found.keys() >= known.keys() - unused
    assert all(torch.equal(found[key], known[key]) for key in found if key in known)


def test_a_folder_that_would_compute_otherwise(folder: Path, small_checkpoint: SmallCheckpoint, tmp_path: Path) -> None:
    """The same weights with another number of heads are another model."""
    folder = Path(shutil.copytree(folder, tmp_path / "folder"))
    file = folder / "unet/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"attention_head_dim": 2}))
    with pytest.raises(ModelError, match="cannot be converted to") as raised:
        converted(folder, tmp_path / "out.safetensors", config=str(small_checkpoint.config))
    assert "num_attention_heads is 2, and the target would be used with 4" in raised.value.why


@pytest.mark.slow
def test_a_folder_has_the_names_that_other_programs_read(small_checkpoint: SmallCheckpoint, tmp_path: Path) -> None:
    folder = converted(small_checkpoint.ckpt, tmp_path / "folder", config=str(small_checkpoint.config), dtype="float16")
    text = load_file(folder / "text_encoder/model.safetensors")
    assert all(name.startswith("text_model.") for name in text)
    assert {each.dtype for each in text.values()} == {torch.float16}
    assert {path.name for path in (folder / "tokenizer").iterdir()} >= {"vocab.json", "merges.txt", "tokenizer.json"}
    index = json.loads((folder / "model_index.json").read_text())
    assert (index["_class_name"], index["unet"]) == ("StableDiffusionPipeline", ["diffusers", "UNet2DConditionModel"])
    assert json.loads((folder / "text_encoder/config.json").read_text())["architectures"] == ["CLIPTextModel"]
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    own = load(model=str(folder))
    for part in ("unet", "vae", "text_encoder"):
        expected = getattr(own, part).state_dict()
        for name, each in getattr(pipeline, part).state_dict().items():
            assert torch.equal(each.float(), expected[name]), name


@pytest.mark.slow
def test_half_precision_is_kept_without_rounding(small_checkpoint: SmallCheckpoint, tmp_path: Path) -> None:
    config = str(small_checkpoint.config)
    half = converted(small_checkpoint.ckpt, tmp_path / "half.safetensors", dtype="float16")
    original, found = checkpoint_file.read_tensors(small_checkpoint.ckpt), load_file(half)
    assert found.keys() == original.keys()
    for name, each in original.items():
        assert torch.equal(found[name], each.half() if each.is_floating_point() else each)
    folder = converted(half, tmp_path / "folder", config=config)
    assert description.of_path(folder).precision == "float16"
    again = load_file(converted(folder, tmp_path / "again.safetensors", config=config))
    assert all(torch.equal(again[name], found[name]) for name in again)


def test_a_pickle_becomes_a_safetensors_file(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "transposed": whole.T, "a part": whole[1:, ::2], "one number": torch.tensor(5.0), "none": torch.ones(0, 3),
        "half": torch.ones(3, dtype=torch.bfloat16), "eight": torch.ones(3).to(torch.float8_e4m3fn),
        "numbers": torch.arange(5), "mask": torch.tensor([True, False]),
    }  # fmt: skip
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "in.pt")
    found = load_file(converted(tmp_path / "in.pt", tmp_path / "out.safetensors"))
    assert found.keys() == tensors.keys()
    for name, each in tensors.items():
        assert found[name].dtype == each.dtype
        assert torch.equal(found[name].double(), each.double())
    half = load_file(converted(tmp_path / "in.pt", tmp_path / "half.safetensors", dtype="float16"))
    assert (half["half"].dtype, half["numbers"].dtype, half["mask"].dtype) == (torch.float16, torch.int64, torch.bool)


def test_the_texts_of_a_header_are_kept(tmp_path: Path) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "in.safetensors", metadata={"ss_output_name": "ü"})
    converted(tmp_path / "in.safetensors", tmp_path / "out.safetensors", dtype="bfloat16")
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "ss_output_name": "ü"}
        assert file.get_tensor("x").dtype == torch.bfloat16


def test_a_value_that_is_too_large(tmp_path: Path) -> None:
    save_file({"x": torch.tensor([1.0, 70_000.0])}, tmp_path / "in.safetensors")
    with pytest.raises(ModelError, match="x has values that are too large for float16") as raised:
        converted(tmp_path / "in.safetensors", tmp_path / "out.safetensors", dtype="float16")
    assert "The largest is 70000" in raised.value.why
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]
    save_file({"x": torch.tensor([1.0, torch.inf, torch.nan])}, tmp_path / "odd.safetensors")
    converted(tmp_path / "odd.safetensors", tmp_path / "out.safetensors", dtype="float16")


def test_what_is_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that changes one bit."""
    save_file({"x": torch.ones(1_000)}, tmp_path / "in.safetensors")
    real = safetensors_writer.verify

    def damaged(path: Path, *arguments: object) -> None:
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)
        real(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(safetensors_writer, "verify", damaged)
    with pytest.raises(ModelError, match="is not what it should be") as raised:
        converted(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert "The tensor x is another one" in raised.value.why
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


def test_a_checkpoint_that_would_load_otherwise_is_refused(
    folder: Path, small_checkpoint: SmallCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of the original layout are checked by the loader, not only by what wrote them."""
    from sdcli.models import original_layout

    real = original_layout.vae

    def swapped(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = real(tensors)
        one, two = (f"decoder.mid.attn_1.{name}.weight" for name in "qk")
        return found | {one: found[two], two: found[one]}

    monkeypatch.setattr(original_layout, "vae", swapped)
    with pytest.raises(ModelError, match=r"the VAE of .* is not what it should be"):
        converted(folder, tmp_path / "out.safetensors", config=str(small_checkpoint.config))
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("field", ["prediction_type", pytest.param("beta_end", marks=pytest.mark.slow)])
def test_what_a_checkpoint_cannot_say(
    folder: Path, small_checkpoint: SmallCheckpoint, tmp_path: Path, field: str
) -> None:
    folder = Path(shutil.copytree(folder, tmp_path / "folder"))
    file = folder / "scheduler/scheduler_config.json"
    changed = {"prediction_type": "v_prediction", "beta_end": 0.02}[field]
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: changed}))
    with pytest.raises(ModelError, match="cannot be converted to") as raised:
        converted(folder, tmp_path / "out.safetensors", config=str(small_checkpoint.config))
    assert f"Its {field} is {changed}" in raised.value.why
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.slow
def test_a_folder_in_another_precision(small_folder: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(small_folder, tmp_path / "in"))
    unet = load_file(source / "unet/diffusion_pytorch_model.safetensors")
    (source / "unet/diffusion_pytorch_model.safetensors").unlink()
    torch.save(unet, source / "unet/diffusion_pytorch_model.bin")
    (source / "README.md").write_text("a card")
    target = converted(source, tmp_path / "out", dtype="bfloat16")
    names = {path.relative_to(source).with_suffix("") for path in source.rglob("*") if path.is_file()}
    assert {path.relative_to(target).with_suffix("") for path in target.rglob("*") if path.is_file()} == names
    found = load_file(target / "unet/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(found[name], each.bfloat16()) for name, each in unet.items())
    assert find(ModelRequest(model=str(target))).spec.schedule == find(ModelRequest(model=str(source))).spec.schedule


def test_nothing_is_overwritten(small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "in.safetensors")
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine.safetensors").write_bytes(b"mine")
    (tmp_path / "dangling").symlink_to("nothing")
    for source, name in ((tmp_path / "in.safetensors", "mine.safetensors"), (small_folder, "empty")):
        with pytest.raises(OutputError, match="already exists"):
            converted(source, tmp_path / name)
    with pytest.raises(OutputError, match="already exists"):
        converted(small_folder, tmp_path / "dangling")
    assert (tmp_path / "mine.safetensors").read_bytes() == b"mine"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(OutputError, match="there is no room"):
        converted(tmp_path / "in.safetensors", tmp_path / "out.safetensors")


def test_what_cannot_be_converted(small_folder: Path, tmp_path: Path) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "in.safetensors")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="would be a pickle"):
        converted(tmp_path / "in.safetensors", tmp_path / "out.ckpt")
    with pytest.raises(UsageError, match="--dtype int8 is not valid"):
        convert.of_words("a", "b", "int8", "")
    with pytest.raises(ModelError, match="contains no model"):
        converted(tmp_path / "folder", tmp_path / "out.safetensors")
    with pytest.raises(ModelError, match="contains no model that sdcli supports"):
        converted(tmp_path / "in.safetensors", tmp_path / "out")
    with pytest.raises(ModelError, match="does not exist"):
        converted(tmp_path / "missing.safetensors", tmp_path / "out.safetensors")
    with pytest.raises(ModelError, match="has no original layout") as raised:
        convert.convert(Conversion(Path(description.shipped.BUILTIN), tmp_path / "out.safetensors"), print)
    assert "AutoencoderTiny" in raised.value.why
    header = {"x": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}, "y": {"dtype": "F32", "shape": [0], "data_offsets": [1, 1]}}  # fmt: skip # noqa: E501
    text = json.dumps(header).encode()
    (tmp_path / "new.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0")
    with pytest.raises(ModelError, match="of a type that sdcli does not know: x is F4"):
        converted(tmp_path / "new.safetensors", tmp_path / "out.safetensors")
    assert not list(tmp_path.glob("out*"))
