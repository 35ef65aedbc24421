"""The compiled files of an artefact, from a plan and the objects of its kernels."""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from qsearch.compile import android, glue, link
from qsearch.compile.elf import rename_symbols
from qsearch.compile.plan import Plan
from qsearch.compile.weights import pack_parameters


def build_binaries(
    plan: Plan,
    interface: glue.Interface,
    kernels: Mapping[str, bytes],
    triple: str,
    folder: Path,
    engine: glue.Engine | None = None,
    library_triple: str | None = None,
    traversal: glue.Traversal | None = None,
) -> None:
    """Write the executable, the header, the static library and `params.bin` to `folder`.

    `kernels` are the ELF objects of the plan's kernels by their symbol, `engine` is what calls them (by default the
    linked functions themselves), `traversal` is how images go through them (by default whole or in tiles). `triple` is
    the executable's; the library's may name another C library, but no other architecture.
    """
    name = interface.name
    engine, traversal = engine or glue.LinkedKernels(), traversal or glue.WholeImages()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        block = pack_parameters(plan)
        digest = hashlib.sha256(block.content).hexdigest()
        (work / "params.bin").write_bytes(block.content)
        (work / f"{name}.h").write_text(glue.header(plan, interface, engine, traversal))
        source = glue.network_source(plan, interface, engine, traversal, block.places, digest)
        (work / "network.c").write_text(source)
        (work / "executable.c").write_text(glue.main_source(interface, traversal))
        objects = [
            link.compile_c(
                "network.c", library_triple or triple, work, Path(str(glue.RUNTIME)), options=traversal.options
            )
        ]
        for kernel, code in kernels.items():
            (work / f"{kernel}.o").write_bytes(rename_symbols(code, lambda original: glue.symbol(name, original)))
            objects.append(f"{kernel}.o")
        link.archive(objects, f"lib{name}.a", work)
        main = link.compile_c("executable.c", triple, work, Path(str(glue.RUNTIME)))
        link_executable = android.link_executable if "android" in triple else link.link_executable
        link_executable([main, f"lib{name}.a"], name, triple, work)
        for file in (name, f"{name}.h", f"lib{name}.a", "params.bin"):
            shutil.copy(work / file, folder)
