"""The laboratory: generated camera, link emulator, demo."""
