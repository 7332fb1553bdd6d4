"""The node over HTTP: what stands where, and what shall be fetched or started again. For archives."""
