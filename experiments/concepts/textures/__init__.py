"""Do textures come out as one would expect, on real classifiers?"""
