"""How good a model is: simulated doses and real pairs, beside other methods, in one table."""

from dicomnode.appraisal.command import add_arguments, run

__all__ = ["add_arguments", "run"]
