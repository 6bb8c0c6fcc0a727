"""The deployment files: read, and checked where no package knows their format."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = ROOT / "docker-compose.yml"
ECS = ROOT / "ecs-task-definition.json"
RENDER = ROOT / "render.yaml"
CLOUD_RUN = ROOT / "deploy/cloud-run/service.yaml"
KUBERNETES = ROOT / "deploy/kubernetes/base"
UNIT = ROOT / "deploy/systemd/nearkey.service"


def yaml_of(path):
    import yaml

    return yaml.safe_load(Path(path).read_text())


def tool(name):
    """A program that pip put beside this Python."""
    return str(Path(sys.executable).with_name(name))


def output_of(*command, **options):
    """What a validator says, and whether it is content."""
    ended = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120, **options)
    return ended.returncode, ended.stdout + ended.stderr


# Dockerfiles.

def stages(path):
    """Each stage as a list of (instruction, rest)."""
    lines = [line for line in Path(path).read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found = []
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            found.append([])
        if found:
            found[-1].append((word, rest.strip()))
    return found


# Nearkey's environment in each deployment, secrets by a stand-in of their form.

STAND_IN = {"REDIS_URL": "rediss://default:stand-in@redis.example.com:6379"}


def stand_in(name):
    return STAND_IN.get(name, "stand-in")


def compose_env():
    return {k: str(v) for k, v in yaml_of(COMPOSE)["services"]["nearkey"]["environment"].items()}


def ecs_containers():
    return {c["name"]: c for c in json.loads(ECS.read_text())["containerDefinitions"]}


def ecs_env():
    nearkey = ecs_containers()["nearkey"]
    env = {e["name"]: e["value"] for e in nearkey["environment"]}
    return env | {s["name"]: stand_in(s["name"]) for s in nearkey["secrets"]}


def render_env():
    service = next(s for s in yaml_of(RENDER)["services"] if s["name"] == "nearkey")
    return {v["key"]: v.get("value", stand_in(v["key"])) for v in service["envVars"]}


def cloud_run_containers():
    return {c["name"]: c for c in yaml_of(CLOUD_RUN)["spec"]["template"]["spec"]["containers"]}


def of_env_list(entries):
    return {e["name"]: e.get("value", stand_in(e["name"])) for e in entries}


def cloud_run_env():
    return of_env_list(cloud_run_containers()["nearkey"]["env"])


def kubernetes_sidecar():
    pod = yaml_of(KUBERNETES / "deployment.yaml")["spec"]["template"]["spec"]
    return next(c for c in pod["initContainers"] if c["name"] == "nearkey")


def kubernetes_env():
    lines = (KUBERNETES / "nearkey.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines) | of_env_list(kubernetes_sidecar()["env"])


def systemd_env():
    pairs = re.findall(r"^Environment=([A-Z_]+)=(.*)$", UNIT.read_text(), re.M)
    return {k: v.replace("%d", "/run/credentials") for k, v in pairs} | {"REDIS_HOST": "redis.example.com"}


ENVIRONMENTS = {
    "compose": compose_env, "ecs": ecs_env, "render": render_env, "cloud-run": cloud_run_env,
    "kubernetes": kubernetes_env, "systemd": systemd_env,
}


# Cloud Run: Google's discovery document as a JSON schema that takes no unknown member.

def cloud_run_schema():
    import googleapiclient

    path = Path(googleapiclient.__file__).parent / "discovery_cache/documents/run.v1.json"
    schemas = json.loads(path.read_text())["schemas"]

    def strict(node):
        if isinstance(node, list):
            return [strict(n) for n in node]
        if not isinstance(node, dict):
            return node
        out = {}
        for key, value in node.items():
            if key == "$ref":
                out[key] = f"#/definitions/{value}"
            elif key == "properties":
                out[key] = {k: strict(v) for k, v in value.items()}
            elif key in ("type", "items", "additionalProperties", "enum"):
                out[key] = strict(value)
        if "properties" in out:
            out.setdefault("additionalProperties", False)
        return out

    definitions = {name: strict(schema) for name, schema in schemas.items()}
    # An integer or a name; what the document calls a string is either in a manifest.
    return {"$ref": "#/definitions/Service", "definitions": definitions}


# Render: the fields of its Blueprint reference, as far as ours could use them. Its schema is not to be had offline.

RENDER_TYPES = {"web", "pserv", "worker", "cron", "keyvalue"}
RENDER_RUNTIMES = {"docker", "image", "node", "python", "elixir", "go", "ruby", "rust", "static"}
RENDER_COMMON = {"type", "name", "region", "plan", "previews"}
RENDER_COMPUTE = RENDER_COMMON | {
    "runtime", "repo", "branch", "rootDir", "dockerfilePath", "dockerContext", "dockerCommand", "registryCredential",
    "image", "buildCommand", "startCommand", "preDeployCommand", "numInstances", "scaling", "envVars", "autoDeployTrigger",
    "maxShutdownDelaySeconds", "buildFilter", "disk", "initialDeployHook",
}
RENDER_FIELDS = {
    "web": RENDER_COMPUTE | {"healthCheckPath", "domains", "domain", "ipAllowList", "renderSubdomainPolicy"},
    "pserv": RENDER_COMPUTE, "worker": RENDER_COMPUTE, "cron": RENDER_COMPUTE | {"schedule"},
    "keyvalue": RENDER_COMMON | {"ipAllowList", "maxmemoryPolicy"},
}
RENDER_PROPERTIES = {
    "web": {"host", "port", "hostport"}, "pserv": {"host", "port", "hostport"}, "keyvalue": {"host", "port", "connectionString"},
}
RENDER_POLICIES = {"allkeys-lru", "volatile-lru", "allkeys-lfu", "volatile-lfu", "allkeys-random", "volatile-random",
                   "volatile-ttl", "noeviction"}


def render_problems(blueprint):
    problems = [f"unknown section {k}" for k in blueprint.keys() - {"services", "databases", "envVarGroups", "projects", "previews"}]
    services = {s.get("name"): s for s in blueprint.get("services", [])}
    if len(services) != len(blueprint.get("services", [])):
        problems.append("a name is missing or there twice")
    for name, service in services.items():
        problems += [f"{name}: {p}" for p in render_service_problems(service, services)]
    return problems


def render_service_problems(service, services):
    kind = service.get("type")
    if kind not in RENDER_TYPES:
        return [f"type {kind}"]
    problems = [f"unknown field {k}" for k in service.keys() - RENDER_FIELDS[kind]]
    if kind == "keyvalue":
        if "ipAllowList" not in service:
            problems.append("ipAllowList is required")
        if service.get("maxmemoryPolicy", "noeviction") not in RENDER_POLICIES:
            problems.append("maxmemoryPolicy")
        return problems
    if service.get("runtime") not in RENDER_RUNTIMES:
        problems.append(f"runtime {service.get('runtime')}")
    if service.get("runtime") == "image" and "url" not in service.get("image", {}):
        problems.append("runtime image needs image.url")
    if not 1 <= service.get("maxShutdownDelaySeconds", 30) <= 300:
        problems.append("maxShutdownDelaySeconds is from 1 to 300")
    keys = [v.get("key") for v in service.get("envVars", []) if "fromGroup" not in v]
    problems += [f"{k} is there twice" for k in {k for k in keys if keys.count(k) > 1}]
    for var in service.get("envVars", []):
        problems += [f"{var.get('key')}: {p}" for p in render_var_problems(var, services)]
    return problems


def render_var_problems(var, services):
    if "fromGroup" in var:
        return []
    sources = var.keys() - {"key", "previewValue"}
    if len(sources) != 1 or not sources <= {"value", "sync", "generateValue", "fromService", "fromDatabase"}:
        return [f"needs one source, has {sorted(sources)}"]
    if "value" in var and not isinstance(var["value"], (str, int, float)) or isinstance(var.get("value"), bool):
        return ["a value is text or a number"]
    if "sync" in var and var["sync"] is not False:
        return ["sync can only be false"]
    reference = var.get("fromService")
    if reference is None:
        return []
    target = services.get(reference.get("name"))
    if target is None or target["type"] != reference.get("type"):
        return [f"no {reference.get('type')} of the name {reference.get('name')}"]
    if "envVarKey" in reference:
        known = {v.get("key") for v in target.get("envVars", [])}
        return [] if reference["envVarKey"] in known else [f"{reference['name']} has no variable {reference['envVarKey']}"]
    allowed = RENDER_PROPERTIES.get(target["type"], set())
    return [] if reference.get("property") in allowed else [f"property {reference.get('property')}"]
