"""`main.py look=RUN[,RUN]`: the page of finished runs, made again from what is kept of them, side by side if several.

A run is named by its id in MLflow or by its folder, and so is a sweep. `look.text=false` keeps every word of the data out
of the page; `look.text=FILE` shows that text too.
"""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_modules.common import credentials
from lightning_modules.common.digests import digest
from lightning_modules.common.say import say
from lightning_modules.look import page
from lightning_modules.look.finished import Finished
from lightning_modules.runtime import errors, foreign, known, logged_model, naming, quiet, records, sweep_look, trust
from lightning_modules.runtime.replay import get_run

# Bytes of a file's name that every file system takes, less what may be put behind it.
LONGEST = 200


def look(cfg: DictConfig) -> int:
    """Write the page of `cfg.look.runs` and say where it lies; the exit code.

    Raises RefusedError where no page can be drawn, for a run that is not known or not finished, and runs of several systems.
    """
    quiet.hush()
    own = Path(cfg.look.own).expanduser() if cfg.look.own else None
    with errors.nothing_made_yet():
        page.insist()
        found = [_found(str(name), cfg, own=own) for name in cfg.look.runs]
        # One after the other: each may hold a model.
        pages = [made(run) if isinstance(run, Finished) else run for run in found]
        names = [run.name if isinstance(run, Finished) else run["runs"][0]["name"] for run in found]
        kinds = {each["kind"]: name for each, name in zip(pages, names, strict=True)}
        if len(kinds) > 1:
            told = ", ".join(f"{name} shows {kind}" for kind, name in kinds.items())
            raise ValueError(f"look shows runs of one kind side by side; these are of several ({told}).")
    data = {"runs": [{**one, "name": name} for each, name in zip(pages, names, strict=True) for one in each["runs"]]}
    path = Path(cfg.paths.runs) / "look" / folder_of(list(map(str, cfg.look.runs))) / page.LOOK
    page.write(path, kind=pages[0]["kind"], title=pages[0]["title"], data=data, cache=Path(cfg.paths.cache))
    print(f"{path}: opens in any browser, without a network.", file=sys.stderr)
    # One without text would take the place of the run's own, which may not come again.
    if len(found) == 1 and not own and cfg.look.text and not Path(str(cfg.look.runs[0])).is_dir():
        credentials.client(cfg.logger.tracking_uri).log_artifact(str(cfg.look.runs[0]), str(path))
    return 0


def _found(name: str, cfg: DictConfig, *, own: Path | None) -> Finished | dict[str, Any]:
    """A finished run, or the whole page of a sweep: it is drawn from numbers alone."""
    folder = Path(name).expanduser()
    if (folder / records.JOBS).is_file():
        one = sweep_look.of_folder(folder, text=cfg.look.text)
    elif known.is_id(name) and not folder.is_dir():
        client = credentials.client(cfg.logger.tracking_uri)
        run = get_run(client, name, key="look")
        if run.data.tags.get("sweep") != "parent":
            return finished(name, here=cfg, text=cfg.look.text, own=own)
        one = sweep_look.of_run(client, run, text=cfg.look.text)
    else:
        return finished(name, here=cfg, text=cfg.look.text, own=own)
    if own:
        raise ValueError(f"look={name} is a sweep, which reads no text; look.text=FILE needs one of its runs.")
    return {"kind": sweep_look.KIND, "title": sweep_look.TITLE, "runs": [one]}


def finished(name: str, *, here: DictConfig, text: bool, own: Path | None) -> Finished:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _of_folder(folder, text=text, own=own)
    if wrong := known.not_looked_at(here.logger.tracking_uri, name):
        raise ValueError(wrong)
    client = credentials.client(here.logger.tracking_uri)
    run = get_run(client, name, key="look")
    if run.info.status != "FINISHED":
        raise ValueError(f"look={name}: the run is {run.info.status}; expected a finished one.")
    cfg = foreign.config_of(client, name, folder=Path(here.paths.runs) / "look" / name, here=here)

    def artifact(wanted: str) -> Path:
        from mlflow.exceptions import MlflowException

        try:
            if wanted == "export" and logged_model.outputs(run):
                return logged_model.download(client, name)
            return Path(client.download_artifacts(name, wanted))
        except (MlflowException, OSError):
            raise ValueError(f"look={name}: the run kept no {wanted}, from which its page would be made.") from None

    may_show = _may_show(run.info.run_name, cfg, text)
    return Finished(run.info.run_name, cfg, foreign.metrics_of(run), artifact, may_show, own)


def _of_folder(folder: Path, *, text: bool, own: Path | None) -> Finished:
    result = records.result(folder)
    if result is None:
        raise ValueError(f"look={folder}: the run is not finished (it has no {records.RESULT}).")
    kept = OmegaConf.load(folder / ".hydra" / "config.yaml")
    kept.paths.run = str(folder)
    plain = foreign.moved(OmegaConf.to_container(kept, resolve=True))
    if found := trust.refusals(plain):
        raise ValueError(" ".join(found))
    cfg = OmegaConf.create(plain)

    def artifact(wanted: str) -> Path:
        if not (folder / wanted).exists():
            raise ValueError(f"look={folder}: the run kept no {wanted}, from which its page would be made.")
        return folder / wanted

    typed = folder / ".hydra" / "overrides.yaml"
    name = naming.run_name(OmegaConf.load(typed), cfg.seed) if typed.is_file() and "seed" in cfg else folder.name
    return Finished(name, cfg, result["metrics"], artifact, _may_show(name, cfg, text), own)


def _may_show(name: str, cfg: DictConfig, wanted: bool) -> bool:
    """Whether text of the run's data may stand on its page: who made the run may have kept it off for good."""
    if (kept_off := not sweep_look.shows_text(cfg)) and wanted:
        say(f"{name} was made with look.text=false: no text of its data stands on this page either.")
    return wanted and not kept_off


def made(run: Finished) -> dict[str, Any]:
    """kind, title and runs of its page: made again where the room of its module has a way to, else as the run made it.

    The room is that of the study or the module; the config has passed `trust`.
    """
    target = str(run.cfg.study["_target_"] if run.cfg.get("study") else run.cfg.module["_target_"])
    room = ".".join(target.split(".")[:2])
    try:
        maker = importlib.import_module(f"{room}.look")
    except ModuleNotFoundError as error:
        if error.name != f"{room}.look":
            raise
        raise ValueError(f"{run.name}: runs of {room} have no page to look at.") from None
    if hasattr(maker, "page"):
        return {"kind": maker.KIND, "title": maker.TITLE, "runs": [maker.page(run)]}
    if earlier := run.earlier():
        if run.own:
            raise ValueError(f"{run.name}: look.text={run.own} works with runs of moe alone; expected true or false.")
        return earlier if run.text else {**earlier, "runs": [maker.without_text(one) for one in earlier["runs"]]}
    raise ValueError(
        f"{run.name} made no page. Trainings of mixtures and of S-VCO and the studies of routing, of skill neurons, of "
        "transfer and of S-VCO's objectives make one; such a run of before does so when its command is given again with "
        "fresh=true."
    )


def folder_of(names: list[str]) -> str:
    """Name of the folder of a page: those of its runs, as far as a file system takes them."""
    whole = "-".join(re.sub(r"[^\w.=-]+", "_", Path(name).name)[:40] for name in names)
    return whole if len(whole.encode()) <= LONGEST else f"{len(names)}-runs-{digest(names)}"
