"""The version of the package: read here by the build, and by modules that must not import all of pellucid."""

__version__ = "0.1.0"
