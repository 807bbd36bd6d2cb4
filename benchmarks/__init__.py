"""Speed, as ratios against rivals measured in one interleaved run."""
