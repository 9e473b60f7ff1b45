"""The files for containers and Kubernetes: valid by their projects' schemas, and the commands in them work."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from rmqkit.topology.file.loader import load, loads
from tests.conftest import Broker

ROOT = Path(__file__).parents[2]
FILES = ROOT / "docs" / "deployment"
COMPOSE = yaml.safe_load((FILES / "compose.yaml").read_text())
CLUSTER = yaml.safe_load((FILES / "cluster.yaml").read_text())
OBJECTS = list(yaml.safe_load_all((FILES / "kubernetes.yaml").read_text()))
CONTAINERFILE = (FILES / "Containerfile").read_text()
DEFINITIONS = {
    "ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "Job": "io.k8s.api.batch.v1.Job",
    "Deployment": "io.k8s.api.apps.v1.Deployment",
    "ScaledObject": "ScaledObject",
    "TriggerAuthentication": "TriggerAuthentication",
}


def problems(instance: Any, schema: str, definition: str = "") -> list[str]:
    root = json.loads((ROOT / "tests" / "schemas" / schema).read_text())
    if definition:
        root = {"definitions": root["definitions"], "$ref": f"#/definitions/{definition}"}
    validator = jsonschema.validators.validator_for(root, jsonschema.Draft202012Validator)(root)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(instance)]


def kubernetes_problems(instance: Any) -> list[str]:
    schema = "keda.json" if instance["apiVersion"].startswith("keda.sh/") else "kubernetes.json"
    return problems(instance, schema, DEFINITIONS[instance["kind"]])


def test_the_compose_files_are_valid() -> None:
    assert problems(COMPOSE, "compose.json") == []
    assert COMPOSE["services"]["worker"]["deploy"]["replicas"] == 3
    assert problems(CLUSTER, "compose.json") == []


def test_the_nodes_of_the_cluster_name_each_other_as_their_clients_do() -> None:
    nodes = [name for name in CLUSTER["services"] if name.startswith("rabbitmq-")]
    assert len(nodes) == 3
    assert [CLUSTER["services"][name]["hostname"] for name in nodes] == nodes
    assert re.findall(r"rabbit@(\S+)", CLUSTER["configs"]["cluster"]["content"]) == nodes
    worker = CLUSTER["services"]["worker"]
    assert re.findall(r"@([^/]+)/", worker["environment"]["RMQKIT_URL"]) == nodes
    assert load(ROOT / CLUSTER["services"]["topology"]["command"][1]).queues[0].name == worker["command"][1]


@pytest.mark.parametrize("instance", OBJECTS, ids=lambda each: each["kind"])
def test_the_kubernetes_objects_are_valid(instance: dict[str, Any]) -> None:
    assert kubernetes_problems(instance) == []


def test_the_schemas_find_mistakes() -> None:
    compose, deployment = copy.deepcopy(COMPOSE), copy.deepcopy(OBJECTS[2])
    compose["services"]["worker"]["comand"] = []
    assert any("comand" in each for each in problems(compose, "compose.json"))
    deployment["spec"]["template"]["spec"]["containers"][0]["arg"] = []
    assert any("'arg'" in each for each in kubernetes_problems(deployment))
    assert kubernetes_problems({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "spec": {"triggers": []}})


def test_the_objects_belong_together() -> None:
    by_kind = {each["kind"]: each for each in OBJECTS}
    shipped, deployed = load(ROOT / "topologies" / "work.yaml"), loads(by_kind["ConfigMap"]["data"]["work.yaml"])
    assert (deployed.queues, deployed.publish) == (shipped.queues, shipped.publish)
    scaled = by_kind["ScaledObject"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == by_kind["Deployment"]["metadata"]["name"]
    assert scaled["triggers"][0]["metadata"]["queueName"] in {queue.name for queue in deployed.queues}
    assert scaled["triggers"][0]["authenticationRef"]["name"] == by_kind["TriggerAuthentication"]["metadata"]["name"]


def test_the_image_has_no_root_and_copies_files_that_exist() -> None:
    assert re.findall(r"^USER (\S+)$", CONTAINERFILE, re.MULTILINE) == ["10001"]
    copied = re.findall(r"^COPY ((?!--from).+) \S+$", CONTAINERFILE, re.MULTILINE)
    ignored = (FILES / "Containerfile.dockerignore").read_text().splitlines()
    for path in " ".join(copied).split():
        assert (ROOT / path).exists(), path
        assert any(path.startswith(line.removeprefix("!")) for line in ignored if line.startswith("!")), path


@pytest.mark.timeout(120)
def test_the_commands_work(broker: Broker, vhost_url: str, tmp_path: Path) -> None:
    environment = {**os.environ, "RMQKIT_URL": vhost_url, "RMQKIT_API_URL": broker.api_url}
    environment |= {f"XDG_{kind}_HOME": str(tmp_path) for kind in ("STATE", "CONFIG")}

    def run(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "rmqkit", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    services = {name: service.get("command", []) for name, service in COMPOSE["services"].items()}
    worker = OBJECTS[2]["spec"]["template"]["spec"]["containers"][0]
    assert run(*services["topology"])[0] == 0
    assert "6 confirmed" in run(*services["producer"], "--count", "6")[1]
    assert "0\n1\n2\n" in run(*services["worker"], "-n", "3")[1]
    assert run(*worker["args"], "-n", "3")[0] == 0
    health = json.loads(re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", CONTAINERFILE, re.MULTILINE)[0])
    assert run(*health[1:])[0] == 0
    replicated = {name: service.get("command", []) for name, service in CLUSTER["services"].items()}
    assert run(*replicated["topology"])[0] == 0
    assert "6 confirmed" in run(*replicated["producer"], "--count", "6")[1]
    assert run(*replicated["worker"], "-n", "6")[0] == 0
    code, text = run(*worker["startupProbe"]["exec"]["command"][1:])
    assert (code, "0 consumers, fewer than 1" in text) == (9, True)
