"""Does requirements.lock serve every Python and machine that is let in? `make lock`; writes docs/results/lock.json.

pip is asked, without installing anything, for the files of each pin on that Python and platform; then every requirement of
every one of them, by its markers there, has to be met by a pin.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.results import PROJECT, note

LOCK = PROJECT / "requirements.lock"
PYTHONS = ("3.11", "3.12", "3.13")
# Machine -> pip's names of platforms, and what markers ask of it.
MACHINES = {
    "Linux x86-64": (
        [f"manylinux{v}_x86_64" for v in ("_2_34", "_2_28", "_2_27", "_2_17", "2014", "_2_5", "1")],
        {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"},
    ),
    "macOS arm64": (
        [f"macosx_{version}_0_arm64" for version in (14, 13, 12, 11)],
        {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64", "os_name": "posix"},
    ),
}
# Published without a wheel: pure Python, built where it is installed.
SOURCES = ("antlr4-python3-runtime", "rouge-score", "word2number", "sqlitedict")


def found(python: str, platforms: list[str]) -> tuple[list[dict[str, Any]], str]:
    """(pip's report of every pin, '' or what pip could not find)."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        how = ["--dry-run", "--ignore-installed", "--no-deps", "--target", folder, "--report", str(report)]
        where = [f"--platform={name}" for name in [*platforms, "any"]]
        wheels = ["--only-binary=:all:", f"--no-binary={','.join(SOURCES)}"]
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--quiet",
            *how,
            *where,
            *wheels,
        ]
        done = subprocess.run(
            [*command, f"--python-version={python}", "--implementation=cp", "-r", str(LOCK)],
            capture_output=True,
            text=True,
            check=False,
        )
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        return (json.loads(report.read_text())["install"], "") if not done.returncode else ([], " ".join(errors)[:500])


def unmet(files: list[dict[str, Any]], environment: dict[str, str]) -> tuple[list[str], list[str]]:
    """(requirements that a pin contradicts, names of packages that are no pin), by the markers of `environment`."""
    pins = {canonicalize_name(f["metadata"]["name"]): f["metadata"]["version"] for f in files}
    # An extra counts where another package asks for it.
    wrong, beside, seen, pending = set(), set(), set(), [(name, "") for name in pins]
    requirements = {canonicalize_name(f["metadata"]["name"]): f["metadata"].get("requires_dist", []) for f in files}
    while pending:
        if (one := pending.pop()) in seen:
            continue
        seen.add(one)
        name, extra = one
        for requirement in map(Requirement, requirements[name]):
            if requirement.marker and not requirement.marker.evaluate({**environment, "extra": extra}):
                continue
            needed = canonicalize_name(requirement.name)
            if needed not in pins:
                beside.add(needed)
            elif not requirement.specifier.contains(pins[needed], prereleases=True):
                wrong.add(f"{name} wants {requirement}, the lock has {pins[needed]}")
            else:
                pending += [(needed, wanted) for wanted in requirement.extras]
    return sorted(wrong), sorted(beside)


def main() -> int:
    pins, bad = sum("==" in line for line in LOCK.read_text().splitlines()), 0
    for machine, (platforms, markers) in MACHINES.items():
        for python in PYTHONS:
            files, problem = found(python, platforms)
            version = {"python_version": python, "python_full_version": f"{python}.0", "implementation_name": "cpython"}
            wrong, beside = unmet(files, {**markers, **version, "platform_python_implementation": "CPython"})
            row = {"packages": len(files), "wrong": [problem] * bool(problem) + wrong, "beside_the_lock": beside}
            bad += bool(row["wrong"]) or len(files) != pins
            note("lock", key=("python", "machine"), command="make lock", python=python, machine=machine, **row)
            print(
                f"Python {python} on {machine}: {len(files)} of {pins} packages, {len(wrong)} contradictions",
                flush=True,
            )
            print("".join(f"  {line}\n" for line in row["wrong"]) + f"  not in the lock: {', '.join(beside) or 'none'}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
