"""Compile src/airtap/bpf/*.bpf.c with clang, for hatchling and for make.

A wheel also gets xml-templates/, into the package; an editable install finds it in the tree.

The objects stand beside their sources, so that an editable install finds them where a wheel has
them. As a program (python3 hatch_build.py) this compiles what is older than its source.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import (  # type: ignore[import-not-found]
        BuildHookInterface,
    )
except ImportError:  # run by make, outside a build
    BuildHookInterface = object

SOURCES = Path(__file__).resolve().parent / "src/airtap/bpf"


class BpfBuildHook(BuildHookInterface):  # type: ignore[misc]
    """Named by [tool.hatch.build.hooks.custom]; the objects are artifacts in pyproject.toml."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        compile_stale()
        if self.target_name == "wheel" and version != "editable":
            build_data["force_include"]["xml-templates"] = "airtap/xml-templates"


def compile_stale() -> None:
    """Compile every source that is newer than its object, or a header is. Raises RuntimeError."""
    headers = [header.stat().st_mtime for header in SOURCES.glob("*.h")]
    for source in sorted(SOURCES.glob("*.bpf.c")):
        target = source.with_suffix(".o")
        newest = max(source.stat().st_mtime, *headers)
        if not target.exists() or target.stat().st_mtime <= newest:
            compile_object(source, target)


def compile_object(source: Path, target: Path, *options: str) -> None:
    """Compile one source; a target that exists is replaced whole. Raises RuntimeError."""
    partial = target.with_suffix(".o.part")
    # -mcpu=v3: atomic operations that return a value, in every kernel since 5.12. The multiarch
    # directory has the asm/types.h that clang does not look for when it compiles for BPF.
    multiarch = sysconfig.get_config_var("MULTIARCH")
    includes = ["-I", f"/usr/include/{multiarch}"] if multiarch else []
    endian = "bpfel" if sys.byteorder == "little" else "bpfeb"
    argv = [
        *("clang", "-target", endian, "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"),
        *(f"-ffile-prefix-map={source.parent}=.", "-fdebug-compilation-dir=.", *includes),
        *(*options, "-c", str(source), "-o", str(partial)),
    ]
    try:
        subprocess.run(argv, check=True, text=True, capture_output=True)
    except FileNotFoundError as exc:
        raise RuntimeError("clang is needed to compile the BPF programs") from exc
    except subprocess.CalledProcessError as exc:
        raise RuntimeError(f"{source.name}: {exc.stderr}") from exc
    partial.replace(target)


if __name__ == "__main__":
    compile_stale()
