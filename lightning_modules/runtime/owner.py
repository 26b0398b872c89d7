"""Which process a run of MLflow belongs to: a sweep and its jobs say it, without the seconds that Lightning takes."""

import os
import socket

import psutil

from lightning_modules.runtime.courier import Delivery

PARENT_RUN = "FACET_PARENT_RUN"


def owner() -> dict[str, str]:
    """Which process a RUNNING run belongs to, so that a dead one can be told from a busy one."""
    return {"facet.host": socket.gethostname(), "facet.pid": str(os.getpid()), "facet.started": started(os.getpid())}


def started(pid: int) -> str:
    """When a process began, '' when it is no more: a process number alone comes round again."""
    try:
        return str(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return ""


def reap(delivery: Delivery, experiment: str) -> list[str]:
    """Mark the RUNNING runs of dead processes of this machine FAILED; returns their ids."""
    found = delivery.client.get_experiment_by_name(experiment)
    if found is None:
        return []
    query = f"attributes.status = 'RUNNING' and tags.`facet.host` = '{socket.gethostname()}'"
    dead = []
    for run in delivery.client.search_runs([found.experiment_id], query):
        tags = run.data.tags
        if started(int(tags["facet.pid"])) != tags["facet.started"]:
            reason = "the process died without a word: killed, or out of memory"
            delivery.client.set_tag(run.info.run_id, "failure_reason", reason)
            delivery.client.set_terminated(run.info.run_id, status="FAILED")
            dead.append(run.info.run_id)
    return dead
