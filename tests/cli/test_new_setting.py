"""A new setting is one line of the table of settings: everything that lists settings then has it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sdcli.jobs import key
from sdcli.settings import Settings
from tests.jobs import job
from tests.plugins.package import Package, Result, completion, sdcli

IMAGE_LINE = (
    '    noise_octaves: int = option(1, "--noise-octaves", scope="image", panel=SAMPLING, metavar="N", least=1, '
    'help="Octaves of the noise.")'
)
FILE_LINE = (
    '    sharpness: float = option(0.0, "--sharpness", scope="file", panel=OUTPUT, metavar="X", least=0, '
    'help="How much to sharpen the file.")'
)


def add_setting(package: Package, line: str, before: str) -> None:
    """Add a line to the table of settings, before another one."""
    lines = (package.folder / "sdcli/settings.py").read_text().splitlines()
    (place,) = (number for number, other in enumerate(lines) if other.startswith(before))
    package.add_line("settings.py", place, line)


LISTS = """
import json, sys

from sdcli.cli.reference import table
from sdcli.configuration import load, template
from sdcli.errors import UsageError
from sdcli.jobs import Job, key
from sdcli.metadata import a1111, provenance
from sdcli.outputs import names
from sdcli.outputs.command import command_line
from sdcli.prompts.files import row_settings
from sdcli.records import ImageRecord, Keys, recorded_settings
from sdcli.rerun import changes_by_name
from sdcli.settings import Settings

old = Job.model_validate_json(sys.argv[1])
new = old.model_copy(update={"noise_octaves": 2})
sharp = Settings.of(sharpness=0.5)
try:
    Settings.of(noise_octaves=0)
    refused = ""
except UsageError as error:
    refused = str(error)
print(json.dumps({
    "table": table(),
    "template": template(),
    "job": new.model_dump(mode="json"),
    "keys": [key(old, Settings()), key(new, Settings()), key(old, sharp)],
    "old keys": [Keys(Settings()).next(old).old, Keys(Settings()).next(new).old, Keys(sharp).next(old).old],
    "parameters": [a1111.write(old), a1111.write(new)],
    "read": dict(a1111.read({"parameters": a1111.write(new)}).settings),
    "fields": names.fields(),
    "command": command_line(new, sharp),
    "row": row_settings({"prompt": "a cat", "--noise-octaves": 2}),
    "environment": load({}, environment={"SDCLI_NOISE_OCTAVES": "2"}).settings.noise_octaves,
    "changes": changes_by_name({"noise-octaves": "2", "sharpness": "1"}),
    "recorded": recorded_settings(sharp),
    "refused": refused,
}))
"""


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the package says with a setting of an image and one of a file, without running its command line."""
    package = Package(tmp_path_factory.mktemp("package"))
    add_setting(package, IMAGE_LINE, "    height: int")
    add_setting(package, FILE_LINE, "    format: str")
    assert package.lines == {"settings.py": 2}
    assert package.added == []
    listed: dict[str, Any] = json.loads(package.run(LISTS, job().model_dump_json()))
    return listed


class TestLists:
    """The lists of settings, from one process that generates nothing."""

    @pytest.mark.parametrize(
        ("flag", "default", "help_text"),
        [
            ("--noise-octaves", "1", "Octaves of the noise."),
            ("--sharpness", "0.0", "How much to sharpen the file."),
        ],
    )
    def test_documentation(self, lists: dict[str, Any], flag: str, default: str, help_text: str) -> None:
        assert f"| `{flag}` | `{default}` | {help_text} |" in lists["table"]
        assert f"# {help_text}\n# {flag[2:].replace('-', '_')} = {default}" in lists["template"]

    def test_job_and_names_of_files(self, lists: dict[str, Any]) -> None:
        assert lists["job"]["noise_octaves"] == 2
        assert "sharpness" not in lists["job"]
        assert "noise_octaves" in lists["fields"]

    def test_identity(self, lists: dict[str, Any]) -> None:
        """A default changes no key, and another value does."""
        default, image, file = lists["keys"]
        assert default == key(job(), Settings())
        assert len({default, image, file}) == 3

    def test_identity_of_schema_1(self, lists: dict[str, Any]) -> None:
        """Runs of version 0.1 are resumed with the default only."""
        default, *changed = lists["old keys"]
        assert default is not None
        assert changed == [None, None]

    def test_parameters_text(self, lists: dict[str, Any]) -> None:
        default, changed = lists["parameters"]
        assert "Noise octaves" not in default
        assert ", Noise octaves: 2, " in changed
        assert lists["read"]["noise_octaves"] == 2

    def test_command(self, lists: dict[str, Any]) -> None:
        assert " --noise-octaves 2" in lists["command"]
        assert " --sharpness 0.5" in lists["command"]

    def test_sources_of_values(self, lists: dict[str, Any]) -> None:
        assert lists["row"] == {"prompt": "a cat", "noise_octaves": 2}
        assert lists["environment"] == 2
        assert lists["changes"] == {"noise_octaves": "2", "sharpness": "1"}
        assert lists["recorded"] == {"sharpness": 0.5}

    def test_range(self, lists: dict[str, Any]) -> None:
        assert lists["refused"].startswith("--noise-octaves 0 is out of range")


@dataclass(frozen=True)
class Session:
    """Commands of the package with the line, in a folder where the package without it began a run."""

    folder: Path
    results: dict[str, Result]

    def json(self, command: str) -> list[dict[str, Any]]:
        """The lines of JSON that a command printed."""
        return [json.loads(line) for line in self.results[command].stdout.splitlines()]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Every command of the tests below."""
    folder = tmp_path_factory.mktemp("session")
    before = Package(tmp_path_factory.mktemp("before"))
    small = ["--steps", 1, "--n_samples", 1, "--n_iter", 1, "--skip-grid", "--safety-checker", "off", "--offline"]
    old = ["txt2img", "--prompt", "a red apple", *small, "--outdir", "old"]
    new = ["txt2img", "--prompt", "a red apple", *small, "--outdir", "new"]
    before.commands(folder, begin=sdcli(*old))

    after = Package(tmp_path_factory.mktemp("after"))
    add_setting(after, IMAGE_LINE, "    height: int")
    assert after.lines == {"settings.py": 1}
    rows = [{"prompt": "a cat", "noise_octaves": 2}, {"prompt": "a dog", "noise-octaves": 2}, {"prompt": "a fish"}]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "rows.csv").write_text("prompt,noise_octaves\na cat,2\na dog,3\n")
    (folder / "settings.toml").write_text("noise_octaves = 2\n")
    dry = ["txt2img", "--dry-run", "--json", "--offline", "--n_samples", 3, "--n_iter", 1]
    image = "new/samples/2-42.png"
    results = after.commands(
        folder,
        resume=sdcli(*old, "--resume"),
        other_value=sdcli(*old, "--resume", "--noise-octaves", 2, "--dry-run", "--json"),
        generate=sdcli(*new, "--noise-octaves", 2, "--gallery", "--json", "--output-name", "{noise_octaves}-{seed}"),
        rerun=sdcli("rerun", image, "--set", "noise_octaves=3", "--json", "--outdir", "again"),
        inspect=sdcli("inspect", image, COLUMNS="200"),
        inspect_json=sdcli("inspect", "--json", image),
        inspect_command=sdcli("inspect", "--command", image),
        help=sdcli("txt2img", "--help", COLUMNS="200"),
        completion=completion("sdcli txt2img --noise-o"),
        flag=sdcli(*dry, "--noise-octaves", 2),
        json_lines=sdcli(*dry, "--from-file", "rows.jsonl"),
        csv=sdcli(*dry, "--from-file", "rows.csv"),
        toml=sdcli(*dry, "--config-file", "settings.toml"),
        environment=sdcli(*dry, SDCLI_NOISE_OCTAVES="2"),
        config=sdcli("config", "--all", SDCLI_NOISE_OCTAVES="2", COLUMNS="200"),
    )
    return Session(folder, results)


@pytest.mark.slow
class TestCommandLine:
    """The setting on the command line."""

    def test_help_and_completion(self, session: Session) -> None:
        text = session.results["help"].stdout
        assert "--noise-octaves" in text
        assert "Octaves of the noise." in text
        assert session.results["completion"].stdout.split() == ["--noise-octaves"]

    @pytest.mark.parametrize("source", ["flag", "toml", "environment"])
    def test_sources_of_a_run(self, session: Session, source: str) -> None:
        assert [line["job"]["noise_octaves"] for line in session.json(source)] == [2, 2, 2]

    def test_rows(self, session: Session) -> None:
        """Rows set it, and a batch has one value."""
        for source, values, sizes in (("json_lines", [2, 2, 1], [2, 2, 1]), ("csv", [2, 3], [1, 1])):
            jobs = [line["job"] for line in session.json(source)]
            assert [job["noise_octaves"] for job in jobs] == values
            assert [job["noise"]["rows"] for job in jobs] == sizes

    def test_config(self, session: Session) -> None:
        rows = [line.split() for line in session.results["config"].stdout.splitlines()]
        assert ["noise_octaves", "2", "SDCLI_NOISE_OCTAVES"] in rows

    def test_record_and_name_of_the_file(self, session: Session) -> None:
        (record,) = session.json("generate")
        assert record["file"] == "new/samples/2-42.png"
        assert record["job"]["noise_octaves"] == 2

    def test_inspect(self, session: Session) -> None:
        assert ["Noise", "octaves", "2"] in [line.split() for line in session.results["inspect"].stdout.splitlines()]
        (inspected,) = session.json("inspect_json")
        assert inspected["settings"]["noise_octaves"] == 2
        assert " --noise-octaves 2" in session.results["inspect_command"].stdout

    def test_rerun(self, session: Session) -> None:
        (record,) = session.json("rerun")
        assert record["job"]["noise_octaves"] == 3

    def test_gallery(self, session: Session) -> None:
        page = (session.folder / "new/gallery-0000.html").read_text()
        assert "<dt>noise octaves</dt><dd>2</dd>" in page
        assert "--noise-octaves 2" in page

    def test_an_older_run_is_resumed_without_generating(self, session: Session) -> None:
        resumed = session.results["resume"]
        assert "the image exists; nothing to generate" in resumed.stderr
        assert resumed.stdout == ""
        assert [path.name for path in (session.folder / "old/samples").iterdir()] == ["00000.png"]
        (forecast,) = session.json("other_value")
        assert forecast["there"] is False
