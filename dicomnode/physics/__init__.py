"""Photons, projections and noise: tensors in, tensors out, no DICOM."""
