"""Rao, Böhle and Schiele's evaluation of attribution methods, on other networks and images."""
