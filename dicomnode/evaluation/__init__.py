"""Figures of image quality: numbers in, numbers out; no tag, no model, no setting."""
