"""dicomnode: low-dose CT in over DICOM, an enhanced series back in the PACS."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("ldct-dicomnode")
except PackageNotFoundError:  # run from a source tree that was not installed
    __version__ = "0+uninstalled"
