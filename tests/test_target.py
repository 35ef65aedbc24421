"""Target files: detection, the schema, and one clear line for every mistake."""

from pathlib import Path

import pytest

from qsearch import target as target_module
from qsearch.errors import QsearchError
from qsearch.host import Host, detect_host
from qsearch.target import KNOWN_FEATURES, list_targets, load_target

GOOD = """
name = "pi5"
arch = "aarch64"
cpu = "Cortex-A76"
features = ["asimd", "asimddp"]
threads = 4
[limits]
memory_bytes = 268435456
max_bits = 8
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "device.toml"
    path.write_text(text)
    return path


def test_host_is_detected() -> None:
    host = load_target("host")
    assert host.arch == detect_host().arch
    assert host.threads >= 1
    assert set(host.features) <= detect_host().features
    assert host.limits.min_bits == 2
    assert host in list_targets()


def test_cpuinfo_of_both_architectures(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(
        "processor\t: 0\nmodel name\t: A CPU @ 2:1\nflags\t\t: avx2 fma\n\nprocessor\t: 1\nmodel name\t: B\n"
    )
    assert detect_host(info).cpu == "A CPU @ 2:1"
    assert detect_host(info).features == {"avx2", "fma"}
    info.write_text("Features\t: fp asimd asimddp\nHardware\t: BCM2712\n")
    assert detect_host(info).cpu == "BCM2712"
    assert "asimddp" in detect_host(info).features
    assert detect_host(tmp_path / "absent").cpu


def test_the_best_instruction_set_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = ((None, "avx512_popcnt"), ("avx512_vpopcntdq", "avx512_vnni"), ("avx512_vnni", "avx_vnni"))
    for removed, isa in (*steps, ("avx_vnni", "avx2"), ("fma", "generic")):
        if removed is None:
            features = KNOWN_FEATURES["x86_64"]
        features = features - {removed}
        found = Host("x86_64", "a CPU", frozenset(features), 8)
        monkeypatch.setattr(target_module, "detect_host", lambda found=found: found)
        assert load_target("host").isa == isa


def test_a_file_of_the_user(tmp_path: Path) -> None:
    found = load_target(write(tmp_path, GOOD))
    assert (found.name, found.threads, found.isa, found.limits.memory_bytes) == ("pi5", 4, "arm_dotprod", 268435456)
    assert found.zig_triple == found.library_triple == "aarch64-linux-musl"


def test_a_weaker_instruction_set_and_another_c_library(tmp_path: Path) -> None:
    text = GOOD.replace("threads = 4", 'threads = 4\nisa = "arm_neon"\nabi = "android"')
    found = load_target(write(tmp_path, text))
    assert found.isa == "arm_neon"
    assert (found.zig_triple, found.library_triple) == ("aarch64-linux-musl", "aarch64-linux-android")
    text = text.replace('"aarch64"', '"armv7"').replace('"asimd", "asimddp"', '"neon"').replace("arm_neon", "generic")
    assert load_target(write(tmp_path, text)).library_triple == "arm-linux-androideabi"
    found = load_target(write(tmp_path, text.replace('"android"', '"glibc"').replace('isa = "generic"', "")))
    assert (found.isa, found.zig_triple) == ("armv7_neon", "arm-linux-gnueabihf")


def test_shipped_targets() -> None:
    isas = {target.name: target.isa for target in list_targets() if target.name != "host" and not target.gpu}
    assert isas == {
        "x86-64-v3": "avx2",
        "intel-n100": "avx_vnni",
        "raspberry-pi-2": "armv7_neon",
        "raspberry-pi-3": "arm_neon",
        "raspberry-pi-4": "arm_neon",
        "raspberry-pi-5": "arm_dotprod",
        "cortex-a53": "arm_neon",
        "cortex-a72": "arm_neon",
        "cortex-a76": "arm_dotprod",
        "cortex-x1": "arm_dotprod",
        "cortex-x2": "arm_i8mm",
    }
    assert all(target.source for target in list_targets() if target.name != "host")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("threads = 4", "threads = 4\ncolour = 1", "colour: unknown key"),
        ("max_bits = 8", "max_bit = 8", "limits.max_bit: unknown key"),
        ("threads = 4", "threads = 0", "threads: "),
        ("threads = 4", 'threads = "many"', "threads: "),
        ("threads = 4", "", "threads: Field required"),
        ("max_bits = 8", "max_bits = 9", "limits.max_bits: "),
        ("max_bits = 8", "max_bits = 3\nmin_bits = 4", "limits: min_bits 4 is above max_bits 3"),
        ("memory_bytes = 268435456", "memory_bytes = -1", "limits.memory_bytes: "),
        ('"asimddp"', '"avx2"', "unknown CPU feature 'avx2' for aarch64"),
        ('"aarch64"', '"mips"', "arch: "),
        ('"pi5"', '"a pi"', "name: "),
        ("[limits]", '[reach]\nkind = "carrier pigeon"\n[limits]', "reach.kind: "),
        ("threads = 4", 'threads = 4\nisa = "arm_i8mm"', "needs CPU features that are not listed: i8mm"),
        ("threads = 4", 'threads = 4\nisa = "avx2"', "'avx2' is not one of aarch64: those are arm_i8mm"),
        ("threads = 4", 'threads = 4\nisa = "neon"', "isa: "),
        ("threads = 4", 'threads = 4\nabi = "uclibc"', "abi: "),
        ('["asimd", "asimddp"]', "[]", "every kernel for aarch64 needs CPU feature 'asimd'"),
        ('arch = "aarch64"', 'arch = "armv7"', "unknown CPU feature 'asimd' for armv7"),
        ("threads = 4", "threads = ", "not valid TOML"),
        ('features = ["asimd", "asimddp"]', 'features = "all"', "features: "),
    ],
)
def test_a_mistake_names_file_and_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(QsearchError) as caught:
        load_target(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value).strip()


def test_detecting_another_architecture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module, "detect_host", lambda: Host("x86_64", "a CPU", frozenset(), 2))
    path = write(tmp_path, GOOD.replace('["asimd", "asimddp"]', '"detect"'))
    with pytest.raises(QsearchError, match="cannot detect features of aarch64 on this x86_64"):
        load_target(path)


def test_missing_files_and_names(tmp_path: Path) -> None:
    with pytest.raises(QsearchError, match=r"absent\.toml: No such file"):
        load_target(tmp_path / "absent.toml")
    with pytest.raises(QsearchError, match=r"known are .*host"):
        load_target("toaster")
