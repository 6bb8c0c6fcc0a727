"""What is deployed: each file passes a validator of its format, and names only settings and pages that Nearkey has.

The packages are those of validators.txt; a test whose package or program is missing is skipped.
"""

import copy
import importlib.util
import json
import os
import re
import shutil
import tomllib

import pytest

from harness import deployments as files
from harness.deployments import ROOT, output_of, tool, yaml_of
from harness.nearkey import binary, run

pytestmark = pytest.mark.skipif(os.environ.get("NEARKEY_TEST_DIRECT") == "1", reason="about the proxy itself")


def needs(package):
    return pytest.mark.skipif(not importlib.util.find_spec(package), reason=f"no {package}: see validators.txt")


# The image.

@pytest.mark.parametrize("path", ["Dockerfile", "deploy/render/Dockerfile.app"])
@pytest.mark.skipif(not shutil.which(tool("hadolint")), reason="no hadolint: see validators.txt")
def test_dockerfiles_pass_hadolint(path, tmp_path):
    assert output_of(tool("hadolint"), ROOT / path) == (0, "")
    bad = tmp_path / "Dockerfile"
    bad.write_text((ROOT / path).read_text() + "\nRUN cd /tmp && apt-get install curl\n")
    assert output_of(tool("hadolint"), bad)[0] == 1


def test_the_image_is_one_file_that_runs_as_nobody():
    build, image = files.stages(ROOT / "Dockerfile")
    rest = dict(image)
    assert rest["FROM"] == "scratch"
    assert [r for w, r in image if w == "COPY"] == ["--from=build /src/nearkey /nearkey"]
    uid, gid = map(int, rest["USER"].split(":"))
    assert uid > 0 and gid > 0
    # A shell is not there: both must be lists.
    assert json.loads(rest["ENTRYPOINT"]) == ["/nearkey"]
    check = json.loads(rest["HEALTHCHECK"].partition(" CMD ")[2])
    assert check == ["/nearkey", "healthcheck"]
    # Would win over a mounted proxy.toml.
    assert "ENV" not in rest
    text = " ".join(r for _, r in build)
    for architecture in ("amd64) echo x86_64-unknown-linux-musl", "arm64) echo aarch64-unknown-linux-musl"):
        assert architecture in text
    builds = [r for w, r in build if w == "RUN" and "cargo build" in r]
    assert len(builds) == 2 and all("--release --locked" in b for b in builds), "dependencies in a layer of their own"


@pytest.mark.skipif(not shutil.which(tool("shellcheck")), reason="no shellcheck: see validators.txt")
def test_scripts_pass_shellcheck():
    scripts = ["deploy/release.sh", "deploy/render/with-nearkey", "deploy/compose/make-certs.sh"]
    assert output_of(tool("shellcheck"), *scripts, cwd=ROOT) == (0, "")


# Formats.

@needs("check_jsonschema")
def test_the_compose_file_is_valid(tmp_path):
    check = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    code, said = output_of(*check, files.COMPOSE)
    assert code == 0, said
    bad = tmp_path / "docker-compose.yml"
    bad.write_text(files.COMPOSE.read_text().replace("read_only:", "readonly:"))
    assert output_of(*check, bad)[0] == 1


@needs("yaml")
def test_the_compose_file_holds_together():
    compose = yaml_of(files.COMPOSE)
    services = compose["services"]
    for name, service in services.items():
        depends = service.get("depends_on", {})
        for other, how in depends.items() if isinstance(depends, dict) else ():
            assert how["condition"] != "service_healthy" or "healthcheck" in services[other], f"{name} waits for {other}"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), f"{name} mounts {source}"
            else:
                assert source in compose["volumes"], f"{name} mounts {source}"
    app = services["app"]
    assert app["network_mode"] == "service:nearkey" and "ports" not in app
    assert app["environment"]["REDIS_HOST"] == "localhost"
    assert app["depends_on"]["nearkey"] == {"condition": "service_healthy", "restart": True}
    assert {n for n, s in services.items() if s.get("profiles") == ["seeing"]} == {"prometheus", "grafana"}
    # Nothing of a development machine is shown to its network.
    for service in services.values():
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))


@needs("yaml")
def test_what_prometheus_and_grafana_read_is_there():
    prometheus = yaml_of(ROOT / "deploy/prometheus/prometheus.yml")
    for rules in prometheus["rule_files"]:
        assert yaml_of(ROOT / "deploy/prometheus" / rules)["groups"]
    targets = prometheus["scrape_configs"][0]["static_configs"][0]["targets"]
    admin = files.compose_env()["NEARKEY_ADMIN__ADDRESS"]
    assert targets == ["nearkey:" + admin.rpartition(":")[2]]
    source = yaml_of(ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"][0]
    provider = yaml_of(ROOT / "deploy/grafana/provisioning/dashboards/nearkey.yml")["providers"][0]
    mounts = yaml_of(files.COMPOSE)["services"]["grafana"]["volumes"]
    assert any(m.split(":")[1].startswith(provider["options"]["path"] + "/") for m in mounts)
    dashboard = json.loads((ROOT / "deploy/grafana/nearkey.json").read_text())
    assert dashboard["panels"]
    uids = set(re.findall(r'"uid": "([^"$]+)"', json.dumps([p.get("datasource") for p in dashboard["panels"]])))
    assert uids <= {source["uid"]}


@needs("botocore")
def test_the_task_definition_is_what_ecs_takes():
    import botocore.session
    from botocore.validate import ParamValidator

    ecs = botocore.session.get_session().get_service_model("ecs")
    shape = ecs.operation_model("RegisterTaskDefinition").input_shape
    task = json.loads(files.ECS.read_text())
    assert ParamValidator().validate(task, shape).generate_report() == ""
    bad = copy.deepcopy(task)
    bad["containerDefinitions"][0]["healthChek"] = {}
    assert "healthChek" in ParamValidator().validate(bad, shape).generate_report()


def test_the_task_definition_holds_together():
    task, containers = json.loads(files.ECS.read_text()), files.ecs_containers()
    assert task["networkMode"] == "awsvpc" and task["requiresCompatibilities"] == ["FARGATE"]
    # What Fargate sells for this much CPU.
    memory = {"256": (512, 2048), "512": (1024, 4096), "1024": (2048, 8192)}[task["cpu"]]
    assert memory[0] <= int(task["memory"]) <= memory[1]
    assert sum(c["memory"] for c in containers.values()) <= int(task["memory"])
    nearkey, app = containers["nearkey"], containers["app"]
    assert nearkey["memory"] == 256 and nearkey["essential"] and nearkey["readonlyRootFilesystem"]
    # HEALTHY waits for the check of the definition: that of the image is not seen.
    assert app["dependsOn"] == [{"containerName": "nearkey", "condition": "HEALTHY"}]
    check = nearkey["healthCheck"]
    limits = {"interval": (5, 300), "timeout": (2, 60), "retries": (1, 10), "startPeriod": (0, 300)}
    assert all(low <= check[name] <= high for name, (low, high) in limits.items())
    # An essential container that is unhealthy ends the task: not because the server is away.
    assert check["command"] == ["CMD", "/nearkey", "healthcheck", "--live"]
    drain = seconds(files.ecs_env()["NEARKEY_PROCESS__DRAIN_TIMEOUT"])
    assert all(drain < c["stopTimeout"] <= 120 for c in (nearkey,))
    assert int(nearkey["user"].split(":")[0]) > 0
    assert nearkey["logConfiguration"]["logDriver"] == "awslogs"


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text)[1])


@needs("yaml")
def test_the_blueprint_is_what_render_documents():
    blueprint = yaml_of(files.RENDER)
    assert files.render_problems(blueprint) == []
    for damage in (
        lambda s: s[0].update(env="docker"), lambda s: s[0].update(healthCheckPath="/live"), lambda s: s[2].pop("ipAllowList"),
        lambda s: s[0]["envVars"].append({"key": "A", "value": "1", "sync": False}),
        lambda s: s[1]["envVars"][0]["fromService"].update(name="nobody"),
        lambda s: s[1]["envVars"][2]["fromService"].update(envVarKey="NOBODY"),
    ):
        bad = copy.deepcopy(blueprint)
        damage(bad["services"])
        assert files.render_problems(bad)


@needs("yaml")
def test_the_private_service_asks_for_its_password():
    services = {s["name"]: s for s in yaml_of(files.RENDER)["services"]}
    assert services["nearkey"]["type"] == "pserv"
    assert files.render_env()["NEARKEY_LISTEN__ADDRESS"].startswith("0.0.0.0:")
    own = {v["key"]: v for v in services["nearkey"]["envVars"]}
    assert own["NEARKEY_LISTEN__PASSWORD"] == {"key": "NEARKEY_LISTEN__PASSWORD", "generateValue": True}
    drain = sum(seconds(own[f"NEARKEY_PROCESS__DRAIN_{x}"]["value"]) for x in ("DELAY", "TIMEOUT"))
    assert drain < services["nearkey"]["maxShutdownDelaySeconds"]


@needs("googleapiclient")
def test_the_service_is_what_cloud_run_takes():
    import jsonschema

    validator = jsonschema.Draft7Validator(files.cloud_run_schema())
    service = yaml_of(files.CLOUD_RUN)
    assert [e.message for e in validator.iter_errors(service)] == []
    bad = copy.deepcopy(service)
    bad["spec"]["template"]["spec"]["containers"][1]["startupProb"] = {}
    assert any("startupProb" in e.message for e in validator.iter_errors(bad))


@needs("yaml")
def test_the_cloud_run_service_holds_together():
    service, containers = yaml_of(files.CLOUD_RUN), files.cloud_run_containers()
    notes = service["spec"]["template"]["metadata"]["annotations"]
    assert all(isinstance(value, str) for value in notes.values())
    assert json.loads(notes["run.googleapis.com/container-dependencies"]) == {"app": ["nearkey"]}
    assert notes["run.googleapis.com/cpu-throttling"] == "false"
    assert [n for n, c in containers.items() if "ports" in c] == ["app"]
    nearkey = containers["nearkey"]
    for probe in ("startupProbe", "livenessProbe"):
        at = nearkey[probe]["httpGet"]
        assert f":{at['port']}" in files.cloud_run_env()["NEARKEY_ADMIN__ADDRESS"]
        assert nearkey[probe]["timeoutSeconds"] <= nearkey[probe]["periodSeconds"]
    start = nearkey["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] <= 240
    assert seconds(files.cloud_run_env()["NEARKEY_PROCESS__DRAIN_TIMEOUT"]) < 10


@needs("kubernetes_validate")
@pytest.mark.parametrize("version", ["1.29", "1.33", "1.37"])
def test_the_manifests_are_what_kubernetes_takes(version):
    import kubernetes_validate

    for name in ("deployment", "networkpolicy"):
        kubernetes_validate.validate(yaml_of(files.KUBERNETES / f"{name}.yaml"), version, strict=True)
    bad = yaml_of(files.KUBERNETES / "deployment.yaml")
    bad["spec"]["template"]["spec"]["initContainers"][0]["restartPolcy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(bad, version, strict=True)


@needs("yaml")
def test_the_sidecar_starts_first_and_ends_last():
    pod = yaml_of(files.KUBERNETES / "deployment.yaml")["spec"]["template"]["spec"]
    sidecar = files.kubernetes_sidecar()
    assert sidecar["restartPolicy"] == "Always" and "startupProbe" in sidecar
    # It would take every pod out of service when the server is away.
    assert "readinessProbe" not in sidecar
    assert sidecar["securityContext"]["readOnlyRootFilesystem"] and sidecar["securityContext"]["runAsUser"] > 0
    assert seconds(files.kubernetes_env()["NEARKEY_PROCESS__DRAIN_TIMEOUT"]) < pod["terminationGracePeriodSeconds"] - 30
    ports = {p["name"]: p["containerPort"] for p in sidecar["ports"]}
    assert files.kubernetes_env()["NEARKEY_ADMIN__ADDRESS"].endswith(f":{ports['admin']}")


@needs("yaml")
def test_the_kustomization_builds():
    kustomization = yaml_of(files.KUBERNETES / "kustomization.yaml")
    named = kustomization["resources"] + [e for g in kustomization["configMapGenerator"] for e in g["envs"]]
    assert all((files.KUBERNETES / name).exists() for name in named)
    if not shutil.which("kubectl"):
        return
    import yaml

    code, said = output_of("kubectl", "kustomize", files.KUBERNETES)
    assert code == 0, said
    kinds = {d["kind"]: d for d in yaml.safe_load_all(said)}
    assert kinds.keys() == {"ConfigMap", "Deployment", "NetworkPolicy"}
    sidecar = kinds["Deployment"]["spec"]["template"]["spec"]["initContainers"][0]
    assert sidecar["envFrom"][0]["configMapRef"]["name"] == kinds["ConfigMap"]["metadata"]["name"]
    assert sidecar["image"] == "registry.example.com/nearkey:0.1.0"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_the_unit_is_what_systemd_takes(tmp_path):
    # The program and its page are not installed here.
    text = files.UNIT.read_text().replace("/usr/local/bin/nearkey", binary()).replace("Documentation=man:nearkey(1)\n", "")
    unit = tmp_path / "nearkey.service"
    unit.write_text(text)
    code, said = output_of("systemd-analyze", "verify", "--man=no", unit)
    assert (code, [line for line in said.splitlines() if "nearkey" in line]) == (0, [])
    unit.write_text(text.replace("ProtectSystem=strict", "ProtectSystm=strict"))
    assert "ProtectSystm" in output_of("systemd-analyze", "verify", "--man=no", unit)[1]


# Names.

@needs("yaml")
@pytest.mark.parametrize("where", files.ENVIRONMENTS)
def test_a_deployment_sets_what_nearkey_has(where, certs, tmp_path):
    env = files.ENVIRONMENTS[where]()
    (tmp_path / "secret").write_text("stand-in\n")
    paths = {"NEARKEY_UPSTREAM__CA": certs.ca, "NEARKEY_UPSTREAM__PASSWORD_FILE": str(tmp_path / "secret")}
    env |= {name: path for name, path in paths.items() if name in env}
    shown = run("config", env=env, cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    for name in env:
        assert name.startswith(("NEARKEY_", "REDIS_", "UPSTASH_"))
        # The parts of an address are shown as the origin of the whole.
        assert f"env {name}" in shown.stdout or name == "REDIS_PORT", f"{name} has no effect:\n{shown.stdout}"
    assert run("config", env=env | {"NEARKEY_UPSTREAM__CONECTIONS": "1"}, cwd=tmp_path).returncode == 2


def test_every_page_that_a_probe_asks_for_is_there(nearkey, redis_server):
    proxy = nearkey(redis_server())
    text = "".join(path.read_text() for path in (files.CLOUD_RUN, files.KUBERNETES / "deployment.yaml"))
    paths = {p for p, port in re.findall(r"path: (\S+)\n\s+port: (\S+)", text) if port in ("9180", "admin")}
    assert paths == {"/live"}
    for path in paths | {"/metrics"}:
        assert proxy.http(path)[0] == 200
    # A server that is away restarts nobody.
    away = nearkey("redis://127.0.0.1:1")
    assert away.http("/live")[0] == 200
    asked = {"NEARKEY_ADMIN__ADDRESS": f"127.0.0.1:{away.admin_port}"}
    assert run("healthcheck", "--live", env=asked).stdout == "live\n"
    assert run("healthcheck", env=asked).returncode == 1


def settings():
    schema = json.loads(run("config", "--schema").stdout)
    return {f"NEARKEY_{s}__{n}".upper() for s, v in schema["properties"].items() for n in v["properties"]}


def test_the_documents_name_what_there_is():
    known = settings()
    pages = sorted((ROOT / "docs/deploy").glob("*.md"))
    assert {p.stem for p in pages} >= {"README", "cloud-run", "ecs", "kubernetes", "render", "compose", "vm"}
    for page in [*pages, *(p for p in (ROOT / "deploy").rglob("*") if p.is_file() and p.suffix != ".json")]:
        text = page.read_text()
        unknown = set(re.findall(r"\bNEARKEY_[A-Z]+__[A-Z0-9_]+", text)) - known
        assert not unknown, f"{page.name}: {unknown}"
    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


# What the program prints for people's tools.

def examples():
    shown = run("config", "--example", "nobody")
    assert shown.returncode == 2
    return re.search(r"possible values: ([^\]]+)\]", shown.stderr)[1].split(", ")


@needs("jsonschema")
def test_the_schema_takes_what_nearkey_takes():
    import jsonschema

    schema = json.loads(run("config", "--schema").stdout)
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)

    def problems(text):
        return [e.message for e in validator.iter_errors(tomllib.loads(text))]

    manual = (ROOT / "proxy.toml").read_text()
    assert problems(manual) == []
    assert problems(re.sub(r"^#(?=[\w\"\[\]])", "", manual, flags=re.M)) == []
    names = examples()
    assert names == ["upstash", "memorystore", "redis-cloud", "elasticache", "render", "azure", "local"]
    for name in names:
        text = run("config", "--example", name).stdout
        assert problems(text) == []
        assert problems(text.replace("#[[", "[[").replace("#match", "match").replace("#ttl", "ttl")) == []
    for bad in ('[upstream]\nconections = 1', '[upstream]\nmax_connections = 0', '[cache]\nmode = "maybe"',
                '[listen]\nidle_timeout = "5 parsecs"', '[[cache.rules]]\nttl = "5s"', '[log]\nlevel = 3'):
        assert problems(bad), bad


def test_a_shell_can_complete_the_command_line():
    for shell in ("bash", "zsh", "fish"):
        script = run("completions", shell)
        assert script.returncode == 0 and "healthcheck" in script.stdout and "max" not in script.stderr
    assert output_of("bash", "-nc", run("completions", "bash").stdout) == (0, "")


def test_the_manual_page_tells_every_flag():
    page = run("man").stdout
    assert page.startswith((".ie", ".TH"))
    plain = page.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "")
    for word in ("--upstream-ca", "--example", "--schema", "--timeout", "--live", "UPSTASH_REDIS_URL", "nearkey healthcheck"):
        assert word in plain, word
