"""What all pages share: colors and overlays, bars, numbers as readers write them, and templates."""
