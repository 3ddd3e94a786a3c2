"""Configuration: TOML, variables, the YAML of checkpoints, and the JSON of model folders."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from sdcli import configuration, jobs
from sdcli.errors import ModelError, SdcliError
from sdcli.model_spec import ModelSpec
from sdcli.models import checkpoint_config, families, shipped
from sdcli.models.sources.folder import FolderModel
from sdcli.settings import Settings, spellings
from tests.fuzz.inputs import ANY_JSON, NUMBERS, changed, damaged, json_text
from tests.fuzz.program import run

TOML = [
    'prompt = "a"\nsteps = 30\nplms = true\noutdir = "x"\n', 'scale = 7.5\n# a\nnegative_prompt = """a\nb"""\n',
    '[a]\nb = 1\n', 'from-file = "~/a.txt"\nckpt = "a.ckpt"\nconfig = "a.yaml"\n', "H = 512\nW = 512\nseed = 0x10\n",
    "sampler = 'plms'\nddim_eta = 0.5\nn_iter = 1_0\n", *(f"{name} = 1\n" for name in spellings()),
]  # fmt: skip
TOML_PIECES = [
    "[" * 20_000, "{a=" * 20_000, "9" * 5000, '"', "'''", '"""', "=", "\n", "\r", ".", "[[a]]\n", "1979-05-27", "inf",
    "nan", "\0", '"\\u0000"', '"\\ud800"', "true", "[1]", "{}", "\ufeff", "a.b", "~", '"~nosuchuser/x"', "#", "\x1b",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configuration")


@st.composite
def toml(draw: Callable[..., Any]) -> bytes:
    """A settings file: with any value of the right form, or with damage."""
    if draw(st.booleans()):
        entries = draw(st.dictionaries(st.sampled_from(sorted(spellings())), ANY_JSON, max_size=4))
        return "".join(f"{name} = {json_text(value)}\n" for name, value in entries.items()).encode(errors="replace")
    return str(draw(damaged(TOML, TOML_PIECES))).encode(errors="replace")


@given(data=toml())
@example(b"prompt = " + b"[" * 10_000)
@example(b"a." * 10_000 + b"a = 1")
@example(b"seed = " + b"9" * 5000)
@example(b'outdir = "\\u0000"')
@example(b'ckpt = "' + b"x" * 300 + b'"')
@example(b'ckpt = "~nosuchuser/x"')
@example(b'from_file = "~/\\u0000"')
@example(b'model = "\\u0000"')
@example(b"prompt = [\n" + b'"a",\n' * 10_000 + b"]\n")
@example(b'prompt = """' + b"a\n" * 10_000 + b'"""\n')
@example(b"# a\n" * 100_000)
@example(b"scale = nan\n")
@example(b'from_file = "\\u007f"\n')
@example(b"seed = 1979-05-27\n")
def test_any_settings_file_is_read(folder: Path, data: bytes) -> None:
    path = folder / "sdcli.toml"
    path.write_bytes(data)
    run("config", "--config-file", str(path))
    run("config", "--json", "--config-file", str(path))
    with suppress(SdcliError):
        Settings.of(**{name: one.value for name, one in configuration.read_file(path, "config file").items()})


# What a variable can have: no zero, and halves of characters only as Python reads bytes of another encoding.
ENVIRONMENT_TEXT = st.text(st.characters(exclude_characters="\0") | st.sampled_from("\udc80\udcff"), max_size=20)
VARIABLES = st.sampled_from([f"SDCLI_{name.upper()}" for name in spellings()]) | ENVIRONMENT_TEXT.map("SDCLI_{}".format)


@given(environment=st.dictionaries(VARIABLES, ENVIRONMENT_TEXT | NUMBERS.map(str), max_size=3))
@example({"SDCLI_SEED": "9" * 5000})
@example({"SDCLI_PROMPT": "\udcff"})
def test_any_environment_is_read(folder: Path, environment: dict[str, str]) -> None:
    with suppress(SdcliError):
        configuration.load(environment=environment)


def check(spec: ModelSpec) -> None:
    """Check that a model can be planned with: its sizes are sizes, and its schedule gives noise."""
    for side in (spec.downscale, spec.size_multiple, spec.latent_channels, spec.default_height, spec.default_width):
        assert side > 0
    with suppress(SdcliError):
        height, width = jobs.size(Settings.of(), spec)
        assert 0 < height < 2**20
        assert 0 < width < 2**20
    assert spec.schedule.num_train_timesteps > 0


SHIPPED = sorted(shipped.configs().rglob("*.yaml"))
YAML = [path.read_text() for path in SHIPPED]
YAML_VALUES = [yaml.safe_load(text) for text in YAML]
YAML_PIECES = [
    "[" * 10_000, "{a: " * 5_000, "&a ", "*a", "- ", ": ", "\n", "  ", "!!python/object:a ", "9" * 5000, ".inf", ".nan",
    "null", "~", "\0", "\t", "? ", "---\n", "!!binary a", "<<: *a\n", "1e999", "-1", "0", "2001-01-01", "0x", "|\n",
]  # fmt: skip


@st.composite
def model_yaml(draw: Callable[..., Any]) -> bytes:
    """A configuration that ships with sdcli, with changes."""
    if draw(st.booleans()):
        return json_text(draw(changed(YAML_VALUES))).encode()
    return str(draw(damaged(YAML, YAML_PIECES))).encode(errors="replace")


@given(data=model_yaml())
@example(b"[" * 2_000)
@example(b"{a: " * 2_000)
@example(b"a: " + b"9" * 5000)
@example(b"a: &a [x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]\n")
@example(b"a: 2001-99-99\n")
@example(b"a: !!binary \xff\n")
@example(b"? [a]\n: b\n")
@example(b"- *a\n")
@example(b"a: 1\n" * 10_000)
def test_any_yaml_is_read(folder: Path, data: bytes) -> None:
    path = folder / "model.yaml"
    path.write_bytes(data)
    with suppress(ModelError):
        config = checkpoint_config.read(path)
        check(checkpoint_config.spec_of(config, "a.ckpt"))
        families.get(checkpoint_config.family_of(config)).text_folder(config, path)


MODEL: dict[str, Any] = {
    "model_index.json": {
        "_class_name": "StableDiffusionPipeline", "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    },
    "unet/config.json": {"in_channels": 4, "out_channels": 4, "block_out_channels": [32, 64], "sample_size": 64},
    "vae/config.json": {
        "latent_channels": 4, "block_out_channels": [32, 64], "scaling_factor": 0.18,
        "decoder_block_out_channels": None, "upsampling_scaling_factor": 2, "shift_factor": None,
    },
    "text_encoder/config.json": {"max_position_embeddings": 77, "vocab_size": 100, "num_hidden_layers": 2},
    "scheduler/scheduler_config.json": {
        "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
        "num_train_timesteps": 1000, "set_alpha_to_one": False, "steps_offset": 1, "trained_betas": None,
        "prediction_type": "epsilon", "timestep_spacing": "leading", "rescale_betas_zero_snr": False,
    },
}  # fmt: skip
WEIGHTS = (
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
)


@given(
    files=changed([MODEL]), torn=st.none() | st.tuples(st.sampled_from(sorted(MODEL)), damaged([b"{}", b'{"a": 1}']))
)
@example(MODEL, None)
@example(MODEL | {"unet/config.json": MODEL["unet/config.json"] | {"sample_size": [1]}}, None)
@example(MODEL | {"unet/config.json": MODEL["unet/config.json"] | {"sample_size": 10**9}}, None)
@example(MODEL | {"unet/config.json": MODEL["unet/config.json"] | {"sample_size": 0}}, None)
@example(MODEL | {"vae/config.json": MODEL["vae/config.json"] | {"upsampling_scaling_factor": 0}}, None)
@example(MODEL | {"vae/config.json": MODEL["vae/config.json"] | {"upsampling_scaling_factor": -1}}, None)
@example(MODEL | {"scheduler/scheduler_config.json": {"_class_name": "PNDMScheduler", "num_train_timesteps": 0}}, None)
@example(MODEL | {"scheduler/scheduler_config.json": {"_class_name": "PNDMScheduler", "beta_start": -1}}, None)
@example(MODEL | {"model_index.json": MODEL["model_index.json"] | {"tokenizer": None}}, None)
@example(MODEL | {"model_index.json": MODEL["model_index.json"] | {"tokenizer": []}}, None)
@example(MODEL, ("model_index.json", b"[" * 100_000))
@example(MODEL, ("unet/config.json", b"\xff"))
def test_any_model_folder_is_read(folder: Path, files: dict[str, Any], torn: tuple[str, bytes] | None) -> None:
    model = folder / "model"
    for name in MODEL:
        path = model / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if name in files:
            path.write_text(json_text(files[name]))
    if torn:
        (model / torn[0]).write_bytes(torn[1])
    for name in WEIGHTS:
        (model / name).touch()
    with suppress(ModelError):
        check(FolderModel.read(model, name="model").spec)
