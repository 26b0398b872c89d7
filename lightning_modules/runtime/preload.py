"""What nearly every job imports, imported once for all jobs of a sweep (`forks`). Nothing else happens here."""

import gc

from lightning_modules.runtime import lean, quiet

lean.prepare()
# Garbage collection would write to what jobs share with this process, and copy it.
gc.disable()
quiet.hush()

import matplotlib.backends.backend_agg  # noqa: E402, F401
import mlflow.store.tracking.sqlalchemy_store  # noqa: E402, F401
import pytorch_lightning  # noqa: E402, F401
import sqlalchemy.dialects.sqlite  # noqa: E402, F401
import transformers.modeling_utils  # noqa: E402, F401

import lightning_modules.runtime.run  # noqa: E402, F401

gc.freeze()
