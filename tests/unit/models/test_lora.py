"""LoRA files of every layout, made here with random tensors, change a small model as plain arithmetic says."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import lora_conversion_utils, single_file_utils
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from sdcli.errors import ModelError
from sdcli.models.adapters import layouts
from sdcli.models.adapters.lora import Adapted, LoraFile, Use
from sdcli.models.model import Model
from tests.unit.pipeline.toy_model import SPEC

Tensors = dict[str, torch.Tensor]

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
OUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
CONV = "down_blocks.0.resnets.0.conv1"
POINT = "down_blocks.0.attentions.0.proj_in"
CLIP = "encoder.layers.0.self_attn.q_proj"
MLP = "encoder.layers.0.mlp.fc1"
RANK = 2


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, cross_attention_dim=16, attention_head_dim=4,
        norm_num_groups=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    config = CLIPTextConfig(
        vocab_size=99, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    text_encoder = CLIPTextModel(config)
    spec = SPEC.model_copy(update={"text_width": 16})
    return Model(spec, None, text_encoder.eval(), unet.eval(), None, torch.device("cpu"))


@pytest.fixture
def adapted(model: Model) -> Iterator[Adapted]:
    before = weights(model)
    adapted = Adapted(model)
    yield adapted
    adapted.restore()
    assert all(torch.equal(before[name], weight) for name, weight in weights(model).items())


def weights(model: Model) -> Tensors:
    return {
        f"{part}.{name}": weight.detach().clone()
        for part in ("unet", "text_encoder")
        for name, weight in getattr(model, part).named_parameters()
    }


def weight_of(model: Model, layer: str) -> torch.Tensor:
    part = model.text_encoder if layer in (CLIP, MLP) else model.unet
    weight: torch.Tensor = part.get_submodule(layer).weight.detach().clone()
    return weight


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def pair(weight: torch.Tensor, rank: int = RANK) -> tuple[torch.Tensor, torch.Tensor]:
    """The two matrices of LoRA: up and down."""
    outputs, inputs, *kernel = weight.shape
    return random(outputs, rank, *[1] * len(kernel)), random(rank, inputs, *kernel)


def product(up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    return (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])


def write(folder: Path, tensors: Tensors, name: str = "style.safetensors", **metadata: str) -> LoraFile:
    path = folder / name
    if path.suffix == ".safetensors":
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata or None)
    else:
        torch.save(tensors, path)
    return LoraFile.read(path)


def kohya(layer: str) -> str:
    if layer in (CLIP, MLP):
        return f"lora_te_text_model_{layer.replace('.', '_')}"
    return f"lora_unet_{layer.replace('.', '_')}"


LAYERS = (ATTENTION, OUT, POINT, CONV, CLIP, MLP)


def in_kohya(layer: str, up: torch.Tensor, down: torch.Tensor) -> Tensors:
    return {f"{kohya(layer)}.lora_up.weight": up, f"{kohya(layer)}.lora_down.weight": down}


def in_diffusers(layer: str, up: torch.Tensor, down: torch.Tensor) -> Tensors:
    root = f"text_encoder.text_model.{layer}" if layer in (CLIP, MLP) else f"unet.{layer}"
    return {f"{root}.lora.up.weight": up, f"{root}.lora.down.weight": down}


def in_old_diffusers(layer: str, up: torch.Tensor, down: torch.Tensor) -> Tensors:
    if layer in (CLIP, MLP):
        root = f"text_encoder.text_model.{layer.replace('q_proj', 'to_q')}"
        end = "_lora" if layer == CLIP else ".lora_linear_layer"
    else:
        attention = "attn" in layer.rsplit(".", 2)[-2] or layer == OUT
        root, end = f"unet.{layer.removesuffix('.0')}", "_lora" if attention else ".lora"
        root = root.replace("attn1.", "attn1.processor.").replace("attn2.", "attn2.processor.")
    return {f"{root}{end}.up.weight": up, f"{root}{end}.down.weight": down}


def in_peft(layer: str, up: torch.Tensor, down: torch.Tensor) -> Tensors:
    root = f"base_model.model.text_model.{layer}" if layer in (CLIP, MLP) else f"base_model.model.{layer}"
    return {f"{root}.lora_B.weight": up, f"{root}.lora_A.weight": down}


def in_original_names(layer: str, up: torch.Tensor, down: torch.Tensor) -> Tensors:
    names = {
        ATTENTION: "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k",
        OUT: "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_out.0",
        POINT: "lora_unet_input_blocks_1_1_proj_in", CONV: "lora_unet_input_blocks_1_0_in_layers_2",
    }  # fmt: skip
    root = names.get(layer, kohya(layer))
    return {f"{root}.lora_up.weight": up, f"{root}.lora_down.weight": down}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("layout", [in_kohya, in_diffusers, in_old_diffusers, in_peft, in_original_names])
def test_lora_adds_the_product_of_its_matrices(
    model: Model, adapted: Adapted, tmp_path: Path, layout: Callable[..., Tensors], suffix: str
) -> None:
    before = {layer: weight_of(model, layer) for layer in LAYERS}
    pairs = {layer: pair(weight) for layer, weight in before.items()}
    tensors = {name: each for layer, two in pairs.items() for name, each in layout(layer, *two).items()}
    file = write(tmp_path, tensors, f"style{suffix}")
    assert adapted.use([Use(file, 0.8, 0.5)]) == []
    for layer, (up, down) in pairs.items():
        strength = 0.5 if layer in (CLIP, MLP) else 0.8
        torch.testing.assert_close(weight_of(model, layer), before[layer] + strength * product(up, down))
    changed = [name for name, weight in weights(model).items() if not torch.equal(weight, _of(before, model, name))]
    assert len(changed) == len(LAYERS)


def _of(before: Tensors, model: Model, name: str) -> torch.Tensor:
    layer = name.split(".", 1)[1].removesuffix(".weight")
    part = getattr(model, name.split(".", 1)[0])
    return before[layer] if layer in before and name.endswith(".weight") else part.get_parameter(name.split(".", 1)[1])


def test_alpha_divided_by_the_rank_is_the_scale(model: Model, adapted: Adapted, tmp_path: Path) -> None:
    before = weight_of(model, CONV)
    up, down = pair(before, rank=4)
    file = write(tmp_path, in_kohya(CONV, up, down) | {f"{kohya(CONV)}.alpha": torch.tensor(1.0)})
    adapted.use([Use(file)])
    torch.testing.assert_close(weight_of(model, CONV), before + product(up, down) / 4)


@pytest.mark.parametrize(
    ("fields", "scale"),
    [
        ({"unet.lora_alpha": 8, "unet.r": 4}, 2.0),
        ({"unet.lora_alpha": 8, "unet.use_rslora": True}, 4.0),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn2.to_k": 2}}, 0.5),
        ({"unet.lora_alpha": "8"}, 1.0),
    ],
)
def test_alpha_in_the_metadata_of_diffusers(
    model: Model, adapted: Adapted, tmp_path: Path, fields: Mapping[str, Any], scale: float
) -> None:
    before = weight_of(model, ATTENTION)
    up, down = pair(before, rank=4)
    file = write(tmp_path, in_diffusers(ATTENTION, up, down), lora_adapter_metadata=json.dumps(fields))
    adapted.use([Use(file)])
    torch.testing.assert_close(weight_of(model, ATTENTION), before + scale * product(up, down))


def test_alpha_in_the_configuration_of_peft(model: Model, adapted: Adapted, tmp_path: Path) -> None:
    before = weight_of(model, ATTENTION)
    up, down = pair(before, rank=4)
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 2, "r": 4}')
    file = write(tmp_path, in_peft(ATTENTION, up, down), "adapter_model.safetensors")
    adapted.use([Use(file)])
    torch.testing.assert_close(weight_of(model, ATTENTION), before + product(up, down) / 2)


def test_tucker_decomposition_of_a_convolution(model: Model, adapted: Adapted, tmp_path: Path) -> None:
    before = weight_of(model, CONV)
    up, mid, down = random(8, RANK, 1, 1), random(RANK, RANK, 3, 3), random(RANK, 8, 1, 1)
    file = write(tmp_path, in_kohya(CONV, up, down) | {f"{kohya(CONV)}.lora_mid.weight": mid})
    adapted.use([Use(file)])
    pixels = random(1, 8, 5, 5)
    conv = torch.nn.functional.conv2d
    expected = conv(pixels, before) + conv(conv(conv(pixels, down), mid), up)
    torch.testing.assert_close(conv(pixels, weight_of(model, CONV)), expected, rtol=1e-4, atol=1e-4)


def test_loha_multiplies_two_products(model: Model, adapted: Adapted, tmp_path: Path) -> None:
    before = {layer: weight_of(model, layer) for layer in (ATTENTION, CONV)}
    tensors, expected = {}, {}
    for layer, weight in before.items():
        inputs = weight.flatten(1).shape[1]
        a1, b1, a2, b2 = random(8, RANK), random(RANK, inputs), random(8, RANK) + 1, random(RANK, inputs) - 1
        roles = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2, "alpha": torch.tensor(1.0)}
        tensors |= {f"{kohya(layer)}.{role}": tensor for role, tensor in roles.items()}
        expected[layer] = weight + ((a1 @ b1) * (a2 @ b2)).reshape(weight.shape) / RANK
    adapted.use([Use(write(tmp_path, tensors))])
    for layer, weight in expected.items():
        torch.testing.assert_close(weight_of(model, layer), weight)


def test_loha_with_tucker_decompositions(model: Model, adapted: Adapted, tmp_path: Path) -> None:
    before = weight_of(model, CONV)
    roles: Tensors = {}
    products = []
    for number in (1, 2):
        a, b, core = random(RANK, 8) + number, random(RANK, 8) - number, random(RANK, RANK, 3, 3) * number
        roles |= {f"hada_w{number}_a": a, f"hada_w{number}_b": b, f"hada_t{number}": core}
        products.append(sum(
            core[i, j] * a[i][:, None, None, None] * b[j][None, :, None, None] for i in range(RANK) for j in range(RANK)
        ))  # fmt: skip
    file = write(tmp_path, {f"{kohya(CONV)}.{role}": tensor for role, tensor in roles.items()})
    adapted.use([Use(file)])
    torch.testing.assert_close(weight_of(model, CONV), before + products[0] * products[1])


@pytest.mark.parametrize("parts", [("w1", "w2"), ("w1_a", "w1_b", "w2"), ("w1", "w2_a", "w2_b")])
@pytest.mark.parametrize("layer", [ATTENTION, CONV])
def test_lokr_is_a_kronecker_product(
    model: Model, adapted: Adapted, tmp_path: Path, layer: str, parts: tuple[str, ...]
) -> None:
    before = weight_of(model, layer)
    _, inputs, *kernel = before.shape
    inner = [inputs // 2, *kernel]
    roles: Tensors = {"lokr_w1": random(4, 2), "lokr_w2": random(2, *inner)}
    if "w1_a" in parts:
        roles |= {"lokr_w1_a": random(4, 1), "lokr_w1_b": random(1, 2)}
        roles["lokr_w1"] = roles["lokr_w1_a"] @ roles["lokr_w1_b"]
    if "w2_a" in parts:
        roles |= {"lokr_w2_a": random(2, 1), "lokr_w2_b": random(1, torch.Size(inner).numel())}
        roles["lokr_w2"] = (roles["lokr_w2_a"] @ roles["lokr_w2_b"]).reshape(2, *inner)
    # Two whole matrices have no rank, so alpha does not count.
    scale = 1.0 if parts == ("w1", "w2") else 0.5
    expected = before.clone()
    for i in range(4):
        for j in range(2):
            block = expected[2 * i : 2 * i + 2, inner[0] * j : inner[0] * (j + 1)]
            block += scale * roles["lokr_w1"][i, j] * roles["lokr_w2"]
    written = {f"{kohya(layer)}.lokr_{part}": roles[f"lokr_{part}"] for part in parts}
    adapted.use([Use(write(tmp_path, written | {f"{kohya(layer)}.alpha": torch.tensor(0.5)}))])
    torch.testing.assert_close(weight_of(model, layer), expected)


@pytest.mark.parametrize("layer", [ATTENTION, CONV])
@pytest.mark.parametrize("by", ["outputs", "inputs", "peft"])
def test_dora_gives_the_changed_weight_a_length(
    model: Model, adapted: Adapted, tmp_path: Path, layer: str, by: str
) -> None:
    before = weight_of(model, layer)
    up, down = pair(before)
    merged = before + product(up, down)
    # Outputs and inputs of the convolution are as many: there the shape of the file's tensor decides.
    axis = 1 if by == "inputs" else 0
    lengths = merged.transpose(0, axis).flatten(1).norm(dim=1)
    magnitude = random(len(lengths)).abs() + 1
    shape = [1] * merged.ndim
    shape[axis] = -1
    expected = merged * (magnitude / lengths).reshape(shape)
    if by == "peft":
        name = f"base_model.model.{layer}.lora_magnitude_vector"
        tensors = in_peft(layer, up, down) | {
            name: magnitude.reshape(-1) if layer == ATTENTION else magnitude[None, :, None, None]
        }
    else:
        tensors = in_kohya(layer, up, down) | {f"{kohya(layer)}.dora_scale": magnitude.reshape(shape)}
    file = write(tmp_path, tensors)
    adapted.use([Use(file)])
    torch.testing.assert_close(weight_of(model, layer), expected, rtol=1e-4, atol=1e-5)
    adapted.use([Use(file, 0.5)])
    torch.testing.assert_close(weight_of(model, layer), (before + expected) / 2, rtol=1e-4, atol=1e-5)


def test_differences_of_weights_biases_and_norms(model: Model, adapted: Adapted, tmp_path: Path) -> None:
    conv, norm = model.unet.get_submodule(CONV), model.unet.get_submodule("conv_norm_out")
    before = [each.detach().clone() for each in (conv.weight, conv.bias, norm.weight, norm.bias)]
    changes = [random(*each.shape) for each in before]
    names = (f"{kohya(CONV)}.diff", f"{kohya(CONV)}.diff_b", "lora_unet_out_0.w_norm", "lora_unet_out_0.b_norm")
    adapted.use([Use(write(tmp_path, dict(zip(names, changes, strict=True))))])
    for old, change, new in zip(before, changes, (conv.weight, conv.bias, norm.weight, norm.bias), strict=True):
        torch.testing.assert_close(new.detach(), old + change)


@pytest.mark.parametrize("layers", ["attention", "and feed-forward"])
@pytest.mark.parametrize("container", ["list", "safetensors"])
def test_numbered_layers_of_cloneofsimo(
    model: Model, adapted: Adapted, tmp_path: Path, container: str, layers: str
) -> None:
    # diffusers had the feed-forward network between the two attentions, and the middle block last.
    blocks = [
        "down_blocks.0.attentions.0", "up_blocks.1.attentions.0", "up_blocks.1.attentions.1", "mid_block.attentions.0",
    ]  # fmt: skip
    attention = ["to_q", "to_k", "to_v", "to_out.0"]
    inner = [f"attn1.{name}" for name in attention] + ["ff.net.0.proj"] * (layers != "attention")
    inner += [f"attn2.{name}" for name in attention]
    order = [f"{block}.transformer_blocks.0.{name}" for block in blocks for name in inner]
    before = [weight_of(model, layer) for layer in order]
    pairs = [tuple(each + number for each in pair(weight)) for number, weight in enumerate(before)]
    if container == "list":
        path = tmp_path / "lora_weight.pt"
        torch.save([each for two in pairs for each in two], path)
        file = LoraFile.read(path)
    else:
        file = write(tmp_path, {
            f"unet:{number}:{side}": two[side == "down"]
            for number, two in enumerate(pairs) for side in ("up", "down")
        })  # fmt: skip
    assert adapted.use([Use(file)]) == []
    for layer, weight, two in zip(order, before, pairs, strict=True):
        torch.testing.assert_close(weight_of(model, layer), weight + product(*two))


def test_numbered_layers_of_the_text_encoder(model: Model, adapted: Adapted, tmp_path: Path) -> None:
    order = [f"encoder.layers.0.self_attn.{name}_proj" for name in ("k", "v", "q", "out")]
    pairs = [(random(16, RANK) + number, random(RANK, 16)) for number in range(4)]
    torch.save([each for two in pairs for each in two], tmp_path / "lora_weight.text_encoder.pt")
    before = [model.text_encoder.get_submodule(layer).weight.detach().clone() for layer in order]
    adapted.use([Use(LoraFile.read(tmp_path / "lora_weight.text_encoder.pt"))])
    for layer, weight, two in zip(order, before, pairs, strict=True):
        torch.testing.assert_close(model.text_encoder.get_submodule(layer).weight.detach(), weight + product(*two))


def test_no_strength_changes_nothing_and_two_files_add_up(model: Model, adapted: Adapted, tmp_path: Path) -> None:
    before = weight_of(model, ATTENTION), weight_of(model, CLIP)
    one = write(tmp_path, in_kohya(ATTENTION, *pair(before[0])), "one.safetensors")
    both = in_kohya(ATTENTION, *pair(before[0], 3)) | in_kohya(CLIP, *pair(before[1]))
    two = write(tmp_path, both, "two.safetensors")
    everything = weights(model)
    adapted.use([Use(one, 0, 0), Use(two, 0, 0)])
    assert all(torch.equal(everything[name], weight) for name, weight in weights(model).items())
    adapted.use([Use(one, 0.5), Use(two, -1, 2), Use(two, 0.5, 0)])
    expected = before[0] + 0.5 * product(*pair(before[0])) - 0.5 * product(*pair(before[0], 3))
    torch.testing.assert_close(weight_of(model, ATTENTION), expected)
    torch.testing.assert_close(weight_of(model, CLIP), before[1] + 2 * product(*pair(before[1])))


def test_half_precision_is_computed_in_single(model: Model, adapted: Adapted, tmp_path: Path) -> None:
    before = weight_of(model, ATTENTION)
    up, down = (each.half() for each in pair(before))
    adapted.use([Use(write(tmp_path, in_kohya(ATTENTION, up, down)))])
    torch.testing.assert_close(weight_of(model, ATTENTION), before + product(up.float(), down.float()))


def test_what_is_left_over_is_named(model: Model, adapted: Adapted, tmp_path: Path) -> None:
    tensors = in_kohya(CONV, *pair(weight_of(model, CONV))) | {
        "lora_unet_nowhere.lora_up.weight": random(2, 2), "lora_unet_nowhere.lora_down.weight": random(2, 2),
        "<s1>": random(16), f"{kohya(POINT)}.lora_up.weight": random(8, 2),
    }  # fmt: skip
    (note,) = adapted.use([Use(write(tmp_path, tensors))])
    assert "style.safetensors: " in note
    assert "<s1>" in note
    assert f"{kohya(POINT)}.lora_up.weight" in note
    assert "and 1 more" in note


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (
            in_kohya(ATTENTION, random(8, 2), random(2, 2048)),
            "made for Stable Diffusion XL: it takes text embeddings of width 2048, the model's have 16",
        ),
        (
            {"lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": random(8, 2),
             "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": random(2, 8)},
            "made for Flux",
        ),
        (
            {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": random(8, 2),
             "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": random(2, 8)},
            "made for Stable Diffusion XL",
        ),
    ],
)  # fmt: skip
def test_a_file_for_another_model_is_refused_before_the_model_loads(
    model: Model, tmp_path: Path, tensors: Tensors, expected: str
) -> None:
    spec = model.spec.model_copy(update={"text_width": 16})
    file = write(tmp_path, tensors)
    with pytest.raises(ModelError) as error:
        file.require_fit(spec)
    assert expected in error.value.why


def test_a_file_for_stable_diffusion_1_or_flux_is_refused_by_xl_and_one_for_xl_is_not(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"family": "sdxl", "text_width": 2048})
    with pytest.raises(ModelError) as error:
        write(tmp_path, in_kohya(ATTENTION, random(8, 2), random(2, 768))).require_fit(spec)
    assert (
        "made for Stable Diffusion 1: it takes text embeddings of width 768, the model's have 2048" in error.value.why
    )
    assert "a LoRA for Stable Diffusion XL" in error.value.fix
    flux = {"lora_unet_double_blocks_0_x.lora_up.weight": random(8, 2),
            "lora_unet_double_blocks_0_x.lora_down.weight": random(2, 8)}  # fmt: skip
    with pytest.raises(ModelError):
        write(tmp_path, flux).require_fit(spec)
    second = {name.replace("lora_unet_double_blocks_0_x", "lora_te2_text_projection"): each
              for name, each in flux.items()}  # fmt: skip
    for fitting in (second, in_kohya(ATTENTION, random(8, 2), random(2, 2048))):
        write(tmp_path, fitting).require_fit(spec)


def test_a_file_that_does_not_fit_leaves_the_weights(model: Model, adapted: Adapted, tmp_path: Path) -> None:
    good = in_kohya(CONV, *pair(weight_of(model, CONV)))
    for up, expected in (
        (random(7, 2), "it has the shape (7, 16), the model's weight (8, 16)"),
        (random(8, 3), "shapes cannot be multiplied"),
        (random(8, 2) / 0, "not finite"),
    ):
        before = weights(model)
        with pytest.raises(ModelError) as error:
            adapted.use([Use(write(tmp_path, good | in_kohya(ATTENTION, up, random(2, 16))))])
        assert expected in error.value.why
        assert all(torch.equal(before[name], weight) for name, weight in weights(model).items())


def test_a_file_without_layers_of_the_model_is_refused(model: Model, adapted: Adapted, tmp_path: Path) -> None:
    tensors = {"lora_unet_nowhere.lora_up.weight": random(2, 2), "lora_unet_nowhere.lora_down.weight": random(2, 2)}
    with pytest.raises(ModelError, match="does not fit the model m"):
        adapted.use([Use(write(tmp_path, tensors))])


def test_a_file_that_is_no_lora_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a LoRA") as error:
        write(tmp_path, {"emb_params": random(2, 16)})
    assert "a textual inversion" in error.value.why and "--embedding" in error.value.fix


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"lora_unet_a.alpha": Evil()}))
    with pytest.raises(ModelError):
        LoraFile.read(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_names_of_the_original_layout_are_those_that_diffusers_converts() -> None:
    root = Path(__file__).parents[2] / "golden/shapes.json"
    shapes = json.loads(root.read_text())
    prefix = "model.diffusion_model."
    names = [name for name in shapes if name.startswith(prefix)]
    original = {name: torch.tensor([float(number)]) for number, name in enumerate(names)}
    config = {"layers_per_block": 1, "class_embed_type": None, "addition_embed_type": None}
    convert: Any = single_file_utils.convert_ldm_unet_checkpoint
    converted = convert(dict(original), config)
    assert len(converted) > 400
    for name, number in converted.items():
        layer = name.rpartition(".")[0]
        expected = names[int(number)].removeprefix(prefix).rpartition(".")[0]
        assert layouts.flat(expected) in set(layouts.names_of("unet", layer, 1, attention={1, 2, 3})), name


def test_names_of_kohya_for_xl_are_those_that_diffusers_converts() -> None:
    """The layers of the UNet of Stable Diffusion XL, with fewer channels, by their names in the original layout."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(32, 64, 64), down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
            up_block_types=(*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"), transformer_layers_per_block=(1, 2, 10),
            cross_attention_dim=8, attention_head_dim=8, use_linear_projection=True,
        )  # fmt: skip
    names = {}
    for path, module in unet.named_modules():
        if getattr(module, "weight", None) is not None and ("attentions" in path or "upsamplers" in path):
            *_, original = layouts.names_of("unet", path, 2, attention={0, 1})
            names[original] = path
    assert len(names) == 11 * 3 + 70 * 13 + 2
    states = {f"lora_unet_{name}.lora_down.weight": torch.tensor(0) for name in names}
    convert: Any = lora_conversion_utils._maybe_map_sgm_blocks_to_diffusers
    # It maps the numbers, and the words elsewhere.
    words = {"input_blocks": "down_blocks", "middle_block": "mid_block", "output_blocks": "up_blocks"}
    mapped = {re.sub("|".join(words), lambda found: words[found[0]], name) for name in convert(states, unet.config)}
    assert mapped == {f"lora_unet_{layouts.flat(path)}.lora_down.weight" for path in names.values()}
