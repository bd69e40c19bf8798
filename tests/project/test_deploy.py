"""The files that run the service elsewhere. No container engine is needed: they are read."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict

from holdsvc import addresses, durations, settings, variables
from holdsvc.process import workforce
from scripts import check_deploy
from tests.support.metrics import labels_by_name

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def dockerfile() -> list[str]:
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_compose_waits_for_a_healthy_database_and_service(compose: Any) -> None:
    services = compose["services"]
    assert services["database"]["image"].startswith("postgres:18")
    assert "pg_isready" in services["database"]["healthcheck"]["test"]
    assert services["holdsvc"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert services["first-key"]["depends_on"] == {"holdsvc": {"condition": "service_healthy"}}
    assert services["database"]["volumes"][0].split(":")[0] in compose["volumes"]


def test_compose_starts_the_service_with_settings_that_it_accepts(
    compose: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = compose["services"]["holdsvc"]["environment"]
    for name in variables.shown(settings.Settings.model_construct()):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    loaded = settings.Settings.load()
    assert loaded.auth == "api-key"
    assert not addresses.is_loopback(loaded.listen)
    assert loaded.dsn.get_secret_value().startswith("postgresql://")


def test_deployments_name_only_settings_that_there_are() -> None:
    for name in ("compose.yaml", "Dockerfile", "Makefile"):
        named = set(re.findall(r"HOLDSVC_[A-Z_]+[A-Z]", (ROOT / name).read_text()))
        assert variables.unknown_names(dict.fromkeys(named, "")) == [], name


def test_compose_makes_a_key_with_scopes_only_when_asked(compose: Any) -> None:
    first_key = compose["services"]["first-key"]
    assert first_key["profiles"] == ["setup"]
    assert first_key["command"][:2] == ["keys", "create"]


def test_the_image_runs_as_a_user_of_its_own_and_hears_signals_itself(dockerfile: list[str]) -> None:
    final = dockerfile[[number for number, line in enumerate(dockerfile) if line.startswith("FROM ")][-1] :]
    assert "USER 10001:10001" in final
    assert "STOPSIGNAL SIGTERM" in final
    assert 'ENTRYPOINT ["holdsvc"]' in final
    assert any(line.startswith("HEALTHCHECK ") and line.endswith('CMD ["holdsvc", "health"]') for line in final)


def test_what_the_image_copies_exists_and_reaches_the_builder(dockerfile: list[str]) -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = [
        source
        for line in dockerfile
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    assert set(sources) == allowed
    assert all((ROOT / source).exists() for source in sources)


def test_base_and_server_packages_all_have_exact_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {
        re.sub(r"[-_.]+", "-", line.split("==")[0]).lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    wanted = [
        *project["dependencies"],
        *(need for extra in project["optional-dependencies"].values() for need in extra),
    ]
    for need in wanted:
        name = re.split(r"[\[<>=!~; ]", need)[0]
        assert re.sub(r"[-_.]+", "-", name).lower() in pins, need


PROMETHEUS = ROOT / "deploy" / "prometheus"
KUBERNETES = ROOT / "deploy" / "kubernetes"
CLOUDNATIVE_PG = KUBERNETES / "cloudnative-pg"


@pytest.fixture(scope="module")
def alerts() -> list[dict[str, Any]]:
    rules = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())
    return [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]


def test_each_alert_has_a_section_of_the_runbook_and_a_test(alerts: list[dict[str, Any]]) -> None:
    tests = (PROMETHEUS / "alerts.test.yaml").read_text()
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    names = [alert["alert"] for alert in alerts]
    assert headings == names
    for alert in alerts:
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert alert["annotations"]["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"
        assert alert["alert"] in tests or alert["alert"].startswith("HoldsvcFailing"), alert["alert"]


def test_prometheus_scrapes_where_compose_serves_the_metrics(compose: Any) -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yaml").read_text())
    [job] = config["scrape_configs"]
    port = compose["services"]["holdsvc"]["environment"]["HOLDSVC_METRICS_LISTEN"].rpartition(":")[2]
    assert job["job_name"] == "holdsvc"
    assert job["static_configs"] == [{"targets": [f"holdsvc:{port}"]}]
    assert {*config["rule_files"]} == {"alerts.yaml"}


def test_alerts_of_every_severity_go_to_an_alertmanager_that_compose_runs(compose: Any) -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yaml").read_text())
    [group] = config["alerting"]["alertmanagers"][0]["static_configs"]
    [target] = group["targets"]
    service, _, port = target.partition(":")
    assert f"127.0.0.1:{port}:{port}" in compose["services"][service]["ports"]
    routing = yaml.safe_load((PROMETHEUS / "alertmanager.yaml").read_text())
    receivers = {receiver["name"] for receiver in routing["receivers"]}
    rules = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"]
    severities = {rule["labels"]["severity"] for group in rules for rule in group["rules"] if "alert" in rule}
    assert (
        severities == receivers == {routing["route"]["receiver"], *(r["receiver"] for r in routing["route"]["routes"])}
    )


def test_compose_gives_prometheus_and_grafana_the_files_that_they_name(compose: Any) -> None:
    for name in ("prometheus", "alertmanager", "grafana"):
        service = compose["services"][name]
        assert service["profiles"] == ["monitoring"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (ROOT / source).is_dir() if source.startswith(".") else source in compose["volumes"]
    grafana = ROOT / "deploy" / "grafana"
    [source] = yaml.safe_load((grafana / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    [provider] = yaml.safe_load((grafana / "provisioning/dashboards/holdsvc.yaml").read_text())["providers"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in compose["services"]["grafana"]["volumes"]


def test_the_dashboard_is_whole() -> None:
    board = json.loads((ROOT / "deploy/grafana/dashboards/holdsvc.json").read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    variables = {variable["name"] for variable in board["templating"]["list"]} | {"__rate_interval"}
    recorded = set(re.findall(r"record: (\S+)", (PROMETHEUS / "alerts.yaml").read_text()))
    for panel in panels:
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert set(re.findall(r"\$\{?(\w+)", target["expr"])) <= variables, panel["title"]
            assert set(re.findall(r"\bholdsvc:[\w:]+", target["expr"])) <= recorded, panel["title"]
            assert re.search(r'job=(?:"holdsvc"|~"holdsvc\.\*")', target["expr"]), panel["title"]
    taken = {(x, y) for p in board["panels"] for x in _span(p, "x", "w") for y in _span(p, "y", "h")}
    assert len(taken) == sum(p["gridPos"]["w"] * p["gridPos"]["h"] for p in board["panels"]), "panels overlap"


def _span(panel: dict[str, Any], start: str, length: str) -> range:
    position = panel["gridPos"]
    return range(position[start], position[start] + position[length])


def test_every_metric_of_the_domain_is_on_the_dashboard() -> None:
    text = (ROOT / "deploy/grafana/dashboards/holdsvc.json").read_text()
    missing = {
        name.removesuffix("_bucket")
        for name in labels_by_name()
        if not name.endswith(("_sum", "_count")) and name.removesuffix("_bucket") not in text
    }
    assert missing == set()


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    found = {}
    for path in sorted(KUBERNETES.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            found[f"{document['kind']}/{document.get('metadata', {}).get('name', '')}"] = document
    return found


@pytest.fixture(scope="module")
def container(manifests: dict[str, Any]) -> Any:
    [container] = manifests["Deployment/holdsvc"]["spec"]["template"]["spec"]["containers"]
    return container


def test_the_kustomization_names_every_manifest_but_the_example() -> None:
    named = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    there = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml", "secret.example.yaml"}
    assert set(named) == there
    assert len(named) == len(there)


def test_all_selectors_find_the_pods(manifests: dict[str, Any]) -> None:
    deployment = manifests["Deployment/holdsvc"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"].items() <= labels.items()
    assert manifests["PodDisruptionBudget/holdsvc"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert manifests["NetworkPolicy/holdsvc"]["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    for name in ("Service/holdsvc", "Service/holdsvc-headless"):
        assert manifests[name]["spec"]["selector"].items() <= labels.items()
    assert manifests["HorizontalPodAutoscaler/holdsvc"]["spec"]["scaleTargetRef"]["name"] == "holdsvc"
    assert "replicas" not in deployment, "it would fight the autoscaler"


def test_ports_probes_and_settings_agree(manifests: dict[str, Any], container: Any) -> None:
    settings_map = manifests["ConfigMap/holdsvc"]["data"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert settings_map["HOLDSVC_LISTEN"] == f"0.0.0.0:{ports['grpc']}"
    assert settings_map["HOLDSVC_METRICS_LISTEN"] == f"0.0.0.0:{ports['metrics']}"
    assert container["livenessProbe"]["grpc"] == {"port": ports["grpc"], "service": "liveness"}
    assert container["startupProbe"]["grpc"] == {"port": ports["grpc"], "service": "liveness"}
    assert container["readinessProbe"]["grpc"] == {"port": ports["grpc"]}
    for rule in manifests["NetworkPolicy/holdsvc"]["spec"]["ingress"]:
        assert {port["port"] for port in rule["ports"]} <= set(ports)
    annotations = manifests["Deployment/holdsvc"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["metrics"])


def test_a_pod_gets_time_to_drain(manifests: dict[str, Any], container: Any) -> None:
    pod = manifests["Deployment/holdsvc"]["spec"]["template"]["spec"]
    grace = durations.parse_duration(manifests["ConfigMap/holdsvc"]["data"]["HOLDSVC_DRAIN_GRACE"]).total_seconds()
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > before + grace + workforce.KILL_AFTER_S


def test_a_pod_may_do_nothing_that_it_needs_not(
    manifests: dict[str, Any], container: Any, dockerfile: list[str]
) -> None:
    pod = manifests["Deployment/holdsvc"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    user = pod["securityContext"]["runAsUser"]
    assert f"USER {user}:{pod['securityContext']['runAsGroup']}" in dockerfile
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} == set(container["resources"]["limits"]) == set(container["resources"]["requests"])
    # The metrics of the workers lie in a temporary folder.
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]  # noqa: S108 - inside the pod


def test_the_pods_settings_are_ones_that_the_service_accepts(
    manifests: dict[str, Any], container: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in variables.shown(settings.Settings.model_construct()):
        monkeypatch.delenv(name, raising=False)
    given = manifests["ConfigMap/holdsvc"]["data"] | manifests["Secret/holdsvc"]["stringData"]
    assert {entry["name"] for entry in container["env"]} == set(manifests["Secret/holdsvc"]["stringData"])
    assert variables.unknown_names(given) == []
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings.Settings.load()


def test_the_database_of_cloudnative_pg_acknowledges_nothing_that_a_failover_can_lose() -> None:
    cluster = yaml.safe_load((CLOUDNATIVE_PG / "cluster.yaml").read_text())
    spec = cluster["spec"]
    assert spec["instances"] == 3
    assert spec["postgresql"]["synchronous"] == {
        "method": "any",
        "number": 1,
        "dataDurability": "required",
        "failoverQuorum": True,
    }
    assert spec["probes"]["liveness"]["isolationCheck"] == {"enabled": True}
    assert "imageName" not in spec, "the operator knows which PostgreSQL fits it"


def test_the_pods_reach_the_database_of_cloudnative_pg_as_its_roles(
    manifests: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = yaml.safe_load((CLOUDNATIVE_PG / "cluster.yaml").read_text())
    name, spec = cluster["metadata"]["name"], cluster["spec"]
    [app] = spec["managed"]["roles"]
    initdb = spec["bootstrap"]["initdb"]
    pod = check_deploy.patched_deployment()["spec"]["template"]["spec"]
    [container] = pod["containers"]
    values: dict[str, str] = {}
    secrets: dict[str, str] = {}
    for entry in container["env"]:
        if "value" in entry:
            # Kubernetes replaces only what stands above.
            values[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda found: f"the-{secrets[found[1]]}", entry["value"])
        else:
            secrets[entry["name"]] = entry["valueFrom"]["secretKeyRef"]["name"]
    [mount] = [each for each in container["volumeMounts"] if each["name"] == "database-authority"]
    [volume] = [each for each in pod["volumes"] if each["name"] == "database-authority"]
    assert volume["secret"]["secretName"] == f"{name}-ca"
    for role, secret, value in (
        (app["name"], app["passwordSecret"]["name"], values["HOLDSVC_DSN"]),
        (initdb["owner"], initdb["secret"]["name"], values["HOLDSVC_MIGRATE_DSN"]),
    ):
        dsn = conninfo_to_dict(value)
        assert (dsn["user"], dsn["password"], dsn["dbname"]) == (role, f"the-{secret}", initdb["database"])
        assert (dsn["host"], dsn["sslmode"]) == (f"{name}-rw", "verify-full")
        assert dsn["sslrootcert"] == f"{mount['mountPath']}/{volume['secret']['items'][0]['path']}"
    assert app["inRoles"] == ["holdsvc_service"]
    assert initdb["postInitSQL"] == ["CREATE ROLE holdsvc_service NOLOGIN"]
    for name in variables.shown(settings.Settings.model_construct()):
        monkeypatch.delenv(name, raising=False)
    for name, value in (manifests["ConfigMap/holdsvc"]["data"] | values).items():
        monkeypatch.setenv(name, value)
    settings.Settings.load()
