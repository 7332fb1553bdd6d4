"""`dicomnode evaluate`: pairs, or a model against everything else."""

import argparse

from dicomnode.appraisal import model, pairs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dicomnode evaluate`."""
    what = parser.add_subparsers(dest="what", required=True)
    for name, home, told in (
        ("pairs", pairs, "low-dose against full-dose DICOM, matched by position"),
        ("model", model, "one table and its figures: simulated doses, real pairs, every method"),
    ):
        its = what.add_parser(name, help=told, description=told)
        home.add_arguments(its)
        its.set_defaults(evaluate=home.run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate what was asked for."""
    status: int = arguments.evaluate(arguments)
    return status
