"""Checks deploy/: the manifests against Kubernetes' schemas, the alerts with promtool.

promtool is looked up in PROMTOOL, PATH and build/promtool; without it the script prints that its checks are skipped.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MANIFESTS = ROOT / "deploy" / "kubernetes"
PROMETHEUS = ROOT / "deploy" / "prometheus"
KUBERNETES_VERSIONS = ("1.31", "1.34", "1.37")
"""The oldest supported version, and newer ones."""


def main() -> int:
    """Runs all checks; returns the exit code."""
    return max(check_manifests(), check_prometheus())


def check_manifests() -> int:
    """Validates every manifest; unknown fields are errors."""
    files = sorted(str(path) for path in MANIFESTS.glob("*.yaml") if path.name != "kustomization.yaml")
    validator = Path(sys.executable).with_name("kubernetes-validate")
    for version in KUBERNETES_VERSIONS:
        done = subprocess.run([validator, "--strict", "--quiet", "-k", version, *files], check=False)
        if done.returncode:
            print(f"deploy/kubernetes does not fit Kubernetes {version}", file=sys.stderr)
            return 1
    print(f"deploy/kubernetes: {len(files)} files fit Kubernetes {', '.join(KUBERNETES_VERSIONS)}")
    return 0


def promtool() -> str | None:
    """The path of promtool, or None."""
    built = ROOT / "build" / "promtool"
    return os.environ.get("PROMTOOL") or shutil.which("promtool") or (str(built) if built.is_file() else None)


def check_prometheus() -> int:
    """Checks the configuration and runs the unit tests of the alerts."""
    program = promtool()
    if program is None:
        print("deploy/prometheus: SKIPPED without promtool ('make promtool' fetches Debian's)", file=sys.stderr)
        return 0
    for arguments in (["check", "config", "prometheus.yaml"], ["test", "rules", "alerts.test.yaml"]):
        done = subprocess.run([program, *arguments], cwd=PROMETHEUS, check=False, capture_output=True, text=True)
        if done.returncode:
            print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
            return 1
    print("deploy/prometheus: configuration and tests of the alerts pass")
    return 0


if __name__ == "__main__":
    sys.exit(main())
