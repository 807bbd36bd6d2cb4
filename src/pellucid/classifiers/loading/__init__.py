"""Classifiers by name: pellucid's own, EfficientNet-Lite, torchvision's, timm's, or a factory."""
