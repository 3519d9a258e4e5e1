"""The compose file and the Dockerfile agree with the code that they start."""

import json
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from attacks.workers import RESOURCE
from curious.cli import app
from studies.config import read_plan

ROOT = Path(__file__).parents[1]
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def test_a_worker_offers_the_resource_that_the_pool_asks_for():
    (option,) = [part for part in SERVICES["worker"]["command"] if part.startswith("--resources=")]
    assert json.loads(option.removeprefix("--resources=")) == {RESOURCE: 1}


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_starts_a_program_that_the_requirements_install(service):
    program = SERVICES[service]["command"][0]
    assert shutil.which(program, path=f"{Path(sys.executable).parent}{os.pathsep}/bin")


def test_what_is_handed_over_is_a_study_for_as_many_clients_as_there_are_supernodes():
    environment = SERVICES["deploy"]["environment"]
    study, changes = (environment[name].removeprefix(f"${{{name}:-")[:-1] for name in ("STUDY", "SET"))
    plan = read_plan(ROOT / "studies" / f"{study}.toml", changes.split(";"))
    nodes = [service for service in SERVICES if service.startswith("supernode-")]
    assert plan.study.federation.clients == len(nodes)
    for number, node in enumerate(nodes):
        assert SERVICES[node]["command"][-1] == f"--node-config=partition-id={number} num-partitions={len(nodes)}"


def test_the_study_is_called_with_options_that_the_command_has():
    said = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    command = SERVICES["study"]["command"][-1].split("exec ")[1]
    options = re.findall(r"--[a-z-]+", command)
    assert options
    assert all(option in said for option in options)


def test_the_study_begins_with_one_that_the_image_has():
    study = re.search(r":-/app/(.*)}", SERVICES["study"]["environment"]["STUDY"])
    assert study is not None
    assert (ROOT / study[1]).exists()


def test_the_image_holds_every_package():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    copied = re.findall(r"^COPY (\w+) \./", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert sorted({package.split(".")[0] for package in packages}) == sorted(copied)


def test_the_requirements_that_both_files_fall_back_on_are_the_locked_ones():
    (fallback,) = re.findall(r"^ARG REQUIREMENTS=(.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert SERVICES["worker"]["build"]["args"]["REQUIREMENTS"] == f"${{REQUIREMENTS:-{fallback}}}"
    assert (ROOT / fallback).exists()
