"""What must be there before anything is measured: tools, binaries, certificates, file descriptors."""
import os
import resource
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
BENCHES = os.path.dirname(HERE)
REPO = os.path.dirname(BENCHES)

# program -> Debian package
NEEDED = {"redis-server": "redis-server", "redis-benchmark": "redis-tools", "openssl": "openssl"}
WELCOME = {"nutcracker": "nutcracker", "haproxy": "haproxy"}


def say(text):
    print(text, file=sys.stderr, flush=True)


def widen_path():
    """Debian keeps nutcracker in sbin, rustup keeps cargo in the home directory."""
    extra = ["/usr/sbin", "/usr/local/sbin", os.path.expanduser("~/.cargo/bin")]
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", "")] + extra)


def tools():
    """Installs what is missing where apt-get can; ends the program when something needed is not there."""
    missing = [p for p in {**NEEDED, **WELCOME} if not _program(p)]
    if missing and shutil.which("apt-get"):
        packages = sorted({**NEEDED, **WELCOME}[p] for p in missing)
        say(f"installing {' '.join(packages)}")
        root = [] if os.geteuid() == 0 else ["sudo"]
        env = ["env", "DEBIAN_FRONTEND=noninteractive"]
        install = root + env + ["apt-get", "install", "-y", "--no-install-recommends"]
        try:
            if subprocess.run(install + packages, stdout=sys.stderr).returncode:
                subprocess.run(root + ["apt-get", "update"], stdout=sys.stderr)
                for package in packages:      # one by one: a missing peer is no reason to lack redis
                    subprocess.run(install + [package], stdout=sys.stderr)
        except OSError as e:
            say(f"cannot install: {e}")
    still = [p for p in NEEDED if not _program(p)]
    if still:
        sys.exit(f"missing: {', '.join(still)} (Debian packages: {', '.join(NEEDED[p] for p in still)})")
    for p in WELCOME:
        if not _program(p):
            say(f"no {p}: left out, and what compares with it stays open")


def _program(name):
    """As an environment variable names it (REDIS_BENCHMARK for redis-benchmark), or from the PATH."""
    variable = {"redis-server": "REDIS"}.get(name, name.upper().replace("-", "_"))
    return shutil.which(os.environ.get(variable) or name)


def build():
    """Builds nearkey and the floor. Returns {"NEARKEY": path, "FLOOR": directory} and what is known of that nearkey."""
    target = os.path.abspath(os.environ.get("CARGO_TARGET_DIR") or os.path.join(REPO, "target"))
    floor = os.path.join(target, "floor")
    given = os.environ.get("NEARKEY")
    if given:
        origin = "a binary given by NEARKEY"
    elif _cargo(REPO, target, "nearkey", ["--bin", "nearkey"]):
        origin = "built from " + _commit()
    else:
        origin = "an earlier build of unknown origin, as this one failed"
    _cargo(os.path.join(BENCHES, "floor"), floor, "the floor programs", [])
    return {"NEARKEY": os.path.abspath(shutil.which(given) or given) if given
            else os.path.join(target, "release", "nearkey"), "FLOOR": os.path.join(floor, "release")}, origin


def _cargo(where, target, what, extra):
    say(f"building {what}")
    env = dict(os.environ, CARGO_TARGET_DIR=target)
    try:
        failed = subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", *extra],
                                cwd=where, env=env, stdout=sys.stderr).returncode
    except OSError as e:
        failed = e
    if failed:
        say(f"could not build {what} ({failed}): an earlier build is used if there is one, otherwise it is left out")
    return not failed


def _commit():
    changed = first_line("git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benches", cwd=REPO)
    return "commit " + (first_line("git", "rev-parse", "--short", "HEAD", cwd=REPO) or "unknown") + \
        (" with changes" if changed else "")


def first_line(*command, cwd=None):
    """The first line that a command prints, or nothing when there is no such command."""
    try:
        r = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
        return ((r.stdout + r.stderr).strip().splitlines() or [""])[0].strip()
    except OSError:
        return ""


def certificates(d):
    """A CA (ca.crt) and a certificate of it for localhost, in directory `d`."""
    os.makedirs(d, exist_ok=True)
    with open(f"{d}/ext", "w") as f:
        f.write("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n"
                "keyUsage=digitalSignature\nextendedKeyUsage=serverAuth\n")
    for command in (
            "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 30 -subj /CN=nearkey-bench-CA "
            "-addext basicConstraints=critical,CA:TRUE",
            "ecparam -name prime256v1 -genkey -noout -out server.key",
            "req -new -key server.key -subj /CN=localhost -out server.csr",
            "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out server.crt -extfile ext"):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True, cwd=d)


def file_descriptors(wanted=20000):
    """Raises the limit for us and what we start; returns what there is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in ((max(wanted, hard),) * 2, (hard, hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
            return limit[0]
        except (OSError, ValueError):
            continue
    return soft
