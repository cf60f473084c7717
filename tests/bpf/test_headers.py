"""Each header of the programs can be read, and compiled, by itself."""

from pathlib import Path

import pytest

from hatch_build import SOURCES, compile_object


@pytest.mark.parametrize("header", sorted(path.name for path in SOURCES.glob("*.h")))
def test_a_header_includes_what_it_uses(header: str, tmp_path: Path) -> None:
    source = tmp_path / "one.bpf.c"
    source.write_text(f'#include "{header}"\n')
    compile_object(source, tmp_path / "one.bpf.o", "-Wno-unused-function", "-I", str(SOURCES))
