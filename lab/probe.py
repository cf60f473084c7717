"""The real programs with probes around them, compiled for BPF_PROG_TEST_RUN."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hatch_build import SOURCES, compile_object

HERE = Path(__file__).parent
PASS, DROP, REDIRECT = -1, 2, 7  # TC_ACT_UNSPEC, TC_ACT_SHOT, TC_ACT_REDIRECT


def compile_probe(headers: Path = SOURCES, *options: str, around: str = "probe") -> bytes:
    """Compile the probes around what the programs do. Raises RuntimeError.

    headers: a directory with the headers of src/airtap/bpf.
    around: which probes, "probe" or "bench".
    """
    with TemporaryDirectory() as directory:
        target = Path(directory) / f"{around}.bpf.o"
        compile_object(HERE / f"{around}.bpf.c", target, "-I", str(headers), *options)
        return target.read_bytes()
