"""The command line: `dicomnode serve --config node.yaml`, and what is needed around it."""

import argparse
import importlib
import io
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dicomnode import __version__
from dicomnode.errors import DicomnodeError, JobError, NetworkError, SettingsError, SpoolError
from dicomnode.settings import Destination, Settings, load_settings

if TYPE_CHECKING:
    from dicomnode.journey.job import Job

INTERRUPTED: Final = 130
"""The exit status of a command that was ended by SIGINT, as shells have it."""
DEFAULT_CONFIG: Final = Path("configs/node.yaml")
ELSEWHERE: Final = {
    "demo": ("dicomnode.demo", "run_demo", "see the whole journey on this machine, with a PACS of its own"),
    "inspect": (
        "dicomnode.inspection",
        "run",
        "say of DICOM folders what the node would make of them, and why",
    ),
    "train": ("dicomnode.learning.train", "run", "train a model"),
    "bench": ("dicomnode.learning.bench", "run", "measure how fast this machine works"),
    "evaluate": ("dicomnode.appraisal", "run", "measure a model"),
}
"""Commands that bring their own arguments: module, function, help. Imported only when they are called."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status: 0 done, 1 an error that is told, 2 wrong usage, 130."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):  # headers hold characters that a terminal may not know
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        parsed = _parser(given[0] if given else "").parse_args(given)
        command: Callable[[argparse.Namespace], int] = parsed.command
        status = command(parsed)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read the answer has read enough; nothing is to be flushed at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (DicomnodeError, OSError) as error:
        print(f"dicomnode: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dicomnode: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser(called: str) -> argparse.ArgumentParser:
    """The parser; of the commands that live elsewhere only the called one gets its arguments."""
    parser = argparse.ArgumentParser(prog="dicomnode", description="Low-dose CT in, an enhanced series back.")
    parser.add_argument("--version", action="version", version=f"dicomnode {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int], told: str) -> argparse.ArgumentParser:
        its = commands.add_parser(name, help=told, description=told)
        its.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="default: %(default)s")
        its.set_defaults(command=command)
        return its

    add("serve", serve, "run the node until SIGTERM or SIGINT")
    add("check", check, "check a configuration, its model and its spool, and say what it means")
    add("status", status, "list the jobs of a node, running or not").add_argument(
        "--all", action="store_true", help="also the jobs that are done"
    )
    again = add("retry", retry, "start failed, refused, held or undelivered jobs again")
    again.add_argument("job", nargs="*", help="job id, as `dicomnode status` shows it")
    again.add_argument("--undelivered", action="store_true", help="every job of that state")
    again.set_defaults(wrong=again.error)
    add("echo", echo, "ask destinations whether they are there (C-ECHO)").add_argument(
        "destination", nargs="*", help="name in the configuration; every one if none is given"
    )
    sender = add("send", send, "send DICOM files, or folders of them, to a destination")
    sender.add_argument("destination", help="name in the configuration")
    sender.add_argument("path", nargs="+", type=Path, help="Part 10 files, or folders of them")
    stating = add("conformance", conformance, "write the DICOM conformance statement of a configuration")
    stating.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")
    stating.add_argument("--format", choices=["markdown", "html"], default="markdown")
    for name, (module, function, told) in ELSEWHERE.items():
        its = commands.add_parser(name, help=told, description=told)
        if name == called:
            home = importlib.import_module(module)
            home.add_arguments(its)
            its.set_defaults(command=getattr(home, function))
    return parser


# --- the commands ---------------------------------------------------------------------------------


def serve(arguments: argparse.Namespace) -> int:
    """Run the node. The process ends without waiting for a thread that hangs on a peer."""
    settings = load_settings(arguments.config)
    _log_to_stderr(settings.node.log_level)
    from dicomnode.node import Node

    status = Node(settings).run()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)


def check(arguments: argparse.Namespace) -> int:
    """Try the configuration, the spool, and the model on its device; what is wrong is told by its key."""
    settings = load_settings(arguments.config)
    free_bytes = _try_spool(settings.node.spool)
    from dicomnode.engines.catalog import load_engine
    from dicomnode.engines.enhance import try_out

    asked = settings.engine
    engine = load_engine(asked.models_folder, asked.model, asked.device, asked.threads)
    if settings.uncertainty_seeds:
        from dicomnode.engines.uncertainty import drawing

        drawing(engine)
    for line in _explained(settings):
        print(line)
    if free_bytes < settings.node.reserve_bytes:
        free_gib = free_bytes / 2**30
        print(f"warning      only {free_gib:.1f} GiB are free, less than the reserve: images will be refused")
    try_out(engine)
    print(f"model        {engine.card.id} {engine.card.version}, weights {engine.weights_digest[:12]}")
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Print one line a job, oldest first, and how much was put aside."""
    from dicomnode.journey.job import read_jobs

    spool = _spool_that_is_there(load_settings(arguments.config))
    jobs = read_jobs(spool)
    shown = [job for job in jobs if arguments.all or job.status not in ("done", "ignored", "superseded")]
    for job in shown:
        print(_line(job))
    print(f"{len(shown)} of {len(jobs)} jobs" + ("" if arguments.all else "; --all shows the done ones too"))
    aside = sum(1 for _ in (spool / "quarantine").glob("*.dcm"))
    if aside:
        print(f"{aside} instances put aside, other than held under their UID: {spool / 'quarantine'}")
    return 0


def retry(arguments: argparse.Namespace) -> int:
    """Leave requests for the node of this spool; exit status 1 when a job cannot start again.

    They are taken up at once, or when the node starts.
    """
    from dicomnode.journey.job import read_jobs, request_retry

    if not arguments.job and not arguments.undelivered:
        arguments.wrong("name a job (`dicomnode status` lists them), or say --undelivered")
    spool = _spool_that_is_there(load_settings(arguments.config))
    lost = [job.job_id for job in read_jobs(spool) if job.status == "undelivered"]
    chosen = dict.fromkeys((*arguments.job, *(lost if arguments.undelivered else [])))
    refused = 0
    for job_id in chosen:
        try:
            request_retry(spool, job_id)
            print(f"{job_id}: the node starts it again")
        except JobError as error:
            refused += 1
            print(f"dicomnode: {error}", file=sys.stderr)
    if not chosen:
        print("no job is undelivered")
    return 1 if refused else 0


def echo(arguments: argparse.Namespace) -> int:
    """C-ECHO to each destination; exit status 1 when one does not answer."""
    from dicomnode.network.send import echo as ask

    settings = load_settings(arguments.config)
    silent = 0
    for destination in _destinations(settings, arguments.destination):
        try:
            seconds = ask(destination, settings.node.ae_title)
            print(f"{destination.name}: answers in {1000 * seconds:.0f} ms")
        except NetworkError as error:
            silent += 1
            print(f"{destination.name}: {error}")
    return 1 if silent else 0


def send(arguments: argparse.Namespace) -> int:
    """C-STORE files as they are; exit status 1 when one was refused."""
    from dicomnode.network.send import send_files

    settings = load_settings(arguments.config)
    (destination,) = _destinations(settings, [arguments.destination])
    delivery = send_files(list(_files(arguments.path)), destination, settings.node.ae_title)
    print(f"{destination.name}: {len(delivery.sent)} stored in {delivery.seconds:.1f} s")
    for uid, answer in delivery.refused:
        print(f"refused with status {answer:04X}: {uid}")
    return 1 if delivery.refused else 0


def conformance(arguments: argparse.Namespace) -> int:
    """Write the conformance statement; nothing is opened or asked, the node may run or not."""
    from dicomnode.conformance import statement

    text = statement(load_settings(arguments.config), arguments.format)
    if arguments.output is None:
        print(text, end="")
    else:
        arguments.output.write_text(text, encoding="utf-8")
    return 0


# --- the spool, from beside -------------------------------------------------------------------------


def _spool_that_is_there(settings: Settings) -> Path:
    spool = settings.node.spool
    if not spool.is_dir():
        raise SpoolError(f"node.spool: {spool} does not exist; `dicomnode serve` makes it, or is it another?")
    return spool


def _try_spool(root: Path) -> int:
    """Bytes free where the spool is or will be. Raises SpoolError when it cannot be made or written.

    Leaves nothing behind: a folder that an administrator's check made would not belong to the node.
    """
    made: list[Path] = []
    try:
        made += [folder for folder in (root, *root.parents) if not folder.exists()]
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as probe:
            probe.write(b"dicomnode check")
            os.fsync(probe.fileno())
        return shutil.disk_usage(root).free
    except OSError as error:
        told = f"cannot be made or written ({error.strerror}): name another folder or let this user write it"
        raise SpoolError(f"node.spool: {root} {told}") from error
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


# --- what they print --------------------------------------------------------------------------------


def _explained(settings: Settings) -> Iterable[str]:
    node, engine = settings.node, settings.engine
    yield f"listens      as {node.ae_title} on {node.host}:{node.port}"
    for caller in settings.callers:
        yield f"caller       {caller.ae_title} from {caller.host or 'any host'}"
    for peer in settings.destinations:
        extras = [
            told
            for asked, told in (
                (peer.report, "report"),
                (peer.removed_map, "map of what was removed"),
                (peer.uncertainty_map, f"map of the spread over {engine.uncertainty_seeds} seeds"),
                (peer.key_objects, "key objects"),
            )
            if asked
        ]
        told = ", ".join(["images", *extras])
        told += f", of what {' or '.join(peer.callers)} sent" if peer.callers else ""
        yield f"destination  {peer.name}: {peer.ae_title} at {peer.host}:{peer.port} ({told})"
    if settings.web.port is not None:
        asked = "with a token" if settings.web.token else "without a token"
        yield f"http         {settings.web.host}:{settings.web.port}, {asked}"
    for source in settings.web_sources:
        yield f"web source   {source.name}: {source.kind} at {source.url}, counts as {source.ae_title}"
    if settings.web_sources and settings.web.port is None:
        yield "warning      web_sources without web.port: nobody can ask for a series"
    yield f"spool        {node.spool}, can be written, {node.reserve_gib:g} GiB stay free"
    yield f"device       {engine.device}"
    if not settings.callers:
        yield "warning      no callers: every association will be rejected"
    if not settings.destinations:
        yield "warning      no destinations: results stay in the spool"


def _line(job: "Job") -> str:
    where = f"{job.station or '-'}"
    if job.total:
        where += f" {job.part or ''} {job.done}/{job.total}"
    peers = ", ".join(f"{peer.name} {peer.state} {peer.sent}/{peer.total}" for peer in job.destinations)
    revision = f"revision {job.generation}" if job.generation else ""
    told = " ".join(part for part in (revision, job.rule, job.reason, job.dose_remark) if part)
    return f"{job.job_id}  {job.status:<11} {where:<28} {job.instances:>4} images  {peers}  {told}".rstrip()


def _destinations(settings: Settings, names: Sequence[str]) -> list[Destination]:
    known = {peer.name: peer for peer in settings.destinations}
    for name in names:
        if name not in known:
            there = ", ".join(known) or "none"
            raise SettingsError(f"destinations: there is no '{name}', the configuration has: {there}")
    return [known[name] for name in names] if names else list(known.values())


def _files(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.is_file())
        else:
            yield path


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)-8s %(name)s: %(message)s")
    # Their debug lines hold identifiers of patients and peers' data sets.
    for name in ("pydicom", "pynetdicom", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
