"""Engines: tensors and photons in, better tensors out. No DICOM, no settings."""
