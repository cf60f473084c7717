"""The real programs with probes around them, compiled for BPF_PROG_TEST_RUN."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hatch_build import SOURCES, compile_object

HERE = Path(__file__).parent
SOURCE = SOURCES / "macnat.bpf.c"
PASS, DROP, REDIRECT = -1, 2, 7  # TC_ACT_UNSPEC, TC_ACT_SHOT, TC_ACT_REDIRECT


def compile_probe(source: Path = SOURCE, *options: str, around: str = "probe") -> bytes:
    """The programs of a source file that is called macnat.bpf.c, and the probes around them.

    around: what is to be around them, "probe" or "bench".
    """
    with TemporaryDirectory() as directory:
        target = Path(directory) / f"{around}.bpf.o"
        includes = ("-I", str(source.parent), "-I", str(SOURCES))
        compile_object(HERE / f"{around}.bpf.c", target, *includes, *options)
        return target.read_bytes()
