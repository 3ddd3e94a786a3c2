"""The output folder: the original's numbers, and nothing ever overwritten or half there."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sdcli.errors import OutputError
from sdcli.outputs.folder import OutputFolder


def test_names_begin_at_what_the_folder_holds(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "out")
    assert folder.save_sample(b"a") == tmp_path / "out/samples/00000.png"
    assert folder.save_sample(b"b") == tmp_path / "out/samples/00001.png"
    assert folder.save_grid(b"c") == tmp_path / "out/grid-0000.png"
    again = OutputFolder(tmp_path / "out")
    assert again.save_sample(b"d") == tmp_path / "out/samples/00002.png"
    assert again.save_grid(b"e") == tmp_path / "out/grid-0001.png"


def test_numbers_go_on_over_formats(tmp_path: Path) -> None:
    OutputFolder(tmp_path).save_sample(b"a")
    folder = OutputFolder(tmp_path, ".webp")
    assert folder.save_sample(b"b").name == "00001.webp"
    assert folder.save_grid(b"c").name == "grid-0000.webp"


def test_other_entries_count_as_in_the_original_and_hidden_ones_do_not(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden").touch()
    (tmp_path / "samples/x.jpg").touch()
    (tmp_path / "samples/.sdcli-1").touch()
    folder = OutputFolder(tmp_path)
    assert folder.save_sample(b"a").name == "00001.png"
    assert folder.save_grid(b"a").name == "grid-0001.png"


def test_a_gap_never_leads_to_overwriting(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    for data in (b"a", b"b", b"c"):
        folder.save_sample(data)
    (tmp_path / "samples/00000.png").unlink()
    assert OutputFolder(tmp_path).save_sample(b"new").name == "00003.png"
    assert (tmp_path / "samples/00002.png").read_bytes() == b"c"


@pytest.mark.parametrize("links", [True, False])
def test_many_at_once_never_share_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:

        def no_links(*_: object) -> None:
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", no_links)

    def write(who: int) -> list[tuple[Path, bytes]]:
        folder = OutputFolder(tmp_path)
        return [(folder.save_sample(data), data) for data in (b"%d-%d" % (who, n) for n in range(20))]

    with ThreadPoolExecutor(8) as pool:
        written = [entry for entries in pool.map(write, range(8)) for entry in entries]
    assert len({path for path, _ in written}) == 160
    assert all(path.read_bytes() == data for path, data in written)
    assert len(list((tmp_path / "samples").iterdir())) == 160, "nothing is left lying about"


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = OutputFolder(tmp_path)
    folder.save_sample(b"kept")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError) as caught:
        folder.save_sample(b"lost")
    assert caught.value.exit_code == 7
    assert "Free some space" in caught.value.fix
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["00000.png"]


def test_an_outdir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        OutputFolder(tmp_path / "file")
