"""The surrogate (GLANCE): why does the classifier decide so?"""
