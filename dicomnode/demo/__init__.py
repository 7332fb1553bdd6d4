"""The main job on one machine.

A real series, a low-dose scan of it, node and PACS on loopback, and a picture.
"""

from dicomnode.demo.run import add_arguments
from dicomnode.demo.run import run as run_demo

__all__ = ["add_arguments", "run_demo"]
