"""Compiled kernels on disk: built once per kernel, instruction set, target, TVM version and kernel source."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import tvm
from tvm import tirx
from tvm.target import Target
from tvm.tirx import transform
from tvm.tirx.compilation_pipeline import finalize_device_passes, finalize_host_passes

from qsearch.compile import kernels, portable, threads
from qsearch.compile import link as zig
from qsearch.compile.specs import KernelSpec
from qsearch.errors import QsearchError

OBJECT = "kernel.o"
LIBRARY = "kernel.so"
SOURCE = "kernel.c"
_CHECKSUMS = "checksums.json"
_PIPELINE = "qsearch"
_Made = TypeVar("_Made")


@transform.prim_func_pass(opt_level=0)
def _registers(function: tirx.PrimFunc, module: tvm.IRModule, context: Any) -> tirx.PrimFunc:
    """Keeps local buffers on the stack, where LLVM turns them into registers; the heap it must write to."""

    def kept(statement: Any) -> Any:
        if isinstance(statement, tirx.SeqStmt):
            return tirx.SeqStmt([kept(part) for part in statement.seq])
        if isinstance(statement, tirx.For) and statement.kind == tirx.ForKind.PARALLEL:
            loop = statement
            return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, kept(loop.body))
        if isinstance(statement, tirx.AllocBuffer) and statement.buffer.scope() == "local":
            return tirx.AllocBuffer(statement.buffer, {"disable_lower_builtin": tirx.IntImm("bool", 1)})
        return statement

    return function.with_body(kept(function.body))


def pipeline() -> tuple[Any, Any, Any]:
    """The passes that hand-written loops need: TVM's default pipeline has three dozen, and takes twice as long."""
    passes = [
        transform.FlattenBuffer(),
        transform.StorageRewrite(),  # moves buffers out of loops
        _registers,
        transform.StmtSimplify(),
        transform.SplitHostDevice(),
        transform.MakePackedAPI(),
    ]
    return tvm.ir.transform.Sequential(passes), finalize_host_passes, finalize_device_passes


tirx.register_tir_pipeline(_PIPELINE, pipeline)


def default_folder() -> Path:
    """Where kernels are kept unless told otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qsearch" / "kernels"


def kernel_object(spec: KernelSpec, isa: str, target: Mapping[str, Any], folder: Path | None = None) -> Path:
    """The object file of a kernel for an LLVM `target` (a TVM target as a dict), built if it is not there.

    It defines `__tvm_ffi_<spec.symbol>`. Raises `QsearchError` when the folder cannot be written.
    """
    return _entry(spec, isa, target, folder or default_folder(), link=False) / OBJECT


def kernel_objects(
    specs: Iterable[KernelSpec], isa: str, target: Mapping[str, Any], folder: Path | None = None
) -> list[Path]:
    """`kernel_object` of several kernels, built on all processors."""
    return _on_all_processors(lambda spec: kernel_object(spec, isa, target, folder), specs)


def host_kernels(specs: Iterable[KernelSpec], isa: str, folder: Path | None = None) -> list[Any]:
    """`host_kernel` of several kernels, built on all processors."""
    return _on_all_processors(lambda spec: host_kernel(spec, isa, folder), specs)


def _on_all_processors(make: Callable[[KernelSpec], _Made], specs: Iterable[KernelSpec]) -> list[_Made]:
    wanted = list(specs)
    different = list(dict.fromkeys(wanted))
    # LLVM compiles without Python's lock.
    with ThreadPoolExecutor(threads.available()) as pool:
        made = dict(zip(different, pool.map(make, different), strict=True))
    return [made[spec] for spec in wanted]


def host_kernel(spec: KernelSpec, isa: str, folder: Path | None = None) -> Any:
    """The callable kernel of `spec` on this machine, built if it is not there; loaded once per process."""
    return _load(spec, isa, folder or default_folder())


@cache
def _load(spec: KernelSpec, isa: str, folder: Path) -> Any:
    library = _entry(spec, isa, kernels.host_target(isa), folder, link=True) / LIBRARY
    return tvm.runtime.load_module(str(library))[spec.symbol]


def _entry(spec: KernelSpec, isa: str, target: Mapping[str, Any], folder: Path, link: bool) -> Path:
    entry = folder / f"{spec.symbol}-{isa}-{_key(spec, isa, target, link)}"
    if _intact(entry):
        return entry
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".building-"))
        try:
            kernel = kernel_object(spec, isa, target, folder) if link else None
            _build(spec, isa, target, temporary, kernel)
            _publish(temporary, entry)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise QsearchError(f"cannot write the kernel cache {folder}: {error.strerror or error}") from error
    return entry


def _publish(temporary: Path, entry: Path) -> None:
    """Renames a finished folder to `entry`, unless another process did so first; a damaged one makes room."""
    while True:
        try:
            os.rename(temporary, entry)
            return
        except OSError:
            if not entry.exists():
                raise
        if _intact(entry):
            return
        damaged = Path(tempfile.mkdtemp(dir=entry.parent, prefix=".damaged-"))
        try:
            os.rename(entry, damaged / entry.name)
        except FileNotFoundError:
            pass  # another process removed it
        finally:
            shutil.rmtree(damaged, ignore_errors=True)


def _intact(entry: Path) -> bool:
    try:
        checksums: dict[str, str] = json.loads((entry / _CHECKSUMS).read_text())
        return all(_digest((entry / name).read_bytes()) == digest for name, digest in checksums.items())
    except (OSError, ValueError, AttributeError):
        return False


def compile_module(module: tvm.IRModule, target: Mapping[str, Any], passes: str = _PIPELINE) -> Any:
    """The TVM runtime module of hand-written kernels, in memory; `passes` names a registered TIR pipeline."""
    # Argument checks would double the code; plans hand over buffers of the right shapes.
    with tvm.transform.PassContext(config={"tirx.disable_assert": True}):
        return tirx.build(module, target=Target(dict(target)), pipeline=passes)


def _build(spec: KernelSpec, isa: str, target: Mapping[str, Any], folder: Path, kernel: Path | None) -> None:
    """Writes the object of a kernel to `folder`, or where there is one, `kernel`, the library of it."""
    name = LIBRARY if kernel else OBJECT
    if kernel:
        _link(kernel, folder)
    elif isa == portable.ISA:
        (folder / SOURCE).write_text(portable.source(spec))
        include = (Path(str(portable.FOLDER)), Path(__file__).parent / "runtime")
        zig.compile_c(SOURCE, target["mtriple"], folder, *include, options=("-O3", "-ffp-contract=off"))
    else:
        module = tvm.IRModule({spec.symbol: kernels.prim_func(spec, isa)})
        compile_module(module, target).write_to_file(str(folder / OBJECT), "o")
    (folder / _CHECKSUMS).write_text(json.dumps({name: _digest((folder / name).read_bytes())}))


def _link(kernel: Path, folder: Path) -> None:
    zig.run_zig(["ld.lld", "-shared", str(kernel.resolve()), "-o", LIBRARY], folder)


def _key(spec: KernelSpec, isa: str, target: Mapping[str, Any], link: bool) -> str:
    parts = [repr(spec), isa, json.dumps(target, sort_keys=True), tvm.__version__, str(link), source_digest()]
    return _digest("\n".join(parts).encode())[:20]


@cache
def source_digest() -> str:
    """Changes with everything that the machine code of kernels depends on."""
    here = Path(__file__).parent
    files = [Path(__file__), here / "specs.py", *sorted(here.glob("kernels/*.py")), *sorted(here.glob("portable/*.*"))]
    return _digest(b"".join(file.read_bytes() for file in files))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
