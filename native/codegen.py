"""IR text to an object file. The only module that imports llvmlite.

Two settings: "O2", LLVM's own pipeline without vectorizers and unrolling, and "sroa", registers for locals and little
else, for text that is already what it should be. Code is position independent, for the small code model and this CPU.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm

from native.errors import CompileError

__all__ = ["compile_object", "optimized_ir"]

_lock = threading.Lock()


@lru_cache(maxsize=8)
def _target_machine(codegen: int) -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()  # for inline assembly
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=codegen,
        reloc="pic",
        codemodel="small",
    )


def _optimize(module: Any, machine: Any, opt: str) -> None:
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    if opt == "O2":
        builder.getModulePassManager().run(module, builder)
        return
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.add_sroa_pass()
    passes.add_simplify_cfg_pass()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, builder)


def _module(ir: str, opt: str, machine: Any) -> Any:
    try:
        module = llvm.parse_assembly(ir)
        module.verify()
    except RuntimeError as error:
        raise CompileError(f"LLVM does not take this IR: {error}") from None
    module.triple = llvm.get_default_triple()
    module.data_layout = str(machine.target_data)
    _optimize(module, machine, opt)
    return module


def compile_object(ir: str, opt: str, codegen: int) -> bytes:
    """A relocatable ELF object."""
    with _lock:
        machine = _target_machine(codegen)
        return bytes(machine.emit_object(_module(ir, opt, machine)))


def optimized_ir(ir: str, opt: str, codegen: int) -> str:
    """What LLVM makes of the text before it selects instructions: for reading."""
    with _lock:
        return str(_module(ir, opt, _target_machine(codegen)))
