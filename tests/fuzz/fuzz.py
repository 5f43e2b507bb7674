"""Fuzz the readers of strangers' files with atheris, guided by coverage: `make fuzz`.

    .venv/bin/python tests/fuzz/fuzz.py [TARGET ...] [--seconds 600]

The time is shared among the targets. A finding, which is an input that raises anything but
UserError, takes more than two seconds or two gigabytes, is written to tests/fuzz/findings; the
tests run every file there. The exit code is 1 where there is a finding.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

SECONDS_PER_INPUT, MEGABYTES = 5, 3072  # of a machine that may be busy


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if options.child:
        fuzz(options.targets[0], rest)
    from fuzz_targets import FINDINGS, TARGETS

    names = options.targets or list(TARGETS)
    FINDINGS.mkdir(exist_ok=True)
    failed = []
    for name in names:
        with tempfile.TemporaryDirectory() as corpus:
            for number, seed in enumerate(TARGETS[name].seeds()):
                Path(corpus, f"seed{number}").write_bytes(seed)
            limits = [
                f"-max_total_time={options.seconds // len(names)}",
                f"-timeout={SECONDS_PER_INPUT}",
                f"-rss_limit_mb={MEGABYTES}",
                f"-artifact_prefix={FINDINGS / name}-",
                "-max_len=65536",
                "-verbosity=0",
                "-print_final_stats=1",
            ]
            command = [sys.executable, __file__, name, "--child", *limits, corpus]
            print(f"{name}: {options.seconds // len(names)} s", flush=True)
            if subprocess.run(command, check=False).returncode:
                failed.append(name)
    print(f"findings: {', '.join(failed)}" if failed else "no finding")
    return 1 if failed else 0


def fuzz(name: str, flags: list[str]) -> None:
    """Fuzz one target in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["resnets", "PIL", "pickletools", "zipfile"]):
        from fuzz_targets import TARGETS
    atheris.Setup([sys.argv[0], *flags], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    raise SystemExit(main())
