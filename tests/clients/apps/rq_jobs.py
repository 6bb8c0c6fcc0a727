"""Jobs for RQ."""

from rq import get_current_job


def double(n):
    job = get_current_job()
    job.connection.incr("runs:double")
    return 2 * n


def needs_attempts(attempts):
    count = get_current_job().connection.incr(f"attempts:{get_current_job().id}")
    if count < attempts:
        raise ValueError(f"attempt {count}")
    return count


def sum_of_dependencies():
    return sum(job.return_value() for job in get_current_job().fetch_dependencies())


def wait_for(name):
    return get_current_job().connection.blpop(name, timeout=60)[1].decode()
