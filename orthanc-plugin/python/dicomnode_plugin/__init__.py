"""What the plugin does, without Orthanc: only `dicomnode_orthanc.py` beside this folder imports `orthanc`.

Standard library only, Python 3.8 or later. It imports nothing of the node: the two meet over DICOM and HTTP.
"""
