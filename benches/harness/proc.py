"""CPU, memory and sockets of processes, read from the Linux kernel."""
import contextlib
import os
import resource
import time

TICK = os.sysconf("SC_CLK_TCK")


def cpu_of(pid):
    """CPU seconds (user + system, all threads, also ended ones) of a process, in nanosecond steps."""
    try:
        return time.clock_gettime(((~pid) << 3) | 2)     # the process CPU clock of Linux
    except OSError:
        return sum(_ticks(pid))


def _ticks(pid):
    with open(f"/proc/{pid}/stat") as f:
        p = f.read().rsplit(")", 1)[1].split()
    return int(p[11]) / TICK, int(p[12]) / TICK


def machine_cpu():
    """(busy, stolen) seconds since boot over all cores."""
    with open("/proc/stat") as f:
        v = [int(x) / TICK for x in f.readline().split()[1:9]]
    return v[0] + v[1] + v[2] + v[5] + v[6], v[7]


def rss_kb(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS:"))


def listening(port):
    """Whether anything listens on this TCP port."""
    return any(c[3] == "0A" and int(c[1].rsplit(":", 1)[1], 16) == port for c in _tcp_rows())


def sockets_to(pid, ports):
    """Established TCP sockets of a process whose remote port is one of `ports`."""
    inodes = {f"socket:[{c[9]}]" for c in _tcp_rows() if c[3] == "01" and int(c[2].rsplit(":", 1)[1], 16) in ports}
    n = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            n += os.readlink(f"/proc/{pid}/fd/{fd}") in inodes
    return n


def _tcp_rows():
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(name) as f:
            next(f)
            for line in f:
                yield line.split()


class Meter:
    """CPU of a target, its server, the load generator and everything else around a `with` block.

    The load generator is this process with its ended children, and those of `generators`, which still run. `foreign` is
    the number of cores that others used meanwhile, `steal` what the hypervisor took.
    """

    def __init__(self, target_pid, server_pid, *generators):
        self.pids, self.generators = (target_pid, server_pid), generators

    def _snap(self):
        own = sum(r.ru_utime + r.ru_stime for r in map(
            resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))) + sum(map(cpu_of, self.generators))
        return (time.monotonic(), *map(cpu_of, self.pids), own, *machine_cpu())

    def __enter__(self):
        self._before = self._snap()
        return self

    def __exit__(self, *_):
        self.wall, self.cpu, self.server, self.gen, busy, steal = (
            b - a for a, b in zip(self._before, self._snap()))
        known = self.gen + self.server + (self.cpu if len(set(self.pids)) == 2 else 0)
        self.foreign = max(0.0, busy - known) / self.wall
        self.steal = steal / self.wall
