"""`hydra/launcher=slurm`. Hydra takes launchers from the package hydra_plugins only, so this one is here."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn, JobStatus


class SlurmLauncher(BasicLauncher):
    """Jobs are gone through as Hydra's own launcher does, but each is only submitted; then all are waited for."""

    def __init__(self, **keys: Any) -> None:
        # `conf/hydra/launcher/slurm.yaml`, read where a job is submitted.
        super().__init__()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        # Hydra imports this file whatever it is to do.
        from lightning_modules.runtime import sweep

        try:
            returns = super().launch(job_overrides, initial_job_idx)
        finally:
            sweep.cluster.wait()
        for ended in returns:
            if ended.status == JobStatus.COMPLETED and isinstance(ended.return_value, sweep.Job):
                ended.return_value = ended.return_value.objective
        return returns
