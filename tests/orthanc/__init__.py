"""The plugin in real Orthancs, on loopback."""
