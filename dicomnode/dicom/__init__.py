"""DICOM data sets: reading a CT series and its dose, writing the derived series and its report.

No sockets and no torch here.
"""

from pydicom import config

# pydicom's warnings about values that other software wrote quote those values, names included. They are
# judged here (`values.py`), not printed.
config.settings.reading_validation_mode = config.IGNORE
