"""`dicomnode evaluate`: pairs, a model against everything else, or its network passes."""

import argparse

from dicomnode.appraisal import model, pairs, passes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dicomnode evaluate`."""
    what = parser.add_subparsers(dest="what", required=True)
    for name, home, told in (
        ("pairs", pairs, "low-dose against full-dose DICOM, matched by position"),
        ("model", model, "one table and its figures: simulated doses, real pairs, every method"),
        ("passes", passes, "few network passes of each stage against all: likeness, texture, time"),
    ):
        its = what.add_parser(name, help=told, description=told)
        home.add_arguments(its)
        its.set_defaults(evaluate=home.run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate what was asked for."""
    status: int = arguments.evaluate(arguments)
    return status
