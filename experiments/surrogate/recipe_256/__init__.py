"""The recipe for images of 256 pixels."""
