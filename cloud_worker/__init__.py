"""The worker: finishes what an agent ships; serves the edge and the cloud tier alike."""
