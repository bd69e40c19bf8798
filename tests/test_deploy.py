"""The files that run the service elsewhere. No container engine is needed: they are read."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdsvc import settings

ROOT = Path(__file__).resolve().parent.parent


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
    for name in settings.shown(settings.Settings.model_construct()):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    loaded = settings.Settings.load()
    assert loaded.auth == "api-key"
    assert not settings.is_loopback(loaded.listen)
    assert loaded.dsn.get_secret_value().startswith("postgresql://")


def test_deployments_name_only_settings_that_there_are() -> None:
    for name in ("compose.yaml", "Dockerfile", "Makefile"):
        named = set(re.findall(r"HOLDSVC_[A-Z_]+[A-Z]", (ROOT / name).read_text()))
        assert settings.unknown_names(dict.fromkeys(named, "")) == [], name


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
