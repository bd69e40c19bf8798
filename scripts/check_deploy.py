"""Checks deploy/: the manifests against Kubernetes' schemas, the alerts with promtool.

promtool is looked up in PROMTOOL, PATH and build/promtool. CNPG_CRD names the file with the schema of CloudNativePG's
Cluster (config/crd/bases/postgresql.cnpg.io_clusters.yaml of the operator). Without them the script prints that their
checks are skipped.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import yaml

ROOT = Path(__file__).resolve().parent.parent
MANIFESTS = ROOT / "deploy" / "kubernetes"
CLOUDNATIVE_PG = MANIFESTS / "cloudnative-pg"
PROMETHEUS = ROOT / "deploy" / "prometheus"
KUBERNETES_VERSIONS = ("1.31", "1.34", "1.37")
"""The oldest supported version, and newer ones."""


def main() -> int:
    """Runs all checks; returns the exit code."""
    return max(check_manifests(), check_cluster(), check_prometheus())


def check_manifests() -> int:
    """Validates every manifest, and the deployment for CloudNativePG; unknown fields are errors."""
    files = sorted(str(path) for path in MANIFESTS.glob("*.yaml") if path.name != "kustomization.yaml")
    validator = Path(sys.executable).with_name("kubernetes-validate")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as patched:
        yaml.safe_dump(patched_deployment(), patched)
        patched.flush()
        for version in KUBERNETES_VERSIONS:
            command = [str(validator), "--strict", "--quiet", "-k", version, *files, patched.name]
            if subprocess.run(command, check=False).returncode:
                print(f"deploy/kubernetes does not fit Kubernetes {version}", file=sys.stderr)
                return 1
    print(f"deploy/kubernetes: {len(files) + 1} files fit Kubernetes {', '.join(KUBERNETES_VERSIONS)}")
    return 0


def patched_deployment() -> Any:
    """The deployment as `kubectl apply -k deploy/kubernetes/cloudnative-pg` sends it."""
    found = yaml.safe_load((MANIFESTS / "deployment.yaml").read_text())
    for change in yaml.safe_load((CLOUDNATIVE_PG / "deployment.patch.yaml").read_text()):
        *way, last = change["path"].split("/")[1:]
        place = found
        for step in way:
            place = place[int(step) if isinstance(place, list) else step]
        if change["op"] == "add" and last == "-":
            place.append(change["value"])
        elif change["op"] == "replace" and last in place:
            place[last] = change["value"]
        else:
            raise ValueError(f"a patch of another kind: {change}")
    return found


def check_cluster() -> int:
    """Validates the Cluster of CloudNativePG; unknown fields are errors."""
    path = os.environ.get("CNPG_CRD")
    if path is None:
        print("deploy/kubernetes/cloudnative-pg/cluster.yaml: SKIPPED without CNPG_CRD", file=sys.stderr)
        return 0
    [version] = yaml.safe_load(Path(path).read_text())["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    _close(schema)
    cluster = yaml.safe_load((CLOUDNATIVE_PG / "cluster.yaml").read_text())
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(cluster))
    for error in errors:
        print(f"cluster.yaml: {error.json_path}: {error.message}", file=sys.stderr)
    if errors:
        return 1
    print(f"deploy/kubernetes/cloudnative-pg/cluster.yaml fits {path}")
    return 0


def _close(schema: Any) -> None:
    """Makes fields that the schema does not name errors, as the API server does with --validate=strict."""
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            _close(value)
    elif isinstance(schema, list):
        for value in schema:
            _close(value)


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
