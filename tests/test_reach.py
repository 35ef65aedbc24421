"""The `[reach]` table of a target file: what each kind takes, and the line for each mistake."""

from pathlib import Path

import pytest

from qsearch.errors import QsearchError
from qsearch.reach import CommandReach, EmulatedReach, LocalReach, RpcReach
from qsearch.target import load_target

BOARD = """name = "board"
arch = "aarch64"
cpu = "any"
features = ["asimd"]
threads = 4
"""


def read(folder: Path, reach: str) -> object:
    path = folder / "board.toml"
    path.write_text(f"{BOARD}[reach]\n{reach}\n")
    return load_target(path).reach


def test_every_kind(tmp_path: Path) -> None:
    assert read(tmp_path, "") == LocalReach()
    ssh = read(tmp_path, 'kind = "command"\ncopy = "scp {source} pi:{destination}"\nrun = "ssh pi {command}"')
    assert isinstance(ssh, CommandReach)
    assert (ssh.copy_command, ssh.folder, ssh.retries) == ("scp {source} pi:{destination}", "/tmp/qsearch", 0)
    rpc = read(tmp_path, 'kind = "rpc"\nkey = "pi"\ntimeout_s = 5')
    assert isinstance(rpc, RpcReach)
    assert (rpc.tracker, rpc.timeout_s, rpc.emulator) == ("127.0.0.1:9190", 5.0, None)
    emulated = read(tmp_path, 'kind = "emulated"\ncpu = "cortex-a53"')
    assert isinstance(emulated, EmulatedReach)
    assert emulated.cpu == "cortex-a53"


@pytest.mark.parametrize(
    ("reach", "words"),
    [
        ('kind = "telepathy"', "reach.kind: unknown kind: choose from local, command, rpc, emulated"),
        ('kind = "rpc"', "reach.key: Field required"),
        ('kind = "rpc"\nkey = "two words"', "reach.key: "),
        ('kind = "rpc"\nkey = "pi"\ntracker = "nowhere"', "reach.tracker: "),
        ('kind = "local"\nkey = "pi"', "reach.key: unknown key"),
        ("timeout_s = 0", "reach.timeout_s: "),
        ('kind = "command"\nrun = "ssh pi {command}"', "reach.copy: Field required"),
        (
            'kind = "command"\ncopy = "scp {source} pi:"\nrun = "ssh pi {command}"',
            "reach.copy: must name {destination}",
        ),
        (
            'kind = "command"\ncopy = "cp {source} {destination}"\nrun = "ssh \' {command}"',
            "reach.run: is not a command",
        ),
        ('kind = "emulated"\ncpu = "max; reboot"', "reach.cpu: "),
    ],
)
def test_mistakes(tmp_path: Path, reach: str, words: str) -> None:
    with pytest.raises(QsearchError) as caught:
        read(tmp_path, reach)
    assert words in str(caught.value)
    assert str(tmp_path / "board.toml") in str(caught.value)
